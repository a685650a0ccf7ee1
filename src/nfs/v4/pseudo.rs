//! The pseudo file system: the directories that lead from the root to the exports (RFC 8881 section
//! 7.3).
//!
//! ```text
//!   /            a directory, or an export
//!   /data        an export
//!   /vol         a directory
//!   /vol/a       an export
//!   /vol/a/sub   an export inside another one: a client crosses into it by its name
//! ```
//!
//! A tree is built from one table of exports and does not change. A client sees a directory if it
//! may mount an export below it, and an export if it may mount that. The secret last component of a
//! hidden export is not listed, but is found by a client that knows it.
//!
//! A directory is identified by a hash of its path. Its number therefore survives a restart, and
//! serves as inode number, as the cookie of its entry, and as what its handle holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::export::{Export, ExportTable};

/// The number of a directory of the pseudo file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PseudoId(u64);

/// The directories that lead to the exports of one table.
#[derive(Debug)]
pub struct PseudoTree {
    nodes: HashMap<PseudoId, PseudoNode>,
}

/// A directory, or the root of an export.
#[derive(Debug)]
pub struct PseudoNode {
    /// Its number.
    pub id: PseudoId,
    /// The directory above; the root is its own.
    pub parent: PseudoId,
    /// Its path: empty for the root, otherwise a slash before each component.
    path: Box<[u8]>,
    /// The export with this path, if there is one.
    pub export: Option<Arc<Export>>,
    /// The entries, by their numbers.
    children: Vec<PseudoId>,
}

impl PseudoId {
    /// The number of the root.
    pub const ROOT: Self = Self(1);

    /// Cookies 0 to 2 have a meaning in READDIR (RFC 8881 section 18.23.3), and the root has 1.
    const RESERVED: u64 = 16;

    /// Returns the number that was encoded.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Returns it as a number: inode number, cookie, and content of the handle.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    fn of(path: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(path);
        // Linux takes cookies for signed numbers.
        Self((hasher.finish() >> 1).max(Self::RESERVED))
    }
}

impl PseudoNode {
    /// Returns the last component of its path; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

impl PseudoTree {
    /// Builds the tree of a table.
    pub fn new(table: &ExportTable) -> Self {
        let root = PseudoNode {
            id: PseudoId::ROOT,
            parent: PseudoId::ROOT,
            path: Box::default(),
            export: None,
            children: Vec::new(),
        };
        let mut tree = Self { nodes: HashMap::from([(PseudoId::ROOT, root)]) };
        for export in table.iter() {
            let id = tree.add_path(&export.path);
            if let Some(node) = tree.nodes.get_mut(&id) {
                node.export = Some(Arc::clone(export));
            }
        }
        for node in tree.nodes.values_mut() {
            node.children.sort_unstable();
        }
        tree
    }

    /// Adds the directories of a normalised path. Returns the last one.
    fn add_path(&mut self, path: &[u8]) -> PseudoId {
        let (mut parent, mut end) = (PseudoId::ROOT, 0);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            end += 1 + name.len();
            parent = self.add_directory(parent, &path[..end]);
        }
        parent
    }

    /// Adds a directory below another one, unless it is there.
    fn add_directory(&mut self, parent: PseudoId, path: &[u8]) -> PseudoId {
        let id = PseudoId::of(path);
        if let Entry::Vacant(entry) = self.nodes.entry(id) {
            let (path, children) = (path.into(), Vec::new());
            entry.insert(PseudoNode { id, parent, path, export: None, children });
            if let Some(above) = self.nodes.get_mut(&parent) {
                above.children.push(id);
            }
        }
        id
    }

    /// Returns the directory or export root with this number, if the client at `peer` may see it.
    pub fn get(&self, id: PseudoId, peer: SocketAddr) -> Option<&PseudoNode> {
        self.nodes.get(&id).filter(|node| id == PseudoId::ROOT || self.is_visible(node, peer))
    }

    /// Returns the root.
    pub fn root(&self) -> &PseudoNode {
        &self.nodes[&PseudoId::ROOT]
    }

    /// Returns the node of an export. `None` if it is not in the table.
    pub fn of_export(&self, export: &Export) -> Option<&PseudoNode> {
        let id = if export.path == b"/" { PseudoId::ROOT } else { PseudoId::of(&export.path) };
        self.nodes.get(&id)
    }

    /// Returns the entry `name` of a directory, if the client at `peer` may see it.
    pub fn child(&self, node: &PseudoNode, name: &[u8], peer: SocketAddr) -> Option<&PseudoNode> {
        let path = [&node.path, b"/".as_slice(), name].concat();
        let child = self.nodes.get(&PseudoId::of(&path))?;
        (*child.path == *path && self.is_visible(child, peer)).then_some(child)
    }

    /// Returns the entries of a directory that the client at `peer` may list, from behind the one
    /// with the number `after`.
    pub fn list(
        &self,
        node: &PseudoNode,
        after: PseudoId,
        peer: SocketAddr,
    ) -> impl Iterator<Item = &PseudoNode> {
        let first = node.children.partition_point(|child| *child <= after);
        let children = node.children[first..].iter().filter_map(|id| self.nodes.get(id));
        children.filter(move |child| self.is_listed(child, peer))
    }

    /// Whether there is an export at or below `node` that the client may mount.
    fn is_visible(&self, node: &PseudoNode, peer: SocketAddr) -> bool {
        self.leads_to(node, &|export| export.access(peer).is_ok())
    }

    /// As [`Self::is_visible`], without the exports whose last component is a secret.
    fn is_listed(&self, node: &PseudoNode, peer: SocketAddr) -> bool {
        let is_secret = node.export.as_ref().is_some_and(|export| export.hidden);
        !is_secret && self.is_visible(node, peer)
    }

    fn leads_to(&self, node: &PseudoNode, wanted: &impl Fn(&Export) -> bool) -> bool {
        // As deep as the longest path, which is short.
        node.export.as_deref().is_some_and(wanted)
            || node
                .children
                .iter()
                .any(|id| self.nodes.get(id).is_some_and(|child| self.leads_to(child, wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{ClientEntry, ClientPattern, ExportId, ExportOptions, Ports};

    const LISTED: &str = "10.0.0.1:700";
    const OTHER: &str = "10.0.0.2:700";

    fn export(id: u64, path: &str, clients: &[&str]) -> Export {
        let sole = Export::sole(ExportId(id), path.into(), Ports::Any);
        let entry = |address: &&str| ClientEntry {
            pattern: ClientPattern::Host {
                name: None,
                addresses: vec![address.parse().expect("an address")],
            },
            options: ExportOptions::default(),
        };
        let clients = match clients {
            [] => sole.clients,
            clients => clients.iter().map(entry).collect(),
        };
        Export { path: path.into(), clients, ..sole }
    }

    fn tree(exports: impl IntoIterator<Item = Export>) -> PseudoTree {
        PseudoTree::new(&ExportTable::new(exports).unwrap())
    }

    fn peer(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// The names in the directory `path`, as the client at `from` sees them.
    #[track_caller]
    fn check(tree: &PseudoTree, path: &str, from: &str, expected: &[&str]) {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        let walk = |node, name: &str| tree.child(node, name.as_bytes(), peer(from));
        let node = names.try_fold(tree.root(), walk);
        let node = node.unwrap_or_else(|| panic!("{path} is not visible"));
        let mut found: Vec<_> = tree
            .list(node, PseudoId::from_u64(0), peer(from))
            .map(|child| String::from_utf8_lossy(child.name()).into_owned())
            .collect();
        found.sort();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn directories_lead_to_exports() {
        let tree =
            tree([export(1, "/data", &[]), export(2, "/vol/a", &[]), export(3, "/vol/b", &[])]);
        check(&tree, "/", LISTED, &["data", "vol"]);
        check(&tree, "/vol", LISTED, &["a", "b"]);
        let vol = tree.child(tree.root(), b"vol", peer(LISTED)).unwrap();
        let a = tree.child(vol, b"a", peer(LISTED)).unwrap();
        assert_eq!(a.export.as_ref().unwrap().id, ExportId(2));
        assert_eq!((a.parent, vol.parent), (vol.id, PseudoId::ROOT));
        assert!(vol.export.is_none() && tree.child(vol, b"c", peer(LISTED)).is_none());
    }

    #[test]
    fn a_client_sees_what_leads_to_what_it_may_mount() {
        let tree = tree([
            export(1, "/all", &[]),
            export(2, "/vol/a", &["10.0.0.1"]),
            export(3, "/vol/b", &["10.0.0.2"]),
            export(4, "/deep/er/c", &["10.0.0.1"]),
        ]);
        check(&tree, "/", LISTED, &["all", "deep", "vol"]);
        check(&tree, "/", OTHER, &["all", "vol"]);
        check(&tree, "/vol", LISTED, &["a"]);
        check(&tree, "/vol", OTHER, &["b"]);
        let deep = tree.child(tree.root(), b"deep", peer(LISTED)).unwrap();
        assert!(tree.get(deep.id, peer(OTHER)).is_none());
        assert!(tree.child(tree.root(), b"deep", peer(OTHER)).is_none());
    }

    #[test]
    fn a_client_that_may_mount_nothing_sees_an_empty_root() {
        let tree = tree([export(1, "/data", &["10.0.0.2"])]);
        check(&tree, "/", LISTED, &[]);
        assert!(tree.get(PseudoId::ROOT, peer(LISTED)).is_some());
    }

    #[test]
    fn a_secret_component_is_found_and_not_listed() {
        let hidden = Export { hidden: true, ..export(1, "/vol/token", &[]) };
        let tree = tree([hidden]);
        check(&tree, "/", LISTED, &["vol"]);
        check(&tree, "/vol", LISTED, &[]);
        check(&tree, "/vol/token", LISTED, &[]);
    }

    #[test]
    fn exports_lie_inside_others() {
        let tree = tree([export(1, "/", &[]), export(2, "/a", &[]), export(3, "/a/b", &[])]);
        assert_eq!(tree.root().export.as_ref().unwrap().id, ExportId(1));
        let (a, root) = (tree.child(tree.root(), b"a", peer(LISTED)).unwrap(), tree.root());
        assert_eq!(tree.child(a, b"b", peer(LISTED)).unwrap().parent, a.id);
        assert_eq!(tree.of_export(a.export.as_ref().unwrap()).unwrap().id, a.id);
        assert_eq!(tree.of_export(root.export.as_ref().unwrap()).unwrap().id, PseudoId::ROOT);
    }

    #[test]
    fn a_list_goes_on_behind_any_entry() {
        let exports: Vec<_> = (0..100).map(|n| export(n, &format!("/v{n}"), &[])).collect();
        let tree = tree(exports);
        let from = peer(LISTED);
        let all: Vec<_> =
            tree.list(tree.root(), PseudoId::from_u64(0), from).map(|node| node.id).collect();
        assert_eq!(all.len(), 100);
        for (n, id) in all.iter().enumerate() {
            let rest: Vec<_> = tree.list(tree.root(), *id, from).map(|node| node.id).collect();
            assert_eq!(rest, all[n + 1..]);
        }
    }

    #[test]
    fn numbers_are_the_same_in_every_tree() {
        let (one, two) = (tree([export(1, "/vol/a", &[])]), tree([export(9, "/vol/b", &[])]));
        let id = |tree: &PseudoTree| tree.child(tree.root(), b"vol", peer(LISTED)).unwrap().id;
        assert_eq!(id(&one), id(&two));
        assert!(id(&one).to_u64() >= PseudoId::RESERVED);
        assert!(i64::try_from(id(&one).to_u64()).is_ok());
    }
}
