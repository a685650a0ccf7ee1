//! How much a volume uses, and whether it may use more.
//!
//! An [`Account`] counts what the files of one volume take on the disk, bytes and inodes, from the
//! attributes that the server reads with each change anyway. Whatever may grow a volume takes a
//! [`Hold`] first, which is refused if it does not fit; what was really used is settled afterwards.
//!
//! ```text
//!   used        what the files take, as far as we know
//!   taken       used, and what is held by changes that are going on,       taken <= limit
//!               or whose blocks the file system allocates later
//!   limit       the capacity
//!   ceiling     what the ledger on the disk says that it takes at most     taken <= ceiling
//! ```
//!
//! After a crash, `used` is taken to be the ceiling that was on the disk: too much, never too
//! little. Until the files have been counted ([`count`]), what does not fit below the limit by
//! this estimate is not refused but put off, so that nobody is told of a full disk that is not
//! full. The ceiling is raised in good time by the [`ledger`]; only who outruns that waits.

pub mod count;
pub mod ledger;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::sched::Patience;
use count::Count;
use ledger::Keeper;

/// How long a change waits for a count before it is put off. Small volumes are counted sooner;
/// clients come again after seconds.
const COUNT_SOON: Duration = Duration::from_millis(100);

/// What a volume may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and so on; `None`: as many as the disk has.
    pub inodes: Option<u64>,
    /// What the limits mean.
    pub rule: Rule,
}

/// What limits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing goes beyond them.
    Enforce,
    /// They are shown.
    Report,
    /// They are not even shown.
    Off,
}

/// What a volume uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and so on.
    pub inodes: u64,
}

/// What is known about the usage when an account is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is this.
    Exact(Usage),
    /// It is at most this.
    AtMost(Usage),
    /// Nothing.
    Unknown,
}

/// The account of a volume.
pub struct Account {
    bytes: Pot,
    inodes: Pot,
    limits: Mutex<Limits>,
    /// Whether `used` is exact.
    exact: AtomicBool,
    /// Whether somebody waits for a count.
    wanted: AtomicBool,
    /// Whether `count` has something, so that there is nothing to lock if it has not.
    counting: AtomicBool,
    count: Mutex<Option<Count>>,
    counted: Condvar,
    keeper: Arc<Keeper>,
    /// Bytes and inodes of files without a name that are kept open for a while.
    lingering: (AtomicI64, AtomicI64),
    /// What of `taken` is held until files are flushed ([`Hold::settle_but`]).
    late: AtomicI64,
}

/// One of the two things that are counted.
struct Pot {
    used: AtomicI64,
    taken: AtomicI64,
    limit: AtomicI64,
    ceiling: AtomicI64,
    /// The most that did not fit below the ceiling since that was last raised.
    wish: AtomicI64,
    /// Above this the ceiling should be raised.
    alarm: AtomicI64,
}

/// Why a hold is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// It would go beyond the limit.
    Limit,
    /// It would go beyond the ceiling.
    Ceiling,
}

/// Why room is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
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

/// Room that is kept for a change until it is settled, or dropped.
#[must_use = "the room is given back when this is dropped"]
pub struct Hold<'a> {
    account: &'a Account,
    bytes: i64,
    inodes: i64,
}

/// How a file's part in the usage changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It takes so much more, or less.
    By(i64),
    /// It is new, and takes so much.
    Birth(i64),
    /// It is new, took `birth` when it was opened and takes `now`; nobody can change it before this
    /// is booked. A count that is going on has seen it then.
    Seen {
        /// Bytes that it was charged with.
        birth: i64,
        /// Bytes that it takes.
        now: i64,
    },
    /// It is gone, and took so much.
    Death(i64),
}

impl Account {
    /// An account of which so much is known. `keeper` raises its ceiling.
    fn new(limits: Limits, opening: Opening, keeper: Arc<Keeper>) -> Self {
        let (usage, exact) = match opening {
            Opening::Exact(usage) => (usage, true),
            Opening::AtMost(usage) => (usage, false),
            // As if it were full.
            Opening::Unknown => (Usage { bytes: limits.bytes, inodes: 0 }, false),
        };
        let account = Self {
            bytes: Pot::new(usage.bytes),
            inodes: Pot::new(usage.inodes),
            limits: Mutex::new(limits),
            exact: AtomicBool::new(exact),
            wanted: AtomicBool::new(false),
            counting: AtomicBool::new(false),
            count: Mutex::new(None),
            counted: Condvar::new(),
            keeper,
            lingering: Default::default(),
            late: AtomicI64::new(0),
        };
        account.set_limits(limits);
        account
    }

    /// What the volume uses, as far as it is known, apart from what lingers.
    pub fn usage(&self) -> Usage {
        let shown = |pot: &Pot, lingering: &AtomicI64| {
            let used = pot.used.load(Ordering::Relaxed) - lingering.load(Ordering::Relaxed);
            used.max(0).unsigned_abs()
        };
        let (bytes, inodes) = &self.lingering;
        Usage { bytes: shown(&self.bytes, bytes), inodes: shown(&self.inodes, inodes) }
    }

    /// A file of so many bytes has lost its last name and is kept open for a while: it takes its
    /// room as before, but is not shown as used any more. To be followed by
    /// [`Account::end_lingering`].
    pub fn linger(&self, bytes: i64) {
        self.lingering.0.fetch_add(bytes, Ordering::Relaxed);
        self.lingering.1.fetch_add(1, Ordering::Relaxed);
    }

    /// The file with this number, which lingered with `bytes`, is closed, and took `cost` at last.
    pub fn end_lingering(&self, fileid: u64, bytes: i64, cost: i64) {
        self.book(fileid, Change::Death(cost));
        self.lingering.0.fetch_sub(bytes, Ordering::Relaxed);
        self.lingering.1.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether room is taken by files that linger.
    pub fn has_lingering(&self) -> bool {
        self.lingering.1.load(Ordering::Relaxed) > 0
    }

    /// What is used, and held by changes that are going on.
    pub fn taken(&self) -> Usage {
        let taken = |pot: &Pot| pot.taken.load(Ordering::Relaxed).max(0).unsigned_abs();
        Usage { bytes: taken(&self.bytes), inodes: taken(&self.inodes) }
    }

    /// Whether [`Account::usage`] is exact; if not, it is an upper bound.
    pub fn is_exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    /// Whether a change was put off until the files have been counted.
    pub fn wants_count(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// What the volume may use.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// Sets what the volume may use. Takes effect at once; what is used already stays.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
        let enforced = |limit: Option<u64>| match limit {
            Some(limit) if limits.rule == Rule::Enforce => limit.try_into().unwrap_or(i64::MAX),
            _ => i64::MAX,
        };
        self.bytes.limit.store(enforced(Some(limits.bytes)), Ordering::Relaxed);
        self.inodes.limit.store(enforced(limits.inodes), Ordering::Relaxed);
    }

    /// Keeps room for a change that may take so many bytes and inodes. May block, with patience,
    /// until the ledger is written.
    ///
    /// # Errors
    /// As [`Refusal`]. Without patience, [`Refusal::WouldBlock`] also if the usage must be counted.
    pub fn hold(&self, bytes: u64, inodes: u64, patience: Patience) -> Result<Hold<'_>, Refusal> {
        let amount = |n: u64| i64::try_from(n).map_err(|_| Refusal::Full);
        let (bytes, inodes) = (amount(bytes)?, amount(inodes)?);
        let mut limit = None;
        loop {
            let short = match self.take(bytes, inodes) {
                Ok(()) => return Ok(Hold { account: self, bytes, inodes }),
                Err(short) => short,
            };
            match short {
                Short::Limit if self.is_exact() => return Err(Refusal::Full),
                Short::Limit => {
                    self.wanted.store(true, Ordering::Relaxed);
                    self.keeper.want_count();
                    if patience == Patience::None {
                        return Err(Refusal::WouldBlock);
                    }
                    let limit = *limit.get_or_insert_with(|| Instant::now() + COUNT_SOON);
                    if !self.wait_for_count(limit) {
                        return Err(Refusal::NotCounted);
                    }
                }
                Short::Ceiling if patience == Patience::None => {
                    self.keeper.nudge();
                    return Err(Refusal::WouldBlock);
                }
                Short::Ceiling => self.keeper.wait_for_a_save()?,
            }
        }
    }

    /// Waits until the files have been counted; `false` if they were not until then.
    fn wait_for_count(&self, limit: Instant) -> bool {
        let mut count = self.count();
        while !self.is_exact() {
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.counted.wait_for(&mut count, left);
        }
        true
    }

    /// How many bytes still fit.
    pub fn left(&self) -> u64 {
        self.bytes.left()
    }

    fn take(&self, bytes: i64, inodes: i64) -> Result<(), Short> {
        let low = self.bytes.take(bytes)?;
        let low = low | self.inodes.take(inodes).inspect_err(|_| self.bytes.give_back(bytes))?;
        if low {
            self.keeper.nudge();
        }
        Ok(())
    }

    /// Notes that the part of the file with this number changed. Called while nobody else can
    /// change that file.
    pub fn book(&self, fileid: u64, change: Change) {
        self.settle(fileid, change, (0, 0));
    }

    /// Notes by how many bytes the part of a file changed that others may be changing too. A count
    /// sees that file either before `find` or after the change is noted, never in between.
    pub fn book_found(&self, fileid: u64, find: impl FnOnce() -> i64) {
        let mut count = self.count();
        let change = Change::By(find());
        self.apply(change, (0, 0));
        if let Some(count) = &mut *count {
            count.note(fileid, change);
        }
    }

    /// Gives back what was kept of a hold ([`Hold::settle_but`]).
    pub fn give_back(&self, bytes: i64) {
        if bytes != 0 {
            self.bytes.give_back(bytes);
            // Afterwards, so that whoever sees nothing held any more also finds the room.
            self.late.fetch_sub(bytes, Ordering::Release);
        }
    }

    /// The bytes that are kept of holds until files are flushed.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Acquire).max(0).unsigned_abs()
    }

    /// Whether a change that takes so many inodes may fit once files have been flushed, although it
    /// does not now. If not, whatever was given back before can be held by the next call of
    /// [`Account::hold`].
    pub fn may_have_room_later(&self, inodes: u64) -> bool {
        self.late() > 0 && self.inodes.left() >= inodes
    }

    fn settle(&self, fileid: u64, change: Change, held: (i64, i64)) {
        if self.counting.load(Ordering::Acquire) {
            // Both together, so that the end of the count finds them alike.
            let mut count = self.count();
            self.apply(change, held);
            if let Some(count) = &mut *count {
                count.note(fileid, change);
            }
        } else {
            self.apply(change, held);
        }
    }

    fn apply(&self, change: Change, held: (i64, i64)) {
        let (bytes, inodes) = match change {
            Change::By(bytes) => (bytes, 0),
            Change::Birth(bytes) | Change::Seen { birth: bytes, .. } => (bytes, 1),
            Change::Death(bytes) => (-bytes, -1),
        };
        self.bytes.settle(bytes, held.0);
        self.inodes.settle(inodes, held.1);
    }

    fn count(&self) -> MutexGuard<'_, Option<Count>> {
        self.count.lock()
    }
}

impl Hold<'_> {
    /// Gives back what is held, and notes what the change really was.
    pub fn settle(self, fileid: u64, change: Change) {
        self.settle_but(fileid, change, 0);
    }

    /// The same, but `late` bytes stay held until [`Account::give_back`].
    pub fn settle_but(self, fileid: u64, change: Change, late: i64) {
        if late != 0 {
            self.account.late.fetch_add(late, Ordering::Relaxed);
        }
        self.account.settle(fileid, change, (self.bytes - late, self.inodes));
        std::mem::forget(self); // it is settled
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.account.bytes.give_back(self.bytes);
        self.account.inodes.give_back(self.inodes);
    }
}

impl Pot {
    /// So much is used. The ceiling is infinite until the ledger has an entry: without one, it is
    /// known after a crash that nothing is known.
    fn new(used: u64) -> Self {
        let used = i64::try_from(used).unwrap_or(i64::MAX / 2);
        Self {
            used: AtomicI64::new(used),
            taken: AtomicI64::new(used),
            limit: AtomicI64::new(i64::MAX),
            ceiling: AtomicI64::new(i64::MAX),
            wish: AtomicI64::new(0),
            alarm: AtomicI64::new(i64::MIN),
        }
    }

    /// How much can be taken below the limit.
    fn left(&self) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        limit.saturating_sub(self.taken.load(Ordering::Relaxed)).max(0).unsigned_abs()
    }

    /// Takes `n`; answers whether the ceiling is near. Nothing can always be taken.
    fn take(&self, n: i64) -> Result<bool, Short> {
        if n == 0 {
            return Ok(false);
        }
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let new = taken.saturating_add(n);
            if new > self.limit.load(Ordering::Relaxed) {
                return Err(Short::Limit);
            }
            if new > self.ceiling.load(Ordering::Relaxed) {
                self.wish.fetch_max(n, Ordering::Relaxed);
                return Err(Short::Ceiling);
            }
            let exchange =
                self.taken.compare_exchange_weak(taken, new, Ordering::Relaxed, Ordering::Relaxed);
            match exchange {
                Ok(_) => return Ok(new > self.alarm.load(Ordering::Relaxed)),
                Err(now) => taken = now,
            }
        }
    }

    fn give_back(&self, n: i64) {
        if n != 0 {
            self.taken.fetch_sub(n, Ordering::Relaxed);
        }
    }

    /// Adds to what is used, and gives back what was held for it.
    fn settle(&self, used: i64, held: i64) {
        if used != 0 {
            self.used.fetch_add(used, Ordering::Relaxed);
        }
        self.give_back(held - used);
    }
}

#[cfg(test)]
pub(crate) mod tests;
