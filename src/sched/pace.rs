//! Detects slow changes.
//!
//! A change in the page cache takes microseconds and is best made on the thread that read the call.
//! When the disk falls behind, the kernel blocks writers for as long as it needs. Changes then run
//! in the pool, where they delay no other calls, until none has been slow for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Patience;
use crate::sys::process;

/// A change that takes longer has waited for something.
const SLOW: Duration = Duration::from_millis(2);

/// How long changes run in the pool after the last slow one.
const BACKOFF: Duration = Duration::from_millis(250);

/// Tracks how long changes take.
#[derive(Debug)]
pub struct ChangePace {
    start: Instant,
    /// When changes count as quick again, in milliseconds after `start`.
    slow_until: AtomicU64,
}

impl ChangePace {
    /// Assumes that changes are quick.
    pub fn new() -> Self {
        Self { start: Instant::now(), slow_until: AtomicU64::new(0) }
    }

    /// Whether a change may run on a thread that must not block.
    pub fn is_quick(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until == 0 || millis(self.start.elapsed()) >= until
    }

    /// Runs `change` and measures it.
    pub fn measure<T>(&self, patience: Patience, change: impl FnOnce() -> T) -> T {
        // A pool thread may also have been preempted, which must not keep changes in the pool:
        // there, only a change that slept is slow. On other threads every slow change counts.
        let slept_before = (patience == Patience::Blocking).then(process::sleeps);
        let begin = Instant::now();
        let result = change();
        let is_slow = begin.elapsed() > SLOW;
        if is_slow && slept_before.is_none_or(|before| process::sleeps() > before) {
            let until = millis(self.start.elapsed() + BACKOFF);
            self.slow_until.store(until, Ordering::Relaxed);
        }
        result
    }
}

impl Default for ChangePace {
    fn default() -> Self {
        Self::new()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SLOWER: Duration = SLOW.saturating_mul(2);

    fn work() {
        let begin = Instant::now();
        while begin.elapsed() < SLOWER {}
    }

    #[test]
    fn a_change_that_slept_is_slow_on_any_thread() {
        for patience in [Patience::None, Patience::Blocking] {
            let pace = ChangePace::new();
            pace.measure(patience, || ());
            assert!(pace.is_quick());
            pace.measure(patience, || thread::sleep(SLOWER));
            assert!(!pace.is_quick(), "{patience:?}");
        }
    }

    #[test]
    fn a_busy_change_in_the_pool_is_not_slow() {
        let pace = ChangePace::new();
        pace.measure(Patience::Blocking, work);
        assert!(pace.is_quick());
        pace.measure(Patience::None, work);
        assert!(!pace.is_quick(), "other calls of the thread waited for this one");
    }
}
