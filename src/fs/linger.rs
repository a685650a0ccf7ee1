//! Files that lost their last name while a client read them: readable for some seconds more.
//!
//! A file that is replaced by RENAME would be `ESTALE` at the next READ of a client that has it
//! open, where a local reader goes on. So what was read within the last seconds stays open for as
//! long again, for READ, and for GETATTR and ACCESS, which a client's READ needs: they say that the
//! file has no links, by which a client that opens it anew knows that it is gone. For everything
//! else it is gone at once.
//!
//! The volume pays for the file until it is closed: the room comes back with that. Who needs the
//! room before gets it ([`Fs::hold`]), so that it is shown as free. Files of which a count is under
//! way do not linger, because the count could have passed by their names or not.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Fs;
use super::attr::Kind;
use super::node::Node;
use super::root::Root;
use crate::quota::Account;

/// For how many sweeps, which come once a second, a file lingers; and how long ago a READ may be
/// for it.
const SWEEPS: u32 = 5;

/// How many files may linger. The oldest goes first.
const MAX: usize = 128;

/// A file that lingers.
struct Gone {
    node: Arc<Node>,
    /// The sweep since when.
    since: u32,
    /// What its volume was told that it takes.
    cost: i64,
}

/// The files that linger, the oldest first.
#[derive(Default)]
pub(super) struct Lingering(Mutex<VecDeque<Gone>>);

impl Lingering {
    fn files(&self) -> MutexGuard<'_, VecDeque<Gone>> {
        self.0.lock()
    }

    /// Takes out those that `leaves` is true for.
    fn take(&self, leaves: impl Fn(&Gone) -> bool) -> VecDeque<Gone> {
        let mut files = self.files();
        let (left, kept) = files.drain(..).partition(leaves);
        *files = kept;
        left
    }
}

impl Fs {
    /// Keeps a file readable that lost its last name, if it was just read; answers whether it did,
    /// and its end is booked later.
    pub(super) fn linger(&self, node: &Arc<Node>) -> bool {
        let now = self.nodes.now();
        if node.kind != Kind::Regular || !node.was_read(now, SWEEPS) {
            return false;
        }
        let mut files = self.lingering.files();
        // Under the lock: a count that begins gives back what lingers (`Fs::give_back`).
        if node.account().is_some_and(Account::is_counting) {
            return false;
        }
        node.set_lingers(true);
        let cost = node.charge.cost();
        if let Some(account) = node.account() {
            account.linger(cost);
        }
        files.push_back(Gone { node: Arc::clone(node), since: now, cost });
        let oldest = if files.len() > MAX { files.pop_front() } else { None };
        drop(files);
        self.part(oldest);
        true
    }

    /// Closes the files that have lingered for long enough.
    pub(super) fn sweep_lingering(&self) {
        let now = self.nodes.now();
        self.part(self.lingering.take(|gone| now.wrapping_sub(gone.since) >= SWEEPS));
    }

    /// Closes all files of an export that linger, and gives their room back.
    pub(super) fn give_back(&self, root: &Root) {
        self.part(self.lingering.take(|gone| gone.node.root.id == root.id));
    }

    /// The same for all exports. Blocks.
    pub fn give_all_back(&self) {
        self.part(self.lingering.take(|_| true));
    }

    /// The end of files that lingered.
    fn part(&self, files: impl IntoIterator<Item = Gone>) {
        for Gone { node, cost, .. } in files {
            node.set_lingers(false);
            self.nodes.remove(node.handle());
            if let Some(account) = node.account() {
                account.end_lingering(node.fileid, cost, node.charge.end());
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
