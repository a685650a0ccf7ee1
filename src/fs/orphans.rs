//! Orphans: files that lost their last name while a client read them, readable for some seconds.
//!
//! A file that is replaced by RENAME would be `ESTALE` at the next READ of a client that has it
//! open, where a local reader goes on. A file that was read within the last seconds therefore stays
//! open for as long again, for READ, and for GETATTR and ACCESS, which a client's READ needs. Its
//! attributes report no links, by which a client that opens it again knows that it is gone. For all
//! other calls it is gone at once.
//!
//! The volume pays for an orphan until it is closed. A change that needs the room gets it
//! ([`super::accounting::room`]), and the room is therefore shown as free. No orphans are kept
//! while a count is under way: the count may or may not have passed by their names.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Fs;
use super::attr::FileKind;
use super::node::Node;
use super::root::Root;
use crate::quota::Account;

/// The sweeps, one a second, for which an orphan is kept; also, how long ago its last READ may be.
const SWEEPS: u32 = 5;

/// Orphans that are kept. The oldest is closed first.
const MAX: usize = 128;

/// An open file without a name.
struct Orphan {
    node: Arc<Node>,
    /// The sweep at which it lost its name.
    since: u32,
    /// The bytes that were reported to its account.
    cost: i64,
}

/// The orphans, the oldest first.
#[derive(Default)]
pub(super) struct Orphans(Mutex<VecDeque<Orphan>>);

impl Orphans {
    fn files(&self) -> MutexGuard<'_, VecDeque<Orphan>> {
        self.0.lock()
    }
}

impl Fs {
    /// Keeps a file that lost its last name as an orphan, if it was just read. Returns whether it
    /// did; then its end is booked later.
    pub(super) fn keep_orphan(&self, node: &Arc<Node>) -> bool {
        let now = self.nodes.now();
        if node.kind != FileKind::Regular || !node.was_read(now, SWEEPS) {
            return false;
        }
        let mut files = self.orphans.files();
        // Under the lock: a count that begins closes the orphans (`Fs::close_orphans_of`).
        if node.account().is_some_and(Account::is_counting) {
            return false;
        }
        node.set_orphan(true);
        let cost = node.charge.cost();
        if let Some(account) = node.account() {
            account.linger(cost);
        }
        files.push_back(Orphan { node: Arc::clone(node), since: now, cost });
        let oldest = if files.len() > MAX { files.pop_front() } else { None };
        self.end(oldest.as_ref());
        drop(files);
        true
    }

    /// Closes the orphans whose time is over.
    pub(super) fn sweep_orphans(&self) {
        let now = self.nodes.now();
        self.close(|orphan| now.wrapping_sub(orphan.since) >= SWEEPS);
    }

    /// Closes the orphans of an export, and gives their room back.
    pub(super) fn close_orphans_of(&self, root: &Root) {
        self.close(|orphan| orphan.node.root.id == root.id);
    }

    /// Closes all orphans. Blocks.
    pub fn close_orphans(&self) {
        self.close(|_| true);
    }

    /// Closes the orphans for which `leaves` is true.
    fn close(&self, leaves: impl Fn(&Orphan) -> bool) {
        let mut files = self.orphans.files();
        let (left, kept): (VecDeque<_>, _) = files.drain(..).partition(leaves);
        *files = kept;
        self.end(&left);
        drop(files); // before `left`, whose files are closed now, which takes time
    }

    /// Books the end of orphans. Under their lock: a count that begins finds each of them as an
    /// orphan, or its end booked.
    fn end<'o>(&self, files: impl IntoIterator<Item = &'o Orphan>) {
        for Orphan { node, cost, .. } in files {
            node.set_orphan(false);
            self.nodes.remove(node.handle());
            if let Some(account) = node.account() {
                account.end_lingering(node.fileid, *cost, node.charge.end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use crate::export::ExportId;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::testing::Files;

    const EXPORT: ExportId = ExportId(1);

    fn served(dir: &std::path::Path) -> Fs {
        let fs = Fs::new(Key::new([1; KEY_LEN]), 4096, dir).unwrap();
        fs.attach(EXPORT, dir, None, None).unwrap();
        fs
    }

    #[test]
    fn what_was_just_read_is_readable_for_some_sweeps_and_then_gone() {
        let dir = tempfile::tempdir().unwrap();
        let fs = served(dir.path());
        let files = Files::of(&fs, EXPORT);
        let root = files.root();
        let (file, other) =
            (files.create(&root, "file").unwrap(), files.create(&root, "new").unwrap());
        files.write(&file, 0, 10).unwrap();
        assert_eq!(files.read(&file), Ok(10));
        files.rename((&root, "new"), (&root, "file")).unwrap();
        for _ in 1..SWEEPS {
            assert_eq!(files.read(&file), Ok(10));
            assert_eq!(files.write(&file, 0, 10), Err(Errno::STALE), "it can only be read");
            fs.sweep();
        }
        assert_eq!(file.attr_to_read().unwrap().links, 0);
        fs.sweep();
        assert_eq!(files.read(&file), Err(Errno::STALE));
        assert!(other.attr().is_ok());
        assert!(fs.nodes.peek(file.handle()).is_none());
    }

    #[test]
    fn what_was_not_read_of_late_is_gone_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fs = served(dir.path());
        let files = Files::of(&fs, EXPORT);
        let root = files.root();
        let (never, once) =
            (files.create(&root, "never").unwrap(), files.create(&root, "once").unwrap());
        files.read(&once).unwrap();
        for _ in 0..=SWEEPS {
            once.attr().unwrap();
            fs.sweep();
        }
        for (node, name) in [(&never, "never"), (&once, "once")] {
            files.remove(&root, name).unwrap();
            assert_eq!(node.attr_to_read().err(), Some(Errno::STALE), "{name}");
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let fs = served(dir.path());
        let files = Files::of(&fs, EXPORT);
        let root = files.root();
        let all: Vec<_> =
            (0..MAX + 3).map(|n| files.create(&root, &n.to_string()).unwrap()).collect();
        for (n, file) in all.iter().enumerate() {
            files.read(file).unwrap();
            files.remove(&root, &n.to_string()).unwrap();
        }
        let readable = all.iter().filter(|file| file.attr_to_read().is_ok()).count();
        assert_eq!(readable, MAX);
        assert!(all[2].attr_to_read().is_err() && all[3].attr_to_read().is_ok());
        fs.detach(EXPORT);
        assert!(
            all.iter().all(|file| file.attr_to_read().is_err()),
            "with the export, all are gone"
        );
    }
}
