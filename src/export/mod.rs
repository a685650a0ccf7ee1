//! What is exported, to whom, with which squash.
//!
//! Here are the types, and what the data plane asks of them: [`Table`] finds an export by its id or
//! by the path that a client mounts (`table`), [`Export::access`] says what one client may do in
//! it, [`Options::squash`] whom a call acts as. All of it is pure, and `get`, `access` and `squash`
//! run on every call: they take no lock and allocate nothing. A table never changes; whoever adds
//! or removes an export makes a new one and swaps it in.
//!
//! The other files are the same things as text, in the words of exports(5) (nfs-utils 2.6.2):
//! `client` and `options` read and write one client and one list of options, `path` the path,
//! `words` cuts a file into words, `file` reads a whole one, `error` says what is wrong with it.

pub mod client;
pub mod error;
pub mod file;
pub mod options;
pub mod path;
pub mod table;
pub mod traffic;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use traffic::Traffic;

/// Ports below this one are privileged on every system that has an NFS client (`IPPORT_RESERVED`).
const UNPRIVILEGED: u16 = 1024;

/// No uid and no gid: chown(2) reads it as "leave it", setfsuid(2) as "tell me mine".
const NO_ID: u32 = u32::MAX;

/// An export's name in file handles: random, given once, kept for the export's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExportId(pub u64);

/// One exported directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// What its file handles carry.
    pub id: ExportId,
    /// As clients name it: absolute and in the form of [`path::normalise`].
    pub path: Vec<u8>,
    /// The directory on this machine.
    pub dir: PathBuf,
    /// Who may use it. Their order matters only between clients of the same kind.
    pub clients: Vec<Client>,
    /// What came through it.
    pub traffic: Traffic,
    /// Whether the last part of the path is a secret, so that no list and no line of the log has it.
    pub hidden: bool,
}

/// Some machines, and what they may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// The machines.
    pub who: Who,
    /// What they may do.
    pub options: Options,
}

/// A set of machines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Every machine (`*`).
    Anyone,
    /// One machine.
    Host {
        /// The name it was given by; without one it was given by its address.
        name: Option<String>,
        /// Its addresses; none of them IPv4-mapped IPv6.
        addresses: Vec<IpAddr>,
    },
    /// The machines of a network.
    Net(IpNet),
}

/// What a client may do in an export. The default is that of exports(5).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Whether it may change anything.
    pub mode: Mode,
    /// Which identities are replaced by the anonymous one.
    pub squash: Squash,
    /// The anonymous identity.
    pub anonymous: Anonymous,
    /// Which ports its calls may come from.
    pub ports: Ports,
    /// When its changes are answered.
    pub durability: Durability,
    /// Whether its files can have set-id bits.
    pub set_id: SetId,
    /// Whether it can make devices.
    pub devices: Devices,
}

/// Whether a client may change anything.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// `ro`: every change is refused.
    #[default]
    ReadOnly,
    /// `rw`
    ReadWrite,
}

/// Which identities are replaced by the anonymous one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Squash {
    /// `no_root_squash`: none.
    None,
    /// `root_squash`: uid 0, gid 0, and 0 among the supplementary groups.
    #[default]
    Root,
    /// `all_squash`: every one, and the supplementary groups are dropped.
    All,
}

/// Whom squashed callers act as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anonymous {
    /// `anonuid=`
    pub uid: u32,
    /// `anongid=`
    pub gid: u32,
}

/// Which ports calls may come from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Ports {
    /// `secure`: below 1024, which only root can bind on the client.
    #[default]
    Privileged,
    /// `insecure`: all.
    Any,
}

/// When changes are answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Durability {
    /// `sync`: once they are on the disk.
    #[default]
    Sync,
    /// `async`: at once.
    Async,
}

/// Whether files can have set-user-id and set-group-id bits. Those of directories, which only hand
/// their group down, are not meant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SetId {
    /// `suid`
    #[default]
    Kept,
    /// `nosuid`: they are neither set nor shown, so that no client honours them.
    Refused,
}

/// Whether block and character devices can be made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Devices {
    /// `dev`
    #[default]
    Made,
    /// `nodev`: they cannot, and those that are there are shown without their numbers, so that no client
    /// opens them.
    Refused,
}

/// Why a client may not use an export.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum Refused {
    /// It matches no client of the export.
    #[error("client is not listed for the export")]
    NotListed,
    /// It may use the export, but not from this port.
    #[error(
        "client calls from a port above 1023, which takes no root there; mount with resvport, export with \
         insecure, or start with --insecure"
    )]
    InsecurePort,
}

/// Whom a call acts as, after the squash.
#[derive(Clone, Copy, Debug)]
pub struct Squashed<'g> {
    /// The uid.
    pub uid: u32,
    /// The primary gid.
    pub gid: u32,
    groups: &'g [u32],
    options: Options,
}

/// The exports at one moment.
#[derive(Clone, Default, Debug)]
pub struct Table {
    exports: Vec<Arc<Export>>,
    by_id: HashMap<ExportId, Arc<Export>>,
    by_path: HashMap<Vec<u8>, Arc<Export>>,
}

impl Export {
    /// The one export of a server that was given a directory and no exports file: everything to
    /// everyone who calls from these ports, `/ *(rw,no_root_squash,sync)`.
    ///
    /// This is the choice for trying it out: such a server listens on loopback unless told otherwise,
    /// and whoever reaches it gets a directory that works as a local one would. Whoever listens on a
    /// network writes an exports file.
    pub fn sole(id: ExportId, dir: PathBuf, ports: Ports) -> Self {
        let options =
            Options { mode: Mode::ReadWrite, squash: Squash::None, ports, ..Options::default() };
        let clients = vec![Client { who: Who::Anyone, options }];
        Self { id, path: b"/".to_vec(), dir, clients, traffic: Traffic::default(), hidden: false }
    }

    /// The path for people, without what is secret of it.
    pub fn shown(&self) -> impl fmt::Display {
        let secret = if self.hidden { self.path.rsplit(|b| *b == b'/').next() } else { None };
        let public = self.path.len() - secret.map_or(0, <[u8]>::len);
        self.path[..public].escape_ascii()
    }

    /// Says what the client at `peer` may do here.
    ///
    /// When more than one client matches, a host comes before a network and a network before `*`,
    /// wherever they stand; among several of one kind the first one counts (exports(5)).
    pub fn access(&self, peer: SocketAddr) -> Result<Options, Refused> {
        // A socket that listens on IPv6 sees IPv4 clients at mapped addresses.
        let ip = peer.ip().to_canonical();
        let matching = self.clients.iter().filter(|client| client.who.contains(ip));
        let Some(Client { options, .. }) = matching.min_by_key(|client| client.who.rank()) else {
            return Err(Refused::NotListed);
        };
        match options.ports {
            Ports::Privileged if peer.port() >= UNPRIVILEGED => Err(Refused::InsecurePort),
            Ports::Privileged | Ports::Any => Ok(*options),
        }
    }

    /// All entries of the list of clients, in its order.
    pub fn clients(&self) -> impl ExactSizeIterator<Item = &Who> {
        self.clients.iter().map(|client| &client.who)
    }

    /// The entries of the list of clients that include `ip`, as MOUNT's EXPORT procedure shows them to
    /// it (`showmount -e`). None: it may not mount this export from any port.
    pub fn names(&self, ip: IpAddr) -> impl Iterator<Item = &Who> {
        self.clients().filter(move |who| who.contains(ip.to_canonical()))
    }
}

/// A line of exports(5) with every option in effect, on which a reader gets this export again.
impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        file::write_line(f, &self.path, &self.clients)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.who, self.options)
    }
}

impl Who {
    fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Host { addresses, .. } => addresses.contains(&ip),
            Self::Net(net) => net.contains(&ip),
        }
    }

    /// The smaller, the more does it count.
    fn rank(&self) -> u8 {
        match self {
            Self::Host { .. } => 0,
            Self::Net(_) => 1,
            Self::Anyone => 2,
        }
    }
}

impl Options {
    /// Says whom a call with these credentials acts as.
    ///
    /// An id of 2^32-1 becomes the anonymous one even with `no_root_squash`: given to setfsuid(2)
    /// it would leave the thread whoever it was before.
    pub fn squash<'g>(&self, uid: u32, gid: u32, groups: &'g [u32]) -> Squashed<'g> {
        Squashed {
            uid: self.replace(uid, self.anonymous.uid),
            gid: self.replace(gid, self.anonymous.gid),
            groups: if self.squash == Squash::All { &[] } else { groups },
            options: *self,
        }
    }

    fn replace(&self, id: u32, anonymous: u32) -> u32 {
        match (self.squash, id) {
            (Squash::All, _) | (Squash::Root, 0) | (_, NO_ID) => anonymous,
            (Squash::Root | Squash::None, _) => id,
        }
    }
}

impl Default for Anonymous {
    fn default() -> Self {
        Self { uid: 65534, gid: 65534 }
    }
}

impl Squashed<'_> {
    /// The supplementary groups.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = u32> {
        self.groups.iter().map(|&gid| self.options.replace(gid, self.options.anonymous.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(line: &str) -> Export {
        let entries = file::parse(line.as_bytes(), "exports", &mut |_| {
            Ok(vec!["10.0.0.9".parse().unwrap(), "2001:db8::9".parse().unwrap()])
        });
        entries.unwrap().remove(0).into_export(ExportId(1))
    }

    #[test]
    fn the_closest_kind_of_client_counts() {
        // Each client has another anonuid, which says who matched; 0 is nobody.
        let check = |clients: &str, peer: &str, expected: u32| {
            let peer = SocketAddr::new(peer.parse().unwrap(), 700);
            let found = export(&format!("/a -secure {clients}")).access(peer);
            let found = found.map(|options| options.anonymous.uid);
            let expected = if expected == 0 { Err(Refused::NotListed) } else { Ok(expected) };
            assert_eq!(found, expected, "{clients} {peer}");
        };
        let (any, net, host, name) =
            ("*(anonuid=1)", "10.0.0.0/8(anonuid=2)", "10.0.0.1(anonuid=3)", "pc9(anonuid=4)");
        check(any, "192.0.2.1", 1);
        check(any, "2001:db8::1", 1);
        check(net, "10.255.255.255", 2);
        check(net, "11.0.0.0", 0);
        check(net, "2001:db8::1", 0);
        check(net, "::ffff:10.0.0.1", 2);
        check(net, "::10.0.0.1", 0);
        check(host, "10.0.0.1", 3);
        check(host, "::ffff:10.0.0.1", 3);
        check(host, "10.0.0.2", 0);
        check(name, "10.0.0.9", 4);
        check(name, "2001:db8::9", 4);
        check(name, "10.0.0.1", 0);
        for order in [[any, net, host, name], [name, host, net, any], [net, any, name, host]] {
            let clients = order.join(" ");
            check(&clients, "10.0.0.1", 3);
            check(&clients, "10.0.0.9", 4);
            check(&clients, "10.0.0.2", 2);
            check(&clients, "192.0.2.1", 1);
        }
        // A network of one address is a network; of two networks the first one counts.
        check("10.0.0.9/32(anonuid=5) pc9(anonuid=4)", "10.0.0.9", 4);
        check("10.0.0.0/8(anonuid=2) 10.0.0.0/24(anonuid=5)", "10.0.0.1", 2);
        check("10.0.0.0/24(anonuid=5) 10.0.0.0/8(anonuid=2)", "10.0.0.1", 5);
        check("10.0.0.9(anonuid=5) pc9(anonuid=4)", "10.0.0.9", 5);
        check("::/0(anonuid=6)", "10.0.0.1", 0);
        check("::/0(anonuid=6)", "2001:db8::1", 6);
    }

    #[test]
    fn secure_wants_a_privileged_port() {
        let check = |clients: &str, port: u16, expected: Result<(), Refused>| {
            let peer = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
            assert_eq!(export(&format!("/a {clients}")).access(peer).map(|_| ()), expected);
        };
        check("*", 1, Ok(()));
        check("*", 1023, Ok(()));
        check("*", 1024, Err(Refused::InsecurePort));
        check("*(insecure)", 1024, Ok(()));
        check("*(insecure)", 65535, Ok(()));
        // The client that counts is chosen first: a laxer one does not help.
        check("*(insecure) 10.0.0.1", 1024, Err(Refused::InsecurePort));
        check("192.0.2.1", 1024, Err(Refused::NotListed));
    }

    #[test]
    fn squash_replaces_ids() {
        const ANON: (u32, u32) = (7, 8);
        let check = |squash, (uid, gid), groups: &[u32], expected: (u32, u32), kept: &[u32]| {
            let anonymous = Anonymous { uid: ANON.0, gid: ANON.1 };
            let options = Options { squash, anonymous, ..Options::default() };
            let found = options.squash(uid, gid, groups);
            assert_eq!((found.uid, found.gid), expected, "{squash:?} {uid} {gid}");
            assert_eq!(found.groups().collect::<Vec<_>>(), kept, "{squash:?} {groups:?}");
        };
        check(Squash::None, (0, 0), &[0, 5], (0, 0), &[0, 5]);
        check(Squash::None, (1, 2), &[], (1, 2), &[]);
        check(Squash::None, (NO_ID, NO_ID), &[NO_ID, 5], ANON, &[8, 5]);
        check(Squash::Root, (0, 0), &[0, 5, 0], ANON, &[8, 5, 8]);
        check(Squash::Root, (0, 2), &[2], (7, 2), &[2]);
        check(Squash::Root, (1, 0), &[1], (1, 8), &[1]);
        check(Squash::Root, (1, 2), &[3, 4], (1, 2), &[3, 4]);
        check(Squash::Root, (NO_ID, NO_ID), &[NO_ID], ANON, &[8]);
        check(Squash::All, (0, 0), &[0, 5], ANON, &[]);
        check(Squash::All, (1, 2), &[3, 4], ANON, &[]);
    }

    #[test]
    fn the_sole_export_is_open_to_everyone() {
        let export = Export::sole(ExportId(1), "/srv".into(), Ports::Any);
        let expected = "/ *(rw,sync,insecure,no_root_squash,anonuid=65534,anongid=65534)";
        assert_eq!(export.to_string(), expected);
        let secure = Export::sole(ExportId(1), "/srv".into(), Ports::Privileged);
        assert!(secure.access("127.0.0.1:50000".parse().unwrap()).is_err());
        assert_eq!(export.clients().map(ToString::to_string).collect::<Vec<_>>(), ["*"]);
        assert!(export.access("192.0.2.1:50000".parse().unwrap()).is_ok());
    }
}
