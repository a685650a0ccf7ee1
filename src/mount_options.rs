//! Mount options of the Linux NFS client (nfs(5), mount(8)): those that a PersistentVolume needs,
//! and those that cannot work with this server. Pure.
//!
//! Unknown options are passed on, because clients get new ones. An option is refused only if no
//! version of the client can mount with it: a node would retry forever, and the event of the pod
//! would not say which option is the cause.

use std::net::IpAddr;

use thiserror::Error;

/// Options whose value must be a number.
const NUMBERS: [&str; 15] = [
    "port",
    "mountport",
    "timeo",
    "retrans",
    "retry",
    "rsize",
    "wsize",
    "bsize",
    "acregmin",
    "acregmax",
    "acdirmin",
    "acdirmax",
    "actimeo",
    "nconnect",
    "namlen",
];

/// A mount option that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("mount option {option:?} cannot work: {why}")]
pub struct Unusable {
    /// The option.
    pub option: String,
    /// The reason.
    pub why: Why,
}

/// Why an option cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Why {
    /// Another version of NFS.
    #[error("Berth supports NFSv3 only; leave it out")]
    Version,
    /// Another version of MOUNT.
    #[error("NFSv3 needs version 3 of MOUNT; leave it out")]
    MountVersion,
    /// Another transport.
    #[error("Berth serves NFS over TCP only; leave it out")]
    Transport,
    /// Another transport for MOUNT.
    #[error("MOUNT is served over TCP and UDP; leave it out")]
    MountTransport,
    /// The transport of the other address family.
    #[error("the server's address {0} is of the other address family; leave it out")]
    Family(IpAddr),
    /// A security flavor.
    #[error("Berth supports sec=sys only; leave it out")]
    Security,
    /// RPC over TLS.
    #[error("Berth does not support RPC over TLS; leave it out")]
    Tls,
    /// Locks of the server.
    #[error("Berth has no lock manager; use nolock, with which each client keeps its own locks")]
    Lock,
    /// An option of NFSv4.
    #[error("it needs NFSv4, and Berth supports NFSv3 only; leave it out")]
    Newer,
    /// A mount in the background.
    #[error("pods would write to the node's own disk until the mount succeeds; leave it out")]
    Background,
    /// A space or control character.
    #[error("the client does not accept spaces and control characters; remove them")]
    Space,
    /// A value that is not a number.
    #[error("its value is not a number; correct it")]
    Number,
}

/// Checks that mount options can work.
///
/// # Errors
/// The first option with which no client can mount.
pub fn check(given: &[String]) -> Result<(), Unusable> {
    first(given, |option| {
        let blank = |c: char| c.is_whitespace() || c.is_control();
        if option.contains(blank) { Some(Why::Space) } else { fault(option) }
    })
}

/// Checks that the transports in mount options have the address family of `server`. A host name is
/// not checked: it may have addresses of both families.
///
/// # Errors
/// The first option of the other family.
pub fn check_family(given: &[String], server: &str) -> Result<(), Unusable> {
    let Ok(address) = server.parse::<IpAddr>() else { return Ok(()) };
    first(given, |option| {
        let netid = match option.split_once('=') {
            Some(("proto" | "mountproto", netid)) => netid,
            None if option == "tcp" => option,
            _ => return None,
        };
        (netid.ends_with('6') != address.is_ipv6()).then_some(Why::Family(address))
    })
}

/// Returns the given options, followed by the defaults that they do not set: those with which a
/// mount works on any node, and `nosuid` and `nodev`. `server` is a name or an address without
/// brackets, `port` the port of NFS and MOUNT.
pub fn complete(given: &[String], server: &str, port: u16) -> Vec<String> {
    // Clients need a transport of the family of the address.
    let proto = if server.contains(':') { "tcp6" } else { "tcp" };
    let ours: [(String, &[&str]); 9] = [
        ("nfsvers=3".into(), &["nfsvers", "vers", "v3"]),
        (format!("proto={proto}"), &["proto", "tcp"]),
        (format!("port={port}"), &["port"]),
        (format!("mountport={port}"), &["mountport"]),
        (format!("mountproto={proto}"), &["mountproto"]),
        // Also with local_lock=all: without nolock, mount.nfs needs a running rpc.statd.
        ("nolock".into(), &["nolock", "local_lock=flock", "local_lock=posix"]),
        ("hard".into(), &["hard", "soft", "softerr"]),
        // Users control the files of a volume: no node should obey their set-id bits and devices.
        ("nosuid".into(), &["nosuid", "suid"]),
        ("nodev".into(), &["nodev", "dev"]),
    ];
    let is = |option: &str, word: &&str| option == *word || key(option) == *word;
    let sets = |words: &[&str]| options(given).any(|option| words.iter().any(|w| is(option, w)));
    let missing = ours.into_iter().filter(|(_, words)| !sets(words)).map(|(option, _)| option);
    given.iter().cloned().chain(missing).collect()
}

/// Why one option cannot work; `None` if it may.
fn fault(option: &str) -> Option<Why> {
    let (key, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
    let not = |words: &[&str], why| value.is_some_and(|v| !words.contains(&v)).then_some(why);
    match key {
        "nfsvers" | "vers" => not(&["3"], Why::Version),
        "v2" | "v4" | "v4.0" | "v4.1" | "v4.2" | "minorversion" => Some(Why::Version),
        "mountvers" => not(&["3"], Why::MountVersion),
        "udp" | "rdma" => Some(Why::Transport),
        "proto" => not(&["tcp", "tcp6"], Why::Transport),
        "mountproto" => not(&["tcp", "tcp6", "udp", "udp6"], Why::MountTransport),
        "sec" => {
            value.filter(|flavors| flavors.split(':').all(|f| f != "sys")).map(|_| Why::Security)
        }
        "xprtsec" => not(&["none"], Why::Tls),
        "lock" => Some(Why::Lock),
        "local_lock" => (value == Some("none")).then_some(Why::Lock),
        "migration" => Some(Why::Newer),
        "bg" => Some(Why::Background),
        _ if NUMBERS.contains(&key) => {
            value.filter(|v| v.parse::<u32>().is_err()).map(|_| Why::Number)
        }
        _ => None,
    }
}

fn first(given: &[String], fault: impl Fn(&str) -> Option<Why>) -> Result<(), Unusable> {
    let unusable =
        |option: &str| fault(option).map(|why| Unusable { option: option.to_owned(), why });
    options(given).find_map(unusable).map_or(Ok(()), Err)
}

/// The single options: an entry may contain several, with commas between them.
fn options(given: &[String]) -> impl Iterator<Item = &str> {
    given.iter().flat_map(|entry| entry.split(','))
}

fn key(option: &str) -> &str {
    option.split_once('=').map_or(option, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(given: &[&str]) -> Vec<String> {
        given.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_missing_options_are_added() {
        let check = |given: &[&str], server: &str, expected: &[&str]| {
            assert_eq!(complete(&own(given), server, 2049), expected);
        };
        let all = [
            "nfsvers=3",
            "proto=tcp",
            "port=2049",
            "mountport=2049",
            "mountproto=tcp",
            "nolock",
            "hard",
            "nosuid",
            "nodev",
        ];
        check(&[], "10.0.0.1", &all);
        let given =
            ["vers=3,tcp,port=1,dev", "mountport=2,mountproto=udp", "nolock,softerr", "suid"];
        check(&given, "a", &given);
        let without = |words: &[&str]| {
            let rest = all.iter().filter(|option| !words.contains(*option));
            rest.copied().collect::<Vec<_>>()
        };
        let with = |given: &str, rest: Vec<&str>| {
            check(&[given], "a", &[vec![given], rest].concat());
        };
        with("suid", without(&["nosuid"]));
        with("nosuid", without(&["nosuid"]));
        with("dev", without(&["nodev"]));
        with("nodev", without(&["nodev"]));
        with("local_lock=all", all.to_vec());
        with("local_lock=flock", without(&["nolock"]));
        let six = complete(&[], "fd00::1", 2049);
        assert!(six.contains(&"proto=tcp6".into()) && six.contains(&"mountproto=tcp6".into()));
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let check = |options: &[&str], why: Option<Why>| {
            for option in options {
                let found = check(&own(&["hard,noatime", option]));
                let expected = why.map(|why| Unusable { option: (*option).to_owned(), why });
                assert_eq!(found.err(), expected, "{option}");
            }
        };
        check(&["nfsvers=3", "vers=3", "v3", "mountvers=3"], None);
        let versions =
            ["nfsvers=4", "nfsvers=4.1", "vers=2", "vers=", "v4.2", "v2", "minorversion=1"];
        check(&versions, Some(Why::Version));
        check(&["mountvers=2", "mountvers=1"], Some(Why::MountVersion));
        check(&["tcp", "proto=tcp", "proto=tcp6"], None);
        let transports = ["udp", "rdma", "proto=udp", "proto=udp6", "proto=rdma", "proto=TCP"];
        check(&transports, Some(Why::Transport));
        check(&["mountproto=udp", "mountproto=tcp6"], None);
        check(&["mountproto=rdma"], Some(Why::MountTransport));
        check(&["sec=sys", "sec=krb5:sys"], None);
        let flavors = ["sec=krb5", "sec=krb5i", "sec=krb5p", "sec=none", "sec=krb5p:krb5i", "sec="];
        check(&flavors, Some(Why::Security));
        check(&["xprtsec=none"], None);
        check(&["xprtsec=tls", "xprtsec=mtls"], Some(Why::Tls));
        check(&["nolock", "local_lock=all", "local_lock=flock"], None);
        check(&["lock", "local_lock=none"], Some(Why::Lock));
        check(&["migration"], Some(Why::Newer));
        check(&["bg"], Some(Why::Background));
        let spaces = ["nfsvers = 3", " hard", "hard ", "timeo= 5", "a\tb", "a\nb", "a\u{7f}"];
        check(&spaces, Some(Why::Space));
        check(&["port=0", "timeo=600", "nconnect=8"], None);
        check(&["port=nfs", "port=", "rsize=1M", "retrans=-1"], Some(Why::Number));
        check(&["", "rw", "ro", "suid", "noresvport", "x-later=1", "later"], None);
    }

    #[test]
    fn transports_must_have_the_address_family_of_the_server() {
        let check = |option: &str, server: &str, fits: bool| {
            assert_eq!(check_family(&own(&["hard", option]), server).is_ok(), fits, "{option}");
        };
        check("proto=tcp", "10.0.0.1", true);
        check("proto=tcp6", "10.0.0.1", false);
        check("mountproto=udp6", "10.0.0.1", false);
        check("tcp", "10.0.0.1", true);
        check("proto=tcp6", "fd00::1", true);
        check("proto=tcp", "fd00::1", false);
        check("tcp", "fd00::1", false);
        check("proto=tcp6", "nas.example.org", true);
    }

    #[test]
    fn the_message_says_what_to_do() {
        let error = check(&own(&["nfsvers = 4"])).unwrap_err().to_string();
        assert_eq!(
            error,
            "mount option \"nfsvers = 4\" cannot work: the client does not accept spaces and \
             control characters; remove them"
        );
    }
}
