//! What one open file was charged with.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::errno::Result;
use crate::fs::attr::{Attr, FileKind};

/// The allocation unit of nearly every file system. Where it is larger, the cost of a change is
/// known only afterwards.
pub(super) const BLOCK: u64 = 4096;

/// How often a charge is tried again that another thread changes meanwhile.
const ATTEMPTS: usize = 8;

/// The charge of an ended file: it costs nothing any more.
const ENDED: i64 = -1;

/// The charge of an open file, in bytes.
pub(in crate::fs) struct Charge {
    /// What it was when the file was opened.
    opened: i64,
    cost: AtomicI64,
    /// What is held for its delayed allocation, until it is flushed.
    delayed: AtomicI64,
}

impl Charge {
    pub(in crate::fs) fn new(attr: &Attr) -> Self {
        let opened = attr.cost();
        Self { opened, cost: AtomicI64::new(opened), delayed: AtomicI64::new(0) }
    }

    /// Returns the charge when the file was opened. Everything since is booked as a change of it.
    pub(super) const fn opened(&self) -> i64 {
        self.opened
    }

    /// Sets the cost. Returns the difference to the one before.
    pub(super) fn update(&self, cost: i64) -> i64 {
        let update = |before| (before != ENDED).then_some(cost);
        match self.cost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(before) => cost - before,
            Err(_) => 0,
        }
    }

    /// Sets the cost to what `cost` finds. Finds it again if another thread has changed it
    /// meanwhile. Returns the difference to the one before.
    pub(super) fn catch_up(&self, cost: impl Fn() -> Result<i64>) -> i64 {
        for _ in 0..ATTEMPTS {
            let before = self.cost.load(Ordering::Relaxed);
            let Ok(now) = cost() else { return 0 };
            if before == ENDED {
                return 0;
            }
            let exchange =
                self.cost.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed);
            if exchange.is_ok() {
                return now - before;
            }
        }
        0 // it is written to all the time, and will be flushed again
    }

    /// Returns what it was charged with until now.
    pub(in crate::fs) fn cost(&self) -> i64 {
        self.cost.load(Ordering::Relaxed).max(0)
    }

    /// Ends the file. Returns what it was charged with until now.
    pub(in crate::fs) fn end(&self) -> i64 {
        self.cost.swap(ENDED, Ordering::Relaxed).max(0)
    }

    /// Returns what is held for its delayed allocation.
    pub(in crate::fs) fn delayed(&self) -> i64 {
        self.delayed.load(Ordering::Relaxed)
    }

    pub(super) fn add_delayed(&self, bytes: i64) {
        if bytes != 0 {
            self.delayed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` of what is held for its delayed allocation, to be given back.
    pub(in crate::fs) fn take_delayed(&self, most: i64) -> i64 {
        let less = |delayed: i64| Some(delayed - delayed.min(most));
        let before = self.delayed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.map_or(0, |before| before.min(most))
    }
}

impl Attr {
    /// Returns what the file costs, in bytes.
    ///
    /// XFS preallocates blocks behind the end of a file that grows. They are not charged: they can
    /// be as many as the file has, and are given back later. The blocks that map the file's data
    /// are charged.
    pub(in crate::fs) fn cost(&self) -> i64 {
        let most = match self.kind {
            FileKind::Regular => {
                round_up(self.size).saturating_add(self.size / 64).saturating_add(1 << 16)
            }
            _ => u64::MAX,
        };
        self.used.min(most).try_into().unwrap_or(i64::MAX)
    }
}

pub(super) const fn round_down(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

pub(super) const fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}
