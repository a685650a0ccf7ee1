//! A budget for large writes on data-plane threads.
//!
//! A write is a copy into the page cache until the kernel's limit for dirty pages is near; then the
//! kernel blocks writers, which must not happen to a thread that serves sockets. Large writes on
//! such a thread therefore spend a budget: a share of the room below that limit, as it was at the
//! last refill. When the budget is spent, they run in the pool, where refilling it costs little.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::sys::memory;

/// The budget is the room divided by this: other processes write, too.
const SHARE: u64 = 4;

/// Shortest interval between two refills, in milliseconds.
const APART: u64 = 10;

/// Bytes that large writes may still add to the page cache.
#[derive(Debug)]
pub struct DirtyBudget {
    left: AtomicI64,
    start: Instant,
    /// The earliest time of the next refill, in milliseconds after `start`.
    not_before: AtomicU64,
}

impl DirtyBudget {
    /// An empty budget.
    pub fn new() -> Self {
        let (left, not_before) = (AtomicI64::new(0), AtomicU64::new(0));
        Self { left, start: Instant::now(), not_before }
    }

    /// Spends `bytes` and returns true, if any budget is left. Each thread may overdraw it by one
    /// write.
    pub fn spend(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        !memory::is_stuck() // a test simulates a stuck disk: the budget from before is void
            && self.left.load(Ordering::Relaxed) > 0
            && self.left.fetch_sub(bytes, Ordering::Relaxed) > 0
    }

    /// Refills a spent budget. Blocks for a few file reads, at most once per interval.
    pub fn refill(&self) {
        self.refill_after(memory::room_to_write);
    }

    fn refill_after(&self, room: impl FnOnce() -> u64) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.left.load(Ordering::Relaxed) > 0 || now < self.not_before.load(Ordering::Relaxed) {
            return;
        }
        self.not_before.store(now + APART, Ordering::Relaxed);
        self.left.store(i64::try_from(room() / SHARE).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Default for DirtyBudget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_room_is_spent_and_refilled() {
        let dirty_budget = DirtyBudget::new();
        assert!(!dirty_budget.spend(1), "nothing is known of the room");
        dirty_budget.refill_after(|| 400);
        assert!(dirty_budget.spend(60) && dirty_budget.spend(60), "the last write may overdraw");
        assert!(!dirty_budget.spend(1));
        dirty_budget.not_before.store(u64::MAX, Ordering::Relaxed);
        dirty_budget.refill_after(|| panic!("too soon"));
        dirty_budget.not_before.store(0, Ordering::Relaxed);
        dirty_budget.refill_after(|| 0);
        assert!(!dirty_budget.spend(1), "there is no room");
        dirty_budget.not_before.store(0, Ordering::Relaxed);
        dirty_budget.refill_after(|| 4);
        dirty_budget.not_before.store(0, Ordering::Relaxed);
        dirty_budget.refill_after(|| panic!("there is budget left"));
        assert!(dirty_budget.spend(1));
    }
}
