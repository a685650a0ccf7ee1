//! The lists for `showmount`: current mounts (DUMP, RFC 1813 §5.2.2), and exports with their
//! clients (EXPORT, §5.2.5).
//!
//! The list of mounts is informative: clients that crash never send UMNT, and no access depends on
//! it. It is kept in memory and is empty after a restart. It is bounded: each address has at most
//! [`MOUNTS_EACH`] entries, and when the list is full, the address with most entries loses its
//! oldest.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::export::{Export, ExportTable, path};
use crate::telemetry::bounded::network;
use crate::xdr::Writer;

/// Most entries of the list, with paths of at most [`super::types::PATH_MAX`] bytes.
const MOUNTS_MAX: usize = 4096;

/// Most entries of one IPv4 address or IPv6 network: more than the volumes of a busy node.
const MOUNTS_EACH: usize = 512;

/// A mounted directory, under the path that the client requested.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MountEntry {
    client: IpAddr,
    path: Box<[u8]>,
    /// Whether the path is secret. DUMP omits it, because clients may share an address.
    hidden: bool,
}

/// The mounts, oldest first, without duplicates.
#[derive(Debug, Default)]
pub struct MountList(VecDeque<MountEntry>);

impl MountList {
    /// Adds the mount of `path` by `client`. Repeating a mount makes it the latest.
    pub fn add(&mut self, client: IpAddr, path: &[u8], hidden: bool) {
        let Some(path) = normalise(path) else { return };
        self.0.retain(|entry| entry.client != client || entry.path != path);
        if self.count(network(client)) >= MOUNTS_EACH {
            self.remove_oldest(network(client));
        } else if self.0.len() >= MOUNTS_MAX
            && let Some(largest_client) = self.largest_client()
        {
            self.remove_oldest(largest_client);
        }
        self.0.push_back(MountEntry { client, path, hidden });
    }

    fn count(&self, address: IpAddr) -> usize {
        self.0.iter().filter(|entry| network(entry.client) == address).count()
    }

    fn largest_client(&self) -> Option<IpAddr> {
        let mut counts = HashMap::<_, usize>::new();
        self.0.iter().for_each(|entry| *counts.entry(network(entry.client)).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address)
    }

    fn remove_oldest(&mut self, address: IpAddr) {
        let oldest = self.0.iter().position(|entry| network(entry.client) == address);
        oldest.and_then(|index| self.0.remove(index));
    }

    /// Removes the mount of `path` by `client`, if it is listed.
    pub fn remove(&mut self, client: IpAddr, path: &[u8]) {
        let Some(path) = normalise(path) else { return };
        self.0.retain(|entry| entry.client != client || entry.path != path);
    }

    /// Removes all mounts of `client`.
    pub fn remove_all(&mut self, client: IpAddr) {
        self.0.retain(|entry| entry.client != client);
    }

    /// Whether `client` has a mount.
    pub fn has(&self, client: IpAddr) -> bool {
        self.0.iter().any(|entry| entry.client == client)
    }

    /// Returns all mounts, for administrators. Clients see only their own ([`dump`]).
    pub fn list(&self) -> Vec<(IpAddr, Vec<u8>)> {
        self.0.iter().map(|entry| (entry.client, entry.path.to_vec())).collect()
    }
}

/// Returns the normal form of a path, or `None` if it cannot be the path of an export.
fn normalise(path: &[u8]) -> Option<Box<[u8]>> {
    // libnfs sends an empty path for the root.
    let path = if path.is_empty() { b"/" } else { path };
    path::normalise(path).ok().map(Vec::into_boxed_slice)
}

/// DUMP: the mounts of the calling client. Other clients' paths are omitted, because the path of an
/// export that is open to all is enough to mount it.
pub fn dump(mounts: &MountList, client: IpAddr, w: &mut Writer<'_>) {
    for entry in mounts.0.iter().filter(|entry| entry.client == client && !entry.hidden) {
        w.bool(true);
        w.opaque(entry.client.to_string().as_bytes());
        w.opaque(&entry.path);
    }
    w.bool(false);
}

/// EXPORT: the exports that `client` may mount, each with the entries of its client list that
/// match. Exports with secret paths are omitted. The port of the call does not matter: showmount(8)
/// uses any.
pub fn export(table: &ExportTable, client: IpAddr, w: &mut Writer<'_>) {
    let listed =
        |export: &&Arc<Export>| !export.hidden && export.matching_clients(client).next().is_some();
    for export in table.iter().filter(listed) {
        w.bool(true);
        w.opaque(&export.path);
        for client in export.matching_clients(client) {
            w.bool(true);
            w.opaque(client.to_string().as_bytes());
        }
        w.bool(false);
    }
    w.bool(false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{ExportId, Ports};
    use crate::xdr::Reader;
    use proptest::prelude::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn listed(mounts: &MountList, client: IpAddr) -> Vec<String> {
        let mut out = Vec::new();
        dump(mounts, client, &mut Writer::new(&mut out));
        let mut r = Reader::new(&out);
        let mut list = Vec::new();
        while r.bool().unwrap() {
            let [client, path] = [(); 2].map(|()| r.opaque(1024).unwrap().escape_ascii());
            list.push(format!("{client}:{path}"));
        }
        assert!(r.rest().is_empty());
        list
    }

    #[test]
    fn the_oldest_mount_of_a_client_is_dropped() {
        let mut mounts = MountList::default();
        let path = |n: usize| format!("/{n}").into_bytes();
        (0..MOUNTS_EACH).for_each(|n| mounts.add(ip(1), &path(n), false));
        mounts.add(ip(1), &path(0), false); // is the latest now
        mounts.add(ip(1), &path(MOUNTS_EACH), false);
        let list = listed(&mounts, ip(1));
        assert_eq!(list.len(), MOUNTS_EACH);
        assert_eq!(list[0], "10.0.0.1:/2");
        assert_eq!(list[MOUNTS_EACH - 2..], ["10.0.0.1:/0", "10.0.0.1:/512"]);
    }

    #[test]
    fn many_mounts_of_a_client_do_not_displace_those_of_others() {
        let mut mounts = MountList::default();
        mounts.add(ip(100), b"/other", false);
        let fill = |mounts: &mut MountList, client: IpAddr| {
            (0..=MOUNTS_EACH).for_each(|n| mounts.add(client, format!("/{n}").as_bytes(), false));
        };
        fill(&mut mounts, ip(1));
        assert_eq!(mounts.list().len(), MOUNTS_EACH + 1);
        (2..10).for_each(|last| fill(&mut mounts, ip(last)));
        assert_eq!(mounts.list().len(), MOUNTS_MAX);
        assert_eq!(listed(&mounts, ip(100)), ["10.0.0.100:/other"]);
    }

    #[test]
    fn spellings_of_a_path_are_one_mount() {
        let mut mounts = MountList::default();
        ["/a/b", "//a/./b/", "/a//b"].iter().for_each(|p| mounts.add(ip(1), p.as_bytes(), false));
        mounts.add(ip(1), b"", false);
        assert_eq!(listed(&mounts, ip(1)), ["10.0.0.1:/a/b", "10.0.0.1:/"]);
        mounts.remove(ip(1), b"/a/b//");
        assert_eq!(listed(&mounts, ip(1)), ["10.0.0.1:/"]);
    }

    #[test]
    fn secret_paths_are_in_no_list() {
        let mut mounts = MountList::default();
        mounts.add(ip(1), b"/shown", false);
        mounts.add(ip(1), b"/a/secret", true);
        assert_eq!(listed(&mounts, ip(1)), ["10.0.0.1:/shown"]);
        assert_eq!(mounts.list().len(), 2, "administrators see both");
        mounts.remove(ip(1), b"/a/secret");
        assert_eq!(mounts.list().len(), 1);
        let shown = Export::sole(ExportId(1), "/x".into(), Ports::Any);
        let hidden =
            Export { id: ExportId(2), path: b"/a/secret".to_vec(), hidden: true, ..shown.clone() };
        assert_eq!(
            (shown.public_path().to_string(), hidden.public_path().to_string()),
            ("/".into(), "/a/".into())
        );
        let table = ExportTable::new([shown, hidden]).unwrap();
        let mut out = Vec::new();
        export(&table, ip(1), &mut Writer::new(&mut out));
        assert!(!out.windows(6).any(|part| part == b"secret"), "{}", out.escape_ascii());
    }

    /// A call of a client.
    #[derive(Clone, Copy, Debug)]
    enum Operation {
        Mnt(u8, u8),
        Umnt(u8, u8),
        UmntAll(u8),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let client_and_path = || (0u8..3, 0u8..4);
        prop_oneof![
            4 => client_and_path().prop_map(|(client, path)| Operation::Mnt(client, path)),
            2 => client_and_path().prop_map(|(client, path)| Operation::Umnt(client, path)),
            1 => (0u8..3).prop_map(Operation::UmntAll),
        ]
    }

    proptest! {
        #[test]
        fn each_mount_is_listed_once_until_it_is_removed(
            operations in prop::collection::vec(operation(), 0..40),
        ) {
            let mut mounts = MountList::default();
            let mut model = std::collections::BTreeSet::new();
            for operation in operations {
                match operation {
                    Operation::Mnt(client, path) => {
                        mounts.add(ip(client), &[b'/', b'a' + path], false);
                        model.insert((client, path));
                    }
                    Operation::Umnt(client, path) => {
                        mounts.remove(ip(client), &[b'/', b'a' + path]);
                        model.remove(&(client, path));
                    }
                    Operation::UmntAll(client) => {
                        mounts.remove_all(ip(client));
                        model.retain(|&(of, _)| of != client);
                    }
                }
            }
            let name = |(client, path)| format!("{}:/{}", ip(client), char::from(b'a' + path));
            for client in 0..3 {
                let own = model.iter().copied().filter(|(of, _)| *of == client);
                let expected: Vec<_> = own.map(name).collect();
                let mut list = listed(&mounts, ip(client));
                list.sort();
                prop_assert_eq!(list, expected);
            }
        }
    }
}
