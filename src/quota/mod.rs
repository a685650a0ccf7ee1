//! Quota: the usage of each volume, and the limits on it.
//!
//! An [`Account`] counts what the files of one volume take on the disk, bytes and inodes, from the
//! attributes that the server reads with each change anyway. A change that may grow the volume
//! takes a [`Hold`] first, which fails if it does not fit. When the change is done, the hold is
//! settled with the real size.
//!
//! ```text
//!   used        what the files take, as far as it is known
//!   taken       used, and the holds of changes in progress and of           taken <= limit
//!               blocks that the file system allocates at write-back
//!   limit       the capacity
//!   ceiling     the upper bound of taken in the ledger on the disk          taken <= ceiling
//! ```
//!
//! After a crash, `used` starts as the ceiling that was on the disk: an upper bound. Until the
//! files have been counted ([`count`]), a change that does not fit by this estimate is not refused
//! but must be retried, because the volume may not be full. The [`ledger`] raises the ceiling in
//! advance; only a change that outruns it waits for the disk.

pub mod count;
mod counter;
pub mod ledger;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::sched::Patience;
use count::UsageCount;
use counter::UsageCounter;
use ledger::SaveRequests;

/// How long a change waits for a count before it must be retried. Small volumes are counted within
/// this time; clients retry after seconds.
const COUNT_WAIT: Duration = Duration::from_millis(100);

/// The limits of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and other inodes; `None`: as many as the disk has.
    pub inodes: Option<u64>,
    /// The effect of the limits.
    pub rule: LimitRule,
}

/// The effect of the limits of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitRule {
    /// Changes that exceed them fail.
    Enforce,
    /// Clients see them, and may exceed them.
    Report,
    /// Clients do not see them.
    Off,
}

/// An amount of bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and other inodes.
    pub inodes: u64,
}

/// A difference of two amounts of bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Delta {
    bytes: i64,
    inodes: i64,
}

/// What is known about the usage of a volume when its account is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialUsage {
    /// The usage itself.
    Exact(Usage),
    /// An upper bound.
    AtMost(Usage),
    /// Nothing.
    Unknown,
}

/// The account of a volume.
pub struct Account {
    bytes: UsageCounter,
    inodes: UsageCounter,
    limits: Mutex<QuotaLimits>,
    /// Whether `used` is exact.
    exact: AtomicBool,
    /// Whether a change needs a count.
    count_wanted: AtomicBool,
    /// Whether `count` is in use: nothing is locked otherwise.
    counting: AtomicBool,
    count: Mutex<Option<UsageCount>>,
    counted: Condvar,
    saves: Arc<SaveRequests>,
    lingering: Lingering,
    /// The part of `taken` that is held until files are flushed ([`Hold::settle_but`]).
    late: AtomicI64,
}

/// The cost of files without a name that are kept open for a while.
#[derive(Default)]
struct Lingering {
    bytes: AtomicI64,
    inodes: AtomicI64,
}

/// The bound that a hold would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Limit,
    Ceiling,
}

/// Why room is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldError {
    /// The volume is full.
    Full,
    /// The usage must be counted first; then the change may fit.
    NotCounted,
    /// The caller would have to wait, and has no patience.
    WouldBlock,
    /// The ledger is closed: the server is stopping.
    Closed,
    /// The ledger cannot be written.
    Errno(Errno),
}

/// Room that is held for a change until it is settled or dropped.
#[must_use = "the room is given back when this is dropped"]
pub struct Hold<'a> {
    account: &'a Account,
    held: Delta,
}

/// A change of the bytes that one file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file takes this many bytes more, or less.
    Resized(i64),
    /// The file is new, and takes this many bytes.
    Created(i64),
    /// The file is new. No other change of it is possible before this one is booked. A count in
    /// progress has then seen the file.
    CreatedAndSeen {
        /// Bytes that the file took when it was opened.
        opened: i64,
        /// Bytes that it takes now.
        now: i64,
    },
    /// The file is removed, and took this many bytes.
    Removed(i64),
}

impl Account {
    /// Opens an account with the given initial usage. `saves` raises its ceiling.
    fn new(limits: QuotaLimits, initial: InitialUsage, saves: Arc<SaveRequests>) -> Self {
        let (usage, exact) = match initial {
            InitialUsage::Exact(usage) => (usage, true),
            InitialUsage::AtMost(usage) => (usage, false),
            // As if it were full.
            InitialUsage::Unknown => (Usage { bytes: limits.bytes, inodes: 0 }, false),
        };
        let account = Self {
            bytes: UsageCounter::new(usage.bytes),
            inodes: UsageCounter::new(usage.inodes),
            limits: Mutex::new(limits),
            exact: AtomicBool::new(exact),
            count_wanted: AtomicBool::new(false),
            counting: AtomicBool::new(false),
            count: Mutex::new(None),
            counted: Condvar::new(),
            saves,
            lingering: Lingering::default(),
            late: AtomicI64::new(0),
        };
        account.set_limits(limits);
        account
    }

    /// Returns what the volume uses, as far as it is known, without the files that linger.
    pub fn usage(&self) -> Usage {
        let shown = |counter: &UsageCounter, lingering: &AtomicI64| {
            let used = counter.used() - lingering.load(Ordering::Relaxed);
            used.max(0).unsigned_abs()
        };
        let Lingering { bytes, inodes } = &self.lingering;
        Usage { bytes: shown(&self.bytes, bytes), inodes: shown(&self.inodes, inodes) }
    }

    /// Notes that a file of `bytes` bytes has lost its last name and is kept open for a while. It
    /// still takes its room, but [`Account::usage`] no longer shows it. Must be followed by
    /// [`Account::end_lingering`].
    pub fn linger(&self, bytes: i64) {
        self.lingering.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.lingering.inodes.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a lingering file is closed. `bytes` is what was given to [`Account::linger`],
    /// `cost` what the file took in the end.
    pub fn end_lingering(&self, fileid: u64, bytes: i64, cost: i64) {
        self.book(fileid, Change::Removed(cost));
        self.lingering.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.lingering.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether lingering files take room.
    pub fn has_lingering(&self) -> bool {
        self.lingering.inodes.load(Ordering::Relaxed) > 0
    }

    /// Returns what is used or held.
    pub fn taken(&self) -> Usage {
        let taken = |counter: &UsageCounter| counter.taken().max(0).unsigned_abs();
        Usage { bytes: taken(&self.bytes), inodes: taken(&self.inodes) }
    }

    /// Whether [`Account::usage`] is exact; if not, it is an upper bound.
    pub fn is_exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    /// Whether a change must wait until the files have been counted.
    pub fn wants_count(&self) -> bool {
        self.count_wanted.load(Ordering::Relaxed)
    }

    /// Returns the limits.
    pub fn limits(&self) -> QuotaLimits {
        *self.limits.lock()
    }

    /// Sets the limits. Takes effect at once; usage above a new limit remains.
    pub fn set_limits(&self, limits: QuotaLimits) {
        *self.limits.lock() = limits;
        let enforced = |limit: Option<u64>| match limit {
            Some(limit) if limits.rule == LimitRule::Enforce => {
                limit.try_into().unwrap_or(i64::MAX)
            }
            _ => i64::MAX,
        };
        self.bytes.set_limit(enforced(Some(limits.bytes)));
        self.inodes.set_limit(enforced(limits.inodes));
    }

    /// Holds room for a change. With patience, may block until the ledger is written.
    ///
    /// # Errors
    /// As [`HoldError`]. Without patience, [`HoldError::WouldBlock`] also if the usage must be
    /// counted.
    pub fn hold(&self, room: Usage, patience: Patience) -> Result<Hold<'_>, HoldError> {
        let amount = |n: u64| i64::try_from(n).map_err(|_| HoldError::Full);
        let held = Delta { bytes: amount(room.bytes)?, inodes: amount(room.inodes)? };
        let mut deadline = None;
        loop {
            let exceeded = match self.take(held) {
                Ok(()) => return Ok(Hold { account: self, held }),
                Err(exceeded) => exceeded,
            };
            match exceeded {
                Exceeded::Limit if self.is_exact() => return Err(HoldError::Full),
                Exceeded::Limit => {
                    self.count_wanted.store(true, Ordering::Relaxed);
                    self.saves.request_count();
                    if patience == Patience::None {
                        return Err(HoldError::WouldBlock);
                    }
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + COUNT_WAIT);
                    if !self.wait_for_count(deadline) {
                        return Err(HoldError::NotCounted);
                    }
                }
                Exceeded::Ceiling if patience == Patience::None => {
                    self.saves.request();
                    return Err(HoldError::WouldBlock);
                }
                Exceeded::Ceiling => self.saves.wait_for_save()?,
            }
        }
    }

    /// Waits until the files have been counted. Returns `false` if they are not at the deadline.
    fn wait_for_count(&self, deadline: Instant) -> bool {
        let mut count = self.count();
        while !self.is_exact() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.counted.wait_for(&mut count, left);
        }
        true
    }

    /// Returns how many more bytes fit below the limit.
    pub fn left(&self) -> u64 {
        self.bytes.left()
    }

    fn take(&self, room: Delta) -> Result<(), Exceeded> {
        let low = self.bytes.take(room.bytes)?;
        let taken = self.inodes.take(room.inodes);
        let low = low | taken.inspect_err(|_| self.bytes.give_back(room.bytes))?;
        if low {
            self.saves.request();
        }
        Ok(())
    }

    /// Books a change of the file with this number. The caller holds the locks of the file.
    pub fn book(&self, fileid: u64, change: Change) {
        self.settle(fileid, change, Delta::default());
    }

    /// Books the difference in bytes that `find` returns for a file that others may be changing.
    /// A count sees the file before `find` runs or after the change is booked, never in between.
    pub fn book_found(&self, fileid: u64, find: impl FnOnce() -> i64) {
        let mut count = self.count();
        let change = Change::Resized(find());
        self.apply(change, Delta::default());
        if let Some(count) = &mut *count {
            count.book(fileid, change);
        }
    }

    /// Gives back bytes that [`Hold::settle_but`] kept.
    pub fn give_back(&self, bytes: i64) {
        if bytes != 0 {
            self.bytes.give_back(bytes);
            // Last: a caller that sees nothing held any more also finds the room.
            self.late.fetch_sub(bytes, Ordering::Release);
        }
    }

    /// Returns the bytes that are held until files are flushed.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Acquire).max(0).unsigned_abs()
    }

    /// Whether a change that takes this many inodes, and does not fit now, may fit once files have
    /// been flushed. If `false`, room that was given back before is visible to the next call of
    /// [`Account::hold`].
    pub fn may_have_room_later(&self, inodes: u64) -> bool {
        self.late() > 0 && self.inodes.left() >= inodes
    }

    fn settle(&self, fileid: u64, change: Change, held: Delta) {
        if self.counting.load(Ordering::Acquire) {
            // Both under the lock: the end of the count finds both or neither.
            let mut count = self.count();
            self.apply(change, held);
            if let Some(count) = &mut *count {
                count.book(fileid, change);
            }
        } else {
            self.apply(change, held);
        }
    }

    fn apply(&self, change: Change, held: Delta) {
        let used = match change {
            Change::Resized(bytes) => Delta { bytes, inodes: 0 },
            Change::Created(bytes) | Change::CreatedAndSeen { opened: bytes, .. } => {
                Delta { bytes, inodes: 1 }
            }
            Change::Removed(bytes) => Delta { bytes: -bytes, inodes: -1 },
        };
        self.bytes.settle(used.bytes, held.bytes);
        self.inodes.settle(used.inodes, held.inodes);
    }

    fn count(&self) -> MutexGuard<'_, Option<UsageCount>> {
        self.count.lock()
    }
}

impl Hold<'_> {
    /// Books what the change really took, and gives back what is held.
    pub fn settle(self, fileid: u64, change: Change) {
        self.settle_but(fileid, change, 0);
    }

    /// Like [`Hold::settle`], but `late` bytes stay held until [`Account::give_back`].
    pub fn settle_but(self, fileid: u64, change: Change, late: i64) {
        if late != 0 {
            self.account.late.fetch_add(late, Ordering::Relaxed);
        }
        let Delta { bytes, inodes } = self.held;
        self.account.settle(fileid, change, Delta { bytes: bytes - late, inodes });
        std::mem::forget(self); // dropping it would give the room back again
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.account.bytes.give_back(self.held.bytes);
        self.account.inodes.give_back(self.held.inodes);
    }
}

#[cfg(test)]
pub(crate) mod tests;
