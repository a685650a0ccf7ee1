//! How much may be written where nobody should have to wait.
//!
//! Writing is copying, as long as the kernel has room for what is not on the disk yet; after that it
//! makes writers wait, and a thread that serves sockets must not be among them. So large writes spend a
//! credit there: a part of that room, as it was when the credit was last renewed. Without credit they
//! go to the pool, where asking for a new one is the smallest of delays.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::sys::memory;

/// The part of the room that is given: others write, too.
const SHARE: u64 = 4;

/// Milliseconds: it is not asked for more often.
const APART: u64 = 10;

/// Bytes that may be written.
#[derive(Debug)]
pub struct Credit {
    left: AtomicI64,
    start: Instant,
    /// Milliseconds after `start` before which there is no new credit.
    not_before: AtomicU64,
}

impl Credit {
    /// None yet.
    pub fn new() -> Self {
        let (left, not_before) = (AtomicI64::new(0), AtomicU64::new(0));
        Self { left, start: Instant::now(), not_before }
    }

    /// Spends it on so many bytes, if there is any; it may be overdrawn by one write of each thread.
    pub fn spend(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.left.load(Ordering::Relaxed) > 0 && self.left.fetch_sub(bytes, Ordering::Relaxed) > 0
    }

    /// Renews what is spent. Blocks for a moment, now and then.
    pub fn renew(&self) {
        self.renew_after(memory::room_to_write);
    }

    fn renew_after(&self, room: impl FnOnce() -> u64) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.left.load(Ordering::Relaxed) > 0 || now < self.not_before.load(Ordering::Relaxed) {
            return;
        }
        self.not_before.store(now + APART, Ordering::Relaxed);
        self.left.store(i64::try_from(room() / SHARE).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Default for Credit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_room_is_spent_and_then_asked_for_again() {
        let credit = Credit::new();
        assert!(!credit.spend(1), "nothing is known of the room");
        credit.renew_after(|| 400);
        assert!(credit.spend(60) && credit.spend(60), "the last write may overdraw");
        assert!(!credit.spend(1));
        credit.not_before.store(u64::MAX, Ordering::Relaxed);
        credit.renew_after(|| panic!("too soon"));
        credit.not_before.store(0, Ordering::Relaxed);
        credit.renew_after(|| 0);
        assert!(!credit.spend(1), "there is no room");
        credit.not_before.store(0, Ordering::Relaxed);
        credit.renew_after(|| 4);
        credit.not_before.store(0, Ordering::Relaxed);
        credit.renew_after(|| panic!("there is credit"));
        assert!(credit.spend(1));
    }
}
