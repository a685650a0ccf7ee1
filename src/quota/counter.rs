//! One counted quantity of an account: bytes or inodes.
//!
//! The data path takes and gives back with atomic operations alone. The ceiling counts only once it
//! is on the disk: it is lowered before the ledger is written, and raised afterwards.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Exceeded;

/// The slack as a share of what is taken: large volumes grow in large steps.
const SLACK_SHARE: i64 = 32;

/// What is used, taken and allowed of one quantity ([`super`] explains the terms).
pub(super) struct UsageCounter {
    used: AtomicI64,
    taken: AtomicI64,
    limit: AtomicI64,
    ceiling: AtomicI64,
    /// The largest amount that did not fit below the ceiling since the ceiling was last raised.
    unmet: AtomicI64,
    /// Above this, the ceiling should be raised.
    alarm: AtomicI64,
}

impl UsageCounter {
    /// Creates a counter with this usage. The ceiling is infinite until the ledger has an entry:
    /// after a crash without an entry, the usage counts as unknown.
    pub(super) fn new(used: u64) -> Self {
        let used = i64::try_from(used).unwrap_or(i64::MAX / 2);
        Self {
            used: AtomicI64::new(used),
            taken: AtomicI64::new(used),
            limit: AtomicI64::new(i64::MAX),
            ceiling: AtomicI64::new(i64::MAX),
            unmet: AtomicI64::new(0),
            alarm: AtomicI64::new(i64::MIN),
        }
    }

    pub(super) fn used(&self) -> i64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn taken(&self) -> i64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: i64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns how much more can be taken below the limit.
    pub(super) fn left(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.taken()).max(0).unsigned_abs()
    }

    /// Takes `n`. Returns whether the ceiling should be raised. Taking 0 always succeeds.
    pub(super) fn take(&self, n: i64) -> Result<bool, Exceeded> {
        if n == 0 {
            return Ok(false);
        }
        let mut taken = self.taken();
        loop {
            let new = taken.saturating_add(n);
            if new > self.limit.load(Ordering::Relaxed) {
                return Err(Exceeded::Limit);
            }
            if new > self.ceiling.load(Ordering::Relaxed) {
                self.unmet.fetch_max(n, Ordering::Relaxed);
                return Err(Exceeded::Ceiling);
            }
            let exchange =
                self.taken.compare_exchange_weak(taken, new, Ordering::Relaxed, Ordering::Relaxed);
            match exchange {
                Ok(_) => return Ok(new > self.alarm.load(Ordering::Relaxed)),
                Err(now) => taken = now,
            }
        }
    }

    pub(super) fn give_back(&self, n: i64) {
        if n != 0 {
            self.taken.fetch_sub(n, Ordering::Relaxed);
        }
    }

    /// Adds to what is used, and gives back what was held for it.
    pub(super) fn settle(&self, used: i64, held: i64) {
        if used != 0 {
            self.used.fetch_add(used, Ordering::Relaxed);
        }
        self.give_back(held - used);
    }

    /// Sets what is used to the result of a count. Returns the difference.
    pub(super) fn correct(&self, used: i64) -> i64 {
        let difference = used - self.used();
        self.settle(difference, 0);
        difference
    }

    /// Returns the ceiling to write next, at least `least` above what is taken. A lower ceiling
    /// takes effect at once.
    pub(super) fn next_ceiling(&self, least: i64) -> i64 {
        let taken = self.taken().max(0);
        let unmet = self.unmet.swap(0, Ordering::Relaxed);
        let wanted = taken.saturating_add(slack(taken, least)).saturating_add(unmet);
        let now = self.ceiling.load(Ordering::Relaxed);
        // It is lowered only by much: no change in progress can then be above it.
        if now > wanted && now < wanted.saturating_add(4 * slack(taken, least)) {
            return now;
        }
        self.ceiling.fetch_min(wanted, Ordering::SeqCst);
        wanted
    }

    /// Sets the ceiling to one that is on the disk.
    pub(super) fn raise_ceiling(&self, ceiling: i64, least: i64) {
        self.ceiling.store(ceiling, Ordering::SeqCst);
        let alarm = ceiling - slack(self.taken(), least) / 2;
        self.alarm.store(alarm, Ordering::Relaxed);
    }
}

fn slack(taken: i64, least: i64) -> i64 {
    (taken / SLACK_SHARE).max(least)
}
