//! Counting what a volume really uses, while it is in use.
//!
//! A walk over the tree reports each file with [`Account::see`]. Changes made meanwhile arrive
//! through [`Account::book`]: those of files that were already seen are added, and the others are
//! part of what the walk has yet to see. The sum is exact at the end, however long the walk took,
//! because:
//!
//! - A file is seen while the walk holds its locks.
//! - Before the end, the walk waits for every change in progress: a file that is created or removed
//!   shows that before the change is booked.
//! - A new file is booked and seen in one step ([`Change::CreatedAndSeen`]). In two steps, a file
//!   that is seen before the end of the count and booked after it would count twice. Where its
//!   creator cannot do that, the walk looks at the file before the end, like at a moved one.
//! - A file that is renamed or linked during the walk could be missed, or its directory could. It
//!   is remembered, and looked at before the end ([`Account::moved`], [`Account::next_moved`]).

use std::sync::atomic::Ordering;

use roaring::RoaringTreemap;

use super::{Account, Change, Delta, Usage};

/// Moved files that are remembered. A count with more of them has no result.
const MOVED_MAX: usize = 1 << 20;

/// A count in progress.
#[derive(Default)]
pub(super) struct UsageCount {
    /// The numbers of the files that were seen.
    seen: RoaringTreemap,
    sum: Delta,
    /// Files to look at again, in the encoding of the walk.
    moved: Vec<Vec<u8>>,
    /// Whether more files moved than are remembered.
    overflowed: bool,
}

/// The result of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What the volume uses.
    pub usage: Usage,
    /// The bytes that were found, minus the bytes that were assumed before.
    pub difference: i64,
}

impl UsageCount {
    pub(super) fn book(&mut self, fileid: u64, change: Change) {
        match change {
            Change::Resized(bytes) if self.seen.contains(fileid) => self.sum.bytes += bytes,
            // The walk has yet to see the file, or has seen it.
            Change::Resized(_) | Change::Created(_) => {}
            Change::CreatedAndSeen { now, .. } => self.add(fileid, now),
            // The number may be reused.
            Change::Removed(bytes) => {
                if self.seen.remove(fileid) {
                    self.sum.bytes -= bytes;
                    self.sum.inodes -= 1;
                }
            }
        }
    }

    fn add(&mut self, fileid: u64, bytes: i64) {
        if self.seen.insert(fileid) {
            self.sum.bytes += bytes;
            self.sum.inodes += 1;
        }
    }
}

impl Account {
    /// Begins a count. One that did not end is dropped.
    pub fn begin_count(&self) {
        *self.count() = Some(UsageCount::default());
        self.counting.store(true, Ordering::Release);
    }

    /// Whether a count is in progress: files that move must then be reported.
    pub fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Acquire)
    }

    /// Reports a file that the walk found, and its bytes. The caller holds the locks of the file. A
    /// file with several names counts once.
    pub fn see(&self, fileid: u64, bytes: i64) {
        if let Some(count) = &mut *self.count() {
            count.add(fileid, bytes);
        }
    }

    /// Reports that the file with this number has another name; `file` identifies it to the walk. A
    /// file that was seen cannot be missed any more and is not remembered, which lets the walk end
    /// however much is renamed.
    pub fn moved(&self, fileid: u64, file: &[u8]) {
        if let Some(count) = &mut *self.count() {
            if count.seen.contains(fileid) {
                return;
            }
            if count.moved.len() < MOVED_MAX {
                count.moved.push(file.to_vec());
            } else {
                count.overflowed = true;
            }
        }
    }

    /// Returns one of the files that moved and were not returned yet.
    pub fn next_moved(&self) -> Option<Vec<u8>> {
        self.count().as_mut()?.moved.pop()
    }

    /// Ends the count: the usage is exact from now on. The caller has waited, after its walk, for
    /// all changes that were in progress. Returns `None` if a file moved since
    /// [`Account::next_moved`] returned `None`; the walk must then go on.
    pub fn end_count(&self) -> Option<Counted> {
        let mut current = self.count();
        let count = current.take_if(|count| count.moved.is_empty())?;
        self.counting.store(false, Ordering::Release);
        let difference = self.bytes.correct(count.sum.bytes);
        self.inodes.correct(count.sum.inodes);
        self.exact.store(!count.overflowed, Ordering::Relaxed);
        self.count_wanted.store(count.overflowed, Ordering::Relaxed);
        drop(current);
        self.counted.notify_all();
        self.saves.request();
        Some(Counted { usage: self.usage(), difference })
    }

    /// Gives the count up: the usage remains as it was.
    pub fn abandon_count(&self) {
        let mut current = self.count();
        self.counting.store(false, Ordering::Release);
        *current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{account, room};
    use super::*;
    use crate::quota::InitialUsage;
    use crate::sched::Patience;

    fn unknown() -> Account {
        account(1000, None, InitialUsage::Unknown)
    }

    fn ended(account: &Account) -> (u64, u64) {
        account.end_count().unwrap();
        assert!(account.is_exact() && !account.wants_count());
        (account.usage().bytes, account.usage().inodes)
    }

    #[test]
    fn files_are_counted_once() {
        let account = unknown();
        account.begin_count();
        account.see(1, 10);
        account.see(2, 20);
        account.see(1, 10);
        assert_eq!(ended(&account), (30, 2));
        assert_eq!(account.left(), 970);
    }

    #[test]
    fn changes_count_where_the_walk_has_been() {
        let account = unknown();
        account.begin_count();
        account.see(1, 10);
        account.book(1, Change::Resized(5)); // seen: added
        account.book(2, Change::Resized(7)); // not seen: the walk finds it so
        account.see(2, 17);
        account.see(3, 3);
        account.book(3, Change::Created(3));
        account.see(3, 3); // the walk comes by a new file
        account.see(4, 4); // the walk was quicker
        account.see(4, 4);
        account.book(4, Change::Created(4));
        account.book(1, Change::Removed(15));
        account.book(9, Change::Removed(99)); // gone before the walk came
        account.see(1, 1); // another file with the number
        account.book(1, Change::Created(1));
        assert_eq!(ended(&account), (17 + 3 + 4 + 1, 4));
    }

    #[test]
    fn a_birth_counts_once_whenever_the_count_ends() {
        let seen = Change::CreatedAndSeen { opened: 10, now: 15 };
        for (walked, ends_first) in [(false, false), (false, true), (true, false)] {
            let account = unknown();
            account.begin_count();
            if walked {
                account.see(1, 15);
            }
            let hold = account.hold(room(0, 1), Patience::None).unwrap();
            if ends_first {
                // Growth since it was opened is booked by the call that caused it.
                assert_eq!(ended(&account), (0, 0));
                account.book(1, Change::Resized(5));
            }
            hold.settle(1, seen);
            if !ends_first {
                account.end_count().unwrap();
            }
            let used = account.usage();
            assert_eq!((used.bytes, used.inodes), (15, 1), "{walked} {ends_first}");
            assert_eq!(account.taken(), used);
        }
    }

    #[test]
    fn what_is_held_meanwhile_stays_held() {
        let account = account(1000, None, InitialUsage::Exact(Usage { bytes: 500, inodes: 1 }));
        let hold = account.hold(room(100, 0), Patience::None).unwrap();
        account.begin_count();
        account.see(1, 300);
        assert_eq!(account.end_count().unwrap().difference, -200);
        assert_eq!(account.left(), 600);
        hold.settle(1, Change::Resized(60));
        assert_eq!((account.left(), account.usage().bytes), (640, 360));
    }

    #[test]
    fn what_moves_is_looked_at_before_the_end() {
        let account = unknown();
        account.begin_count();
        account.see(1, 10);
        account.moved(1, b"seen");
        account.moved(2, b"file");
        assert_eq!(account.end_count(), None);
        assert_eq!(account.next_moved().as_deref(), Some(b"file".as_slice()));
        assert_eq!(account.next_moved(), None);
        assert!(account.end_count().is_some());
        assert!(!account.is_counting());
    }

    #[test]
    fn a_count_that_is_given_up_changes_nothing() {
        let account = account(1000, None, InitialUsage::Exact(Usage { bytes: 5, inodes: 1 }));
        account.begin_count();
        account.see(1, 300);
        account.abandon_count();
        assert_eq!(account.usage().bytes, 5);
        assert_eq!(account.end_count(), None);
    }
}
