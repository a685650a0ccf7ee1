//! Exports: which directories are exported, to which clients, with which squash.
//!
//! This file has the types and the operations of the data plane. [`ExportTable`] finds an export by
//! id or by mount path (`table`), [`Export::access`] returns the options of one client, and
//! [`ExportOptions::squash`] maps the ids of a call. All of it is pure. `get`, `access` and
//! `squash` run on every call: they take no lock and allocate nothing. A table is immutable; to add
//! or remove an export, build a new table and swap it in.
//!
//! The other files have the text form, in the syntax of exports(5) (nfs-utils 2.6.2): `client` and
//! `options` parse and write a client and a list of options, `path` a path; `words` splits a file
//! into words, `file` parses a whole file within `limits`, and `error` reports what is wrong with
//! it.

pub mod client;
pub mod error;
pub mod file;
mod limits;
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

/// Ports below this are privileged on every system that has an NFS client (`IPPORT_RESERVED`).
const UNPRIVILEGED: u16 = 1024;

/// Neither a uid nor a gid: chown(2) takes it as "do not change", setfsuid(2) as a query.
const NO_ID: u32 = u32::MAX;

/// The id of an export in file handles: random, assigned once, kept for the export's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExportId(pub u64);

/// One exported directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// The id that its file handles carry.
    pub id: ExportId,
    /// The path that clients mount, as [`path::normalise`] returns it.
    pub path: Vec<u8>,
    /// The exported directory on this machine.
    pub dir: PathBuf,
    /// The clients that may use it. Order matters only between clients of the same kind.
    pub clients: Vec<ClientEntry>,
    /// Counters of its calls and bytes.
    pub traffic: Traffic,
    /// Whether the last component of the path is a secret, which must not appear in lists or in the
    /// log.
    pub hidden: bool,
}

/// A set of hosts and their options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientEntry {
    /// The hosts.
    pub pattern: ClientPattern,
    /// Their options.
    pub options: ExportOptions,
}

/// Which hosts an entry of the client list matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientPattern {
    /// Every host (`*`).
    Anyone,
    /// One host.
    Host {
        /// Its name, or `None` if it is listed by address.
        name: Option<String>,
        /// Its addresses, none of them IPv4-mapped IPv6.
        addresses: Vec<IpAddr>,
    },
    /// The hosts of a network.
    Net(IpNet),
}

/// The options of a client of an export. The defaults are those of exports(5).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ExportOptions {
    /// Read-only or read-write.
    pub mode: ExportMode,
    /// Which ids are replaced by the anonymous ids.
    pub squash: Squash,
    /// The anonymous ids.
    pub anonymous: Anonymous,
    /// The source ports that are accepted.
    pub ports: Ports,
    /// When the reply to a change is sent.
    pub durability: Durability,
    /// Whether files may have set-user-id and set-group-id bits.
    pub set_id: SetId,
    /// Whether devices may be made.
    pub devices: Devices,
}

/// Whether a client may make changes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ExportMode {
    /// `ro`: every change fails with `NFS3ERR_ROFS`.
    #[default]
    ReadOnly,
    /// `rw`
    ReadWrite,
}

/// Which ids are replaced by the anonymous ids.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Squash {
    /// `no_root_squash`: none.
    None,
    /// `root_squash`: uid 0, gid 0, and group 0 among the supplementary groups.
    #[default]
    Root,
    /// `all_squash`: all ids, and the supplementary groups are dropped.
    All,
}

/// The ids of squashed callers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anonymous {
    /// `anonuid=`
    pub uid: u32,
    /// `anongid=`
    pub gid: u32,
}

/// Which source ports are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Ports {
    /// `secure`: below 1024, which only root can bind on the client.
    #[default]
    Privileged,
    /// `insecure`: every port.
    Any,
}

/// When the reply to a change is sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Durability {
    /// `sync`: after the change is on stable storage.
    #[default]
    Sync,
    /// `async`: as soon as the change is made.
    Async,
}

/// Whether files may have set-user-id and set-group-id bits. Directories are exempt: there the bits
/// only pass the group on to new entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SetId {
    /// `suid`
    #[default]
    Kept,
    /// `nosuid`: the bits are neither set nor shown, so clients do not honour them.
    Refused,
}

/// Whether block and character devices may be made and opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Devices {
    /// `dev`
    #[default]
    Made,
    /// `nodev`: MKNOD of a device fails, and existing devices are shown without their numbers, so
    /// clients cannot open them.
    Refused,
}

/// Why a client has no access to an export.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum AccessDenied {
    /// No entry of the client list matches it.
    #[error("client is not listed for the export; add it to the export's clients")]
    NotListed,
    /// It is listed, but its calls come from an unprivileged port.
    #[error(
        "client calls from a port above 1023, which the export does not accept; mount with \
         resvport, export with insecure, or start with --insecure"
    )]
    InsecurePort,
}

/// The ids that a call acts with, after the squash.
#[derive(Clone, Copy, Debug)]
pub struct Squashed<'g> {
    /// The uid.
    pub uid: u32,
    /// The primary gid.
    pub gid: u32,
    groups: &'g [u32],
    options: ExportOptions,
}

/// A snapshot of all exports.
#[derive(Clone, Default, Debug)]
pub struct ExportTable {
    exports: Vec<Arc<Export>>,
    by_id: HashMap<ExportId, Arc<Export>>,
    by_path: HashMap<Vec<u8>, Arc<Export>>,
}

impl Export {
    /// The only export of a server that was given a directory and no exports file: `dir` at `/`, to
    /// every client that calls from `ports`, with `rw,no_root_squash,sync`.
    ///
    /// It is meant for trying the server out: such a server listens on loopback by default, and its
    /// directory behaves as a local one. A server that listens on a network needs an exports file.
    pub fn sole(id: ExportId, dir: PathBuf, ports: Ports) -> Self {
        let options = ExportOptions {
            mode: ExportMode::ReadWrite,
            squash: Squash::None,
            ports,
            ..ExportOptions::default()
        };
        let clients = vec![ClientEntry { pattern: ClientPattern::Anyone, options }];
        Self { id, path: b"/".to_vec(), dir, clients, traffic: Traffic::default(), hidden: false }
    }

    /// The path for display, without its secret component.
    pub fn public_path(&self) -> impl fmt::Display {
        let secret = if self.hidden { self.path.rsplit(|b| *b == b'/').next() } else { None };
        let public = self.path.len() - secret.map_or(0, <[u8]>::len);
        self.path[..public].escape_ascii()
    }

    /// Returns the options of the client at `peer`.
    ///
    /// If several entries match, a host takes precedence over a network and a network over `*`,
    /// wherever they stand; among entries of one kind the first applies (exports(5)).
    ///
    /// # Errors
    /// No entry matches, or the entry that applies does not accept the port.
    pub fn access(&self, peer: SocketAddr) -> Result<ExportOptions, AccessDenied> {
        // A socket that listens on IPv6 sees IPv4 clients at mapped addresses.
        let ip = peer.ip().to_canonical();
        let matching = self.clients.iter().filter(|client| client.pattern.contains(ip));
        let Some(ClientEntry { options, .. }) = matching.min_by_key(|client| client.pattern.rank())
        else {
            return Err(AccessDenied::NotListed);
        };
        match options.ports {
            Ports::Privileged if peer.port() >= UNPRIVILEGED => Err(AccessDenied::InsecurePort),
            Ports::Privileged | Ports::Any => Ok(*options),
        }
    }

    /// All entries of the client list, in order.
    pub fn clients(&self) -> impl ExactSizeIterator<Item = &ClientPattern> {
        self.clients.iter().map(|client| &client.pattern)
    }

    /// The entries of the client list that match `ip`, as MOUNT's EXPORT procedure lists them
    /// (`showmount -e`). If there are none, the client has no access from any port.
    pub fn matching_clients(&self, ip: IpAddr) -> impl Iterator<Item = &ClientPattern> {
        self.clients().filter(move |pattern| pattern.contains(ip.to_canonical()))
    }
}

/// Writes the export as a line of exports(5) with every option in effect. Parsing the line yields
/// the same path and clients.
impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        file::write_line(f, &self.path, &self.clients)
    }
}

impl fmt::Display for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.pattern, self.options)
    }
}

impl ClientPattern {
    fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Host { addresses, .. } => addresses.contains(&ip),
            Self::Net(net) => net.contains(&ip),
        }
    }

    /// The precedence of the entry: the lowest rank applies.
    fn rank(&self) -> u8 {
        match self {
            Self::Host { .. } => 0,
            Self::Net(_) => 1,
            Self::Anyone => 2,
        }
    }
}

impl ExportOptions {
    /// Maps the ids of a call's credentials.
    ///
    /// An id of 2^32-1 becomes the anonymous id even with `no_root_squash`: setfsuid(2) ignores it
    /// and would leave the thread with the identity of an earlier call.
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
    fn a_host_precedes_a_network_and_a_network_the_wildcard() {
        // Each entry has its own anonuid, which tells which one applied; 0 stands for none.
        let check = |clients: &str, peer: &str, expected: u32| {
            let peer = SocketAddr::new(peer.parse().unwrap(), 700);
            let found = export(&format!("/a -secure {clients}")).access(peer);
            let found = found.map(|options| options.anonymous.uid);
            let expected = if expected == 0 { Err(AccessDenied::NotListed) } else { Ok(expected) };
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
        // A network of one address ranks as a network; of two networks the first applies.
        check("10.0.0.9/32(anonuid=5) pc9(anonuid=4)", "10.0.0.9", 4);
        check("10.0.0.0/8(anonuid=2) 10.0.0.0/24(anonuid=5)", "10.0.0.1", 2);
        check("10.0.0.0/24(anonuid=5) 10.0.0.0/8(anonuid=2)", "10.0.0.1", 5);
        check("10.0.0.9(anonuid=5) pc9(anonuid=4)", "10.0.0.9", 5);
        check("::/0(anonuid=6)", "10.0.0.1", 0);
        check("::/0(anonuid=6)", "2001:db8::1", 6);
    }

    #[test]
    fn secure_requires_a_privileged_port() {
        let check = |clients: &str, port: u16, expected: Result<(), AccessDenied>| {
            let peer = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
            assert_eq!(export(&format!("/a {clients}")).access(peer).map(|_| ()), expected);
        };
        check("*", 1, Ok(()));
        check("*", 1023, Ok(()));
        check("*", 1024, Err(AccessDenied::InsecurePort));
        check("*(insecure)", 1024, Ok(()));
        check("*(insecure)", 65535, Ok(()));
        // The entry is chosen before its port is checked: an entry with laxer ports does not apply.
        check("*(insecure) 10.0.0.1", 1024, Err(AccessDenied::InsecurePort));
        check("192.0.2.1", 1024, Err(AccessDenied::NotListed));
    }

    #[test]
    fn squash_replaces_ids_and_groups() {
        const ANON: (u32, u32) = (7, 8);
        let check = |squash, (uid, gid), groups: &[u32], expected: (u32, u32), kept: &[u32]| {
            let anonymous = Anonymous { uid: ANON.0, gid: ANON.1 };
            let options = ExportOptions { squash, anonymous, ..ExportOptions::default() };
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
    fn the_sole_export_is_open_to_every_client() {
        let export = Export::sole(ExportId(1), "/srv".into(), Ports::Any);
        let expected = "/ *(rw,sync,insecure,no_root_squash,anonuid=65534,anongid=65534)";
        assert_eq!(export.to_string(), expected);
        let secure = Export::sole(ExportId(1), "/srv".into(), Ports::Privileged);
        assert!(secure.access("127.0.0.1:50000".parse().unwrap()).is_err());
        assert_eq!(export.clients().map(ToString::to_string).collect::<Vec<_>>(), ["*"]);
        assert!(export.access("192.0.2.1:50000".parse().unwrap()).is_ok());
    }
}
