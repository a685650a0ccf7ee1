//! Files that lose a name, and their end if it was the last one.

use std::ffi::CString;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::errno::Result;
use crate::fs::Fs;
use crate::fs::attr::{Attr, FileKind};
use crate::fs::error::Error;
use crate::fs::guard::Guard;
use crate::fs::node::Node;
use crate::quota::Change;
use crate::sched::Patience;
use crate::sys;

/// A file that loses a name.
pub(in crate::fs) struct Unlinked<'a> {
    attr: Attr,
    node: Option<Arc<Node>>,
    _link: Option<MutexGuard<'a, ()>>,
}

impl Unlinked<'_> {
    /// The inode number.
    pub(in crate::fs) const fn fileid(&self) -> u64 {
        self.attr.fileid
    }
}

impl Fs {
    /// Examines and locks the file that `name` is in `dir`, before that name is removed. `None` if
    /// the file cannot be examined: then its name cannot be removed either.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if another of its names is being added or removed.
    pub(in crate::fs) fn begin_unlink(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        guard: &Guard<'_>,
    ) -> Result<Option<Unlinked<'_>>, Error> {
        let Ok(path) = CString::new(name) else { return Ok(None) };
        let Ok(mut attr) = Attr::of_entry(&**dir, &path) else { return Ok(None) };
        let mut link = None;
        if dir.account().is_some() {
            link = Some(self.lock_links(attr.fileid, guard.patience)?);
            // Again: it may have gained or lost a name just now.
            let Ok(now) = Attr::of_entry(&**dir, &path) else { return Ok(None) };
            attr = now;
        }
        let kernel = || sys::handle::of_entry(&**dir, &path);
        let handle = self.handle_in(dir, name, &attr, kernel);
        let node = handle.ok().and_then(|handle| self.nodes.get(&handle));
        Ok(Some(Unlinked { attr, node, _link: link }))
    }

    /// Releases a file that has lost a name, if that was the last one. Its space is freed at once,
    /// or later if it becomes an orphan.
    pub(in crate::fs) fn release(&self, dir: &Node, unlinked: Option<Unlinked<'_>>) {
        let Some(Unlinked { attr, node, .. }) = &unlinked else { return };
        let ended = attr.kind == FileKind::Directory || attr.links <= 1;
        if ended && node.as_ref().is_some_and(|node| self.keep_orphan(node)) {
            return;
        }
        if let Some(account) = dir.account()
            && ended
        {
            let cost = node.as_ref().map_or_else(|| attr.cost(), |node| node.charge.end());
            if let Some(node) = node {
                node.give_back_delayed(i64::MAX);
            }
            account.book(attr.fileid, Change::Removed(cost));
        }
        if let Some(node) = node
            && node.attr().is_err()
        {
            self.nodes.remove(node.handle());
        }
    }

    /// Locks the names of a file: no other call adds or removes one.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if another call has the lock.
    pub(in crate::fs) fn lock_links(
        &self,
        fileid: u64,
        patience: Patience,
    ) -> Result<MutexGuard<'_, ()>, Error> {
        self.links.lock(self.locks.index(fileid), patience)
    }
}
