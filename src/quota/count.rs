//! Counting what a volume really uses, while it is in use.
//!
//! Whoever walks the tree reports each file with [`Account::see`]; changes that are made meanwhile
//! come through [`Account::book`] and are added if the file was seen already, and are in what the
//! walk is going to see if it was not. So the sum is exact at the end, however long it took. What
//! makes it so:
//!
//! - a file is seen while nobody else can change it (the walk holds its locks);
//! - before the end, every change that was going on is waited for: a file that was made or removed
//!   shows that before it is booked;
//! - a new file is booked and reported by its creator in one step ([`Change::Seen`]): a report that
//!   came before the end of the count and a booking behind it would count the file twice. Where the
//!   creator cannot report it, the walk looks at it before the end, as at a file that moved;
//! - a file that is renamed or linked during the walk could be missed by it, or its directory
//!   could: it is remembered, and looked at before the end ([`Account::moved`],
//!   [`Account::next_moved`]).

use std::sync::atomic::Ordering;

use roaring::RoaringTreemap;

use super::{Account, Change, Usage};

/// Moved files that are remembered. A count with more of them is given up.
const MOVED_MAX: usize = 1 << 20;

/// A count that is going on.
#[derive(Default)]
pub(super) struct Count {
    /// The files that were seen, by number.
    seen: RoaringTreemap,
    bytes: i64,
    inodes: i64,
    /// Files to look at again, in the words of whoever walks.
    moved: Vec<Vec<u8>>,
    /// There were too many.
    lost: bool,
}

/// What a count found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What the volume uses.
    pub usage: Usage,
    /// How much more, or less, that is in bytes than was believed.
    pub difference: i64,
}

impl Count {
    pub(super) fn note(&mut self, fileid: u64, change: Change) {
        match change {
            Change::By(bytes) if self.seen.contains(fileid) => self.bytes += bytes,
            // The walk comes by, or has been there.
            Change::By(_) | Change::Birth(_) => {}
            Change::Seen { now, .. } => self.add(fileid, now),
            // Its number may soon be another file's.
            Change::Death(bytes) => {
                if self.seen.remove(fileid) {
                    self.bytes -= bytes;
                    self.inodes -= 1;
                }
            }
        }
    }

    fn add(&mut self, fileid: u64, bytes: i64) {
        if self.seen.insert(fileid) {
            self.bytes += bytes;
            self.inodes += 1;
        }
    }
}

impl Account {
    /// Begins to count; what was counted of an earlier one that did not end is forgotten.
    pub fn begin_count(&self) {
        *self.count() = Some(Count::default());
        self.counting.store(true, Ordering::Release);
    }

    /// Whether a count is going on, so that what moves has to be told.
    pub fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Acquire)
    }

    /// The walk found a file that takes so many bytes. Whoever calls holds the file's locks. A file
    /// with several names is counted once.
    pub fn see(&self, fileid: u64, bytes: i64) {
        if let Some(count) = &mut *self.count() {
            count.add(fileid, bytes);
        }
    }

    /// The file with this number got another name; the walk should look at `file`, however it calls
    /// it. One that was seen cannot be missed any more, so that the walk comes to an end however
    /// much is renamed.
    pub fn moved(&self, fileid: u64, file: &[u8]) {
        if let Some(count) = &mut *self.count() {
            if count.seen.contains(fileid) {
                return;
            }
            if count.moved.len() < MOVED_MAX {
                count.moved.push(file.to_vec());
            } else {
                count.lost = true;
            }
        }
    }

    /// One of the files that moved since the last question.
    pub fn next_moved(&self) -> Option<Vec<u8>> {
        self.count().as_mut()?.moved.pop()
    }

    /// Ends the count: from now on the usage is exact. Whoever walks has waited, after the walk,
    /// for all changes that were going on. `None`: something moved since
    /// [`Account::next_moved`] had nothing, so that the walk has to go on.
    pub fn end_count(&self) -> Option<Counted> {
        let mut place = self.count();
        let count = place.take_if(|count| count.moved.is_empty())?;
        self.counting.store(false, Ordering::Release);
        let difference = self.bytes.correct(count.bytes);
        self.inodes.correct(count.inodes);
        self.exact.store(!count.lost, Ordering::Relaxed);
        self.wanted.store(count.lost, Ordering::Relaxed);
        drop(place);
        self.counted.notify_all();
        self.keeper.nudge();
        Some(Counted { usage: self.usage(), difference })
    }

    /// Gives the count up.
    pub fn abandon_count(&self) {
        let mut place = self.count();
        self.counting.store(false, Ordering::Release);
        *place = None;
    }
}

impl super::Pot {
    /// So much is used, whatever was believed; answers the difference.
    fn correct(&self, used: i64) -> i64 {
        let difference = used - self.used.load(Ordering::Relaxed);
        self.settle(difference, 0);
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::account;
    use super::*;
    use crate::quota::Opening;
    use crate::sched::Patience;

    fn unknown() -> Account {
        account(1000, None, Opening::Unknown)
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
        account.book(1, Change::By(5)); // seen: added
        account.book(2, Change::By(7)); // not seen: the walk finds it so
        account.see(2, 17);
        account.see(3, 3);
        account.book(3, Change::Birth(3));
        account.see(3, 3); // the walk comes by a new file
        account.see(4, 4); // the walk was quicker
        account.see(4, 4);
        account.book(4, Change::Birth(4));
        account.book(1, Change::Death(15));
        account.book(9, Change::Death(99)); // gone before the walk came
        account.see(1, 1); // another file with the number
        account.book(1, Change::Birth(1));
        assert_eq!(ended(&account), (17 + 3 + 4 + 1, 4));
    }

    #[test]
    fn a_birth_counts_once_whenever_the_count_ends() {
        let seen = Change::Seen { birth: 10, now: 15 };
        for (walked, ends_first) in [(false, false), (false, true), (true, false)] {
            let account = unknown();
            account.begin_count();
            if walked {
                account.see(1, 15);
            }
            let hold = account.hold(0, 1, Patience::None).unwrap();
            if ends_first {
                // What became more since it was opened is booked by whoever did that.
                assert_eq!(ended(&account), (0, 0));
                account.book(1, Change::By(5));
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
        let account = account(1000, None, Opening::Exact(Usage { bytes: 500, inodes: 1 }));
        let hold = account.hold(100, 0, Patience::None).unwrap();
        account.begin_count();
        account.see(1, 300);
        assert_eq!(account.end_count().unwrap().difference, -200);
        assert_eq!(account.left(), 600);
        hold.settle(1, Change::By(60));
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
        let account = account(1000, None, Opening::Exact(Usage { bytes: 5, inodes: 1 }));
        account.begin_count();
        account.see(1, 300);
        account.abandon_count();
        assert_eq!(account.usage().bytes, 5);
        assert_eq!(account.end_count(), None);
    }
}
