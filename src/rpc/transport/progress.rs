//! Whether a connection moves: how long ago it began what it is at, and until when it has kept up.
//!
//! A connection is at one thing at a time: a record that arrives, replies that the peer does not
//! take at once, or nothing. Its last complete call does not tell whether it moves: a WRITE of 1
//! MiB over a line of 64 kbit/s is complete after two minutes. Bytes do: each [`credit`] puts the
//! end of the time in which it has kept up forward, to the present at most. A peer at half the
//! minimum rate stays in the present; one that is slower falls behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock::credit;

/// The times of a connection, in microseconds since it was accepted. Written by its task, and
/// looked at by others.
#[derive(Debug)]
pub struct Progress {
    accepted: Instant,
    begun: AtomicU64,
    until: AtomicU64,
}

impl Progress {
    /// Of a connection that is accepted `now`.
    pub const fn new(now: Instant) -> Self {
        Self { accepted: now, begun: AtomicU64::new(0), until: AtomicU64::new(0) }
    }

    /// Notes that something was complete `at` that time, or begins then, or had waited for the
    /// server until then.
    pub fn begin(&self, at: Instant) {
        let at = self.micros(at);
        self.begun.store(at, Ordering::Relaxed);
        self.until.store(at, Ordering::Relaxed);
    }

    /// Notes that so many bytes were received or acknowledged until `now`.
    pub fn moved(&self, bytes: u64, now: Instant) {
        let before = self.until.load(Ordering::Relaxed);
        let credit = u64::try_from(credit(bytes).as_micros()).unwrap_or(u64::MAX);
        let until = before.saturating_add(credit).min(self.micros(now)).max(before);
        // If it has begun something else meanwhile, that counts.
        let _ = self.until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// When it began what it is at.
    pub fn begun(&self) -> Instant {
        self.accepted + Duration::from_micros(self.begun.load(Ordering::Relaxed))
    }

    /// Until when it has kept up.
    pub fn until(&self) -> Instant {
        self.accepted + Duration::from_micros(self.until.load(Ordering::Relaxed))
    }

    fn micros(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.accepted).as_micros();
        u64::try_from(after).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds a connection is behind that began a minute ago and moves `bytes` each
    /// second.
    fn behind(bytes: u64) -> u64 {
        let start = Instant::now();
        let progress = Progress::new(start);
        progress.begin(start + Duration::from_secs(10));
        for second in 11..=70 {
            progress.moved(bytes, start + Duration::from_secs(second));
        }
        assert_eq!(progress.begun(), start + Duration::from_secs(10));
        (start + Duration::from_secs(70) - progress.until()).as_secs()
    }

    #[test]
    fn who_moves_at_half_the_minimum_rate_is_not_behind() {
        assert_eq!(behind(u64::MAX), 0);
        assert_eq!(behind(8 * 1024), 0);
        assert_eq!(behind(4 * 1024), 0);
    }

    #[test]
    fn who_is_slower_falls_behind() {
        assert_eq!(behind(2 * 1024), 30);
        assert!(behind(1) >= 59);
        assert_eq!(behind(0), 60);
    }

    #[test]
    fn having_been_quick_is_no_excuse() {
        let start = Instant::now();
        let progress = Progress::new(start);
        let second = start + Duration::from_secs(1);
        progress.moved(1 << 40, second);
        progress.moved(0, start + Duration::from_secs(60));
        assert_eq!(progress.until(), second);
    }
}
