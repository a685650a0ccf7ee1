//! The lists for `showmount`: who has mounted what (DUMP, RFC 1813 §5.2.2), and what is exported to
//! whom (EXPORT, §5.2.5).
//!
//! The list of mounts is informative only: clients that crash never say UMNT, and no right depends
//! on it. So it is kept in memory, is empty after a restart, and is bounded: each address has
//! [`MOUNTS_EACH`] entries at most, and when the list is full, the address that has most loses its oldest.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::export::{Export, Table, path};
use crate::telemetry::bounded::network;
use crate::xdr::Writer;

/// Mounts that are remembered, of paths of at most [`super::types::PATH_MAX`].
const MOUNTS_MAX: usize = 4096;

/// The same of one address, or of one network of IPv6: more than the volumes of a busy node.
const MOUNTS_EACH: usize = 512;

/// A directory, under the name by which a client mounted it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    client: IpAddr,
    path: Box<[u8]>,
    /// Whether the path is nobody's business but the client's: DUMP leaves it out, because many may
    /// share the client's address.
    hidden: bool,
}

/// The mounts, the latest last, each once.
#[derive(Debug, Default)]
pub struct Mounts(VecDeque<Entry>);

impl Mounts {
    /// `client` has mounted `path`.
    pub fn add(&mut self, client: IpAddr, path: &[u8], hidden: bool) {
        let Some(path) = normal(path) else { return };
        self.0.retain(|entry| entry.client != client || entry.path != path);
        if self.count(network(client)) >= MOUNTS_EACH {
            self.forget_oldest(network(client));
        } else if self.0.len() >= MOUNTS_MAX
            && let Some(greediest) = self.greediest()
        {
            self.forget_oldest(greediest);
        }
        self.0.push_back(Entry { client, path, hidden });
    }

    fn count(&self, address: IpAddr) -> usize {
        self.0.iter().filter(|entry| network(entry.client) == address).count()
    }

    fn greediest(&self) -> Option<IpAddr> {
        let mut counts = HashMap::<_, usize>::new();
        self.0.iter().for_each(|entry| *counts.entry(network(entry.client)).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address)
    }

    fn forget_oldest(&mut self, address: IpAddr) {
        let oldest = self.0.iter().position(|entry| network(entry.client) == address);
        oldest.and_then(|place| self.0.remove(place));
    }

    /// `client` has unmounted `path`.
    pub fn remove(&mut self, client: IpAddr, path: &[u8]) {
        let Some(path) = normal(path) else { return };
        self.0.retain(|entry| entry.client != client || entry.path != path);
    }

    /// `client` has nothing mounted.
    pub fn remove_all(&mut self, client: IpAddr) {
        self.0.retain(|entry| entry.client != client);
    }
}

impl Mounts {
    /// Whether `client` has mounted anything.
    pub fn has(&self, client: IpAddr) -> bool {
        self.0.iter().any(|entry| entry.client == client)
    }

    /// Who has mounted what. For administrators: clients see only their own mounts ([`dump`]).
    pub fn list(&self) -> Vec<(IpAddr, Vec<u8>)> {
        self.0.iter().map(|entry| (entry.client, entry.path.to_vec())).collect()
    }
}

/// The one form of a path; `None` if it is none of an export.
fn normal(path: &[u8]) -> Option<Box<[u8]>> {
    // libnfs asks for nothing where it means the root.
    let path = if path.is_empty() { b"/" } else { path };
    path::normalise(path).ok().map(Vec::into_boxed_slice)
}

/// DUMP: the mounts of the client that asks. The paths of others are none of its business: where
/// an export is open to all, whoever knows its path has all of it.
pub fn dump(mounts: &Mounts, client: IpAddr, w: &mut Writer<'_>) {
    for entry in mounts.0.iter().filter(|entry| entry.client == client && !entry.hidden) {
        w.bool(true);
        w.opaque(entry.client.to_string().as_bytes());
        w.opaque(&entry.path);
    }
    w.bool(false);
}

/// EXPORT: the exports that `client` may mount, each with those entries of its list of clients
/// that include it, without those whose paths are secret. The port of the call does not matter: showmount(8) asks from any.
pub fn export(table: &Table, client: IpAddr, w: &mut Writer<'_>) {
    let listed = |export: &&Arc<Export>| !export.hidden && export.names(client).next().is_some();
    for export in table.iter().filter(listed) {
        w.bool(true);
        w.opaque(&export.path);
        for client in export.names(client) {
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

    fn listed(mounts: &Mounts, client: IpAddr) -> Vec<String> {
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
    fn the_oldest_is_forgotten() {
        let mut mounts = Mounts::default();
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
    fn who_has_many_mounts_does_not_push_out_others() {
        let mut mounts = Mounts::default();
        mounts.add(ip(100), b"/other", false);
        let fill = |mounts: &mut Mounts, client: IpAddr| {
            (0..=MOUNTS_EACH).for_each(|n| mounts.add(client, format!("/{n}").as_bytes(), false));
        };
        fill(&mut mounts, ip(1));
        assert_eq!(mounts.list().len(), MOUNTS_EACH + 1);
        (2..10).for_each(|last| fill(&mut mounts, ip(last)));
        assert_eq!(mounts.list().len(), MOUNTS_MAX);
        assert_eq!(listed(&mounts, ip(100)), ["10.0.0.100:/other"]);
    }

    #[test]
    fn a_path_is_one_however_it_is_written() {
        let mut mounts = Mounts::default();
        ["/a/b", "//a/./b/", "/a//b"].iter().for_each(|p| mounts.add(ip(1), p.as_bytes(), false));
        mounts.add(ip(1), b"", false);
        assert_eq!(listed(&mounts, ip(1)), ["10.0.0.1:/a/b", "10.0.0.1:/"]);
        mounts.remove(ip(1), b"/a/b//");
        assert_eq!(listed(&mounts, ip(1)), ["10.0.0.1:/"]);
    }

    #[test]
    fn what_is_secret_is_in_no_list() {
        let mut mounts = Mounts::default();
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
            (shown.shown().to_string(), hidden.shown().to_string()),
            ("/".into(), "/a/".into())
        );
        let table = Table::new([shown, hidden]).unwrap();
        let mut out = Vec::new();
        export(&table, ip(1), &mut Writer::new(&mut out));
        assert!(!out.windows(6).any(|part| part == b"secret"), "{}", out.escape_ascii());
    }

    /// What a client says: mounted, unmounted, all unmounted.
    #[derive(Clone, Copy, Debug)]
    enum Said {
        Mnt(u8, u8),
        Umnt(u8, u8),
        UmntAll(u8),
    }

    fn said() -> impl Strategy<Value = Said> {
        let client_and_path = || (0u8..3, 0u8..4);
        prop_oneof![
            4 => client_and_path().prop_map(|(client, path)| Said::Mnt(client, path)),
            2 => client_and_path().prop_map(|(client, path)| Said::Umnt(client, path)),
            1 => (0u8..3).prop_map(Said::UmntAll),
        ]
    }

    proptest! {
        #[test]
        fn each_mount_is_listed_once_until_it_is_undone(
            said in prop::collection::vec(said(), 0..40),
        ) {
            let mut mounts = Mounts::default();
            let mut model = std::collections::BTreeSet::new();
            for said in said {
                match said {
                    Said::Mnt(client, path) => {
                        mounts.add(ip(client), &[b'/', b'a' + path], false);
                        model.insert((client, path));
                    }
                    Said::Umnt(client, path) => {
                        mounts.remove(ip(client), &[b'/', b'a' + path]);
                        model.remove(&(client, path));
                    }
                    Said::UmntAll(client) => {
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
