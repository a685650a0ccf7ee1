//! Whether changes are quick at the moment.
//!
//! A change in the page cache takes microseconds, and is best made on the thread that read the
//! call. When the disk is behind, the kernel makes writers wait, for as long as it takes; then
//! changes go to the pool, and nobody else's calls wait with them, until none there has been slow
//! for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sys::{Patience, process};

/// A change that takes longer has waited for something.
const LONG: Duration = Duration::from_millis(2);

/// How long changes are put off after the last such one.
const RESPITE: Duration = Duration::from_millis(250);

/// Watches how long changes take.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    /// Milliseconds after `start` until which changes are put off.
    slow_until: AtomicU64,
}

impl Pace {
    /// Takes changes to be quick until one is not.
    pub fn new() -> Self {
        Self { start: Instant::now(), slow_until: AtomicU64::new(0) }
    }

    /// Whether a change may be tried where nobody should have to wait.
    pub fn is_quick(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until == 0 || millis(self.start.elapsed()) >= until
    }

    /// Runs `change`, with an eye on the clock.
    pub fn watch<T>(&self, patience: Patience, change: impl FnOnce() -> T) -> T {
        // In the pool a change may also take long because other threads had their turn, which must
        // not keep changes there. Elsewhere it is not worth asking.
        let slept_before = (patience == Patience::Blocking).then(process::sleeps);
        let begin = Instant::now();
        let result = change();
        let is_long = begin.elapsed() > LONG;
        if is_long && slept_before.is_none_or(|before| process::sleeps() > before) {
            let until = millis(self.start.elapsed() + RESPITE);
            self.slow_until.store(until, Ordering::Relaxed);
        }
        result
    }
}

impl Default for Pace {
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

    const ENOUGH: Duration = LONG.saturating_mul(2);

    fn work() {
        let begin = Instant::now();
        while begin.elapsed() < ENOUGH {}
    }

    #[test]
    fn what_waited_puts_changes_off_wherever_it_ran() {
        for patience in [Patience::None, Patience::Blocking] {
            let pace = Pace::new();
            pace.watch(patience, || ());
            assert!(pace.is_quick());
            pace.watch(patience, || thread::sleep(ENOUGH));
            assert!(!pace.is_quick(), "{patience:?}");
        }
    }

    #[test]
    fn work_in_the_pool_is_no_reason() {
        let pace = Pace::new();
        pace.watch(Patience::Blocking, work);
        assert!(pace.is_quick());
        pace.watch(Patience::None, work);
        assert!(!pace.is_quick(), "somebody waited for this one, whatever the reason");
    }
}
