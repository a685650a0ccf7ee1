//! The files of a full volume that are to be flushed, one after the other.

use std::sync::Arc;
use std::vec;

use crate::fs::group_commit::Waiter;
use crate::fs::node::Node;
use crate::fs::node_cache::NodeCache;
use crate::fs::root::Root;

/// The files, and the calls that wait for them.
pub(super) struct Chain {
    pub(super) root: Arc<Root>,
    /// `None`: it has not begun.
    files: Option<vec::IntoIter<Arc<Node>>>,
    /// The callers that are notified at its end.
    pub(super) waiting: Vec<Waiter>,
}

impl Chain {
    pub(super) const fn of(root: Arc<Root>) -> Self {
        Self { root, files: None, waiting: Vec::new() }
    }

    /// Returns the next file for which room is held.
    pub(super) fn next(&mut self, nodes: &NodeCache) -> Option<Arc<Node>> {
        let Self { root, files, waiting } = self;
        let files = files.get_or_insert_with(|| {
            // Before the files are collected: they are those of all callers until now.
            *waiting = root.room.begin().1;
            let is_held_for = |node: &Node| node.root.id == root.id && node.charge.delayed() > 0;
            nodes.select(is_held_for).into_iter()
        });
        files.find(|file| file.charge.delayed() > 0)
    }
}
