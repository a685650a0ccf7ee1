//! Whether changes are quick at the moment.
//!
//! A change in the page cache takes microseconds, and is best made on the thread that read the
//! call. When the disk is behind, the kernel makes writers wait, for as long as it takes; then
//! changes go to the pool for a while, and nobody else's calls wait with them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sys::Patience;

/// A change that takes longer has waited for something.
const LONG: Duration = Duration::from_millis(2);

/// How long changes are put off after such a one.
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

    /// Runs `change`, with an eye on the clock if others wait for it.
    pub fn watch<T>(&self, patience: Patience, change: impl FnOnce() -> T) -> T {
        if patience == Patience::Blocking {
            return change();
        }
        let begin = Instant::now();
        let result = change();
        if begin.elapsed() > LONG {
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
