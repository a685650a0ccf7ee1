//! The progress of a connection: when its current transfer began, and until when it has kept up.
//!
//! A connection has one transfer at a time: a record that arrives, replies that the peer does not
//! take at once, or none. The time of the last complete call does not show progress: a WRITE of 1
//! MiB over a line of 64 kbit/s takes two minutes. Bytes do: the [`credit`] for them moves the time
//! until which the connection has kept up forward, but not into the future. A peer at half the
//! minimum rate stays at the present; a slower one falls behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::deadline::credit;

/// The times of a connection, in microseconds since it was accepted. Written by its task, and read
/// by other threads.
#[derive(Debug)]
pub struct ConnectionProgress {
    accepted: Instant,
    begun: AtomicU64,
    until: AtomicU64,
}

impl ConnectionProgress {
    /// Creates the progress of a connection that is accepted `now`.
    pub const fn new(now: Instant) -> Self {
        Self { accepted: now, begun: AtomicU64::new(0), until: AtomicU64::new(0) }
    }

    /// Notes that a transfer ended or began `at` that time, or had waited for the server until
    /// then.
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
        // If another transfer has begun meanwhile, its time counts.
        let _ = self.until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns when the current transfer began.
    pub fn begun(&self) -> Instant {
        self.accepted + Duration::from_micros(self.begun.load(Ordering::Relaxed))
    }

    /// Returns until when the connection has kept up.
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

    /// Returns how many seconds a connection is behind whose transfer began a minute ago and moves
    /// `bytes` each second.
    fn behind(bytes: u64) -> u64 {
        let start = Instant::now();
        let progress = ConnectionProgress::new(start);
        progress.begin(start + Duration::from_secs(10));
        for second in 11..=70 {
            progress.moved(bytes, start + Duration::from_secs(second));
        }
        assert_eq!(progress.begun(), start + Duration::from_secs(10));
        (start + Duration::from_secs(70) - progress.until()).as_secs()
    }

    #[test]
    fn half_the_minimum_rate_is_not_behind() {
        assert_eq!(behind(u64::MAX), 0);
        assert_eq!(behind(8 * 1024), 0);
        assert_eq!(behind(4 * 1024), 0);
    }

    #[test]
    fn a_slower_connection_falls_behind() {
        assert_eq!(behind(2 * 1024), 30);
        assert!(behind(1) >= 59);
        assert_eq!(behind(0), 60);
    }

    #[test]
    fn having_been_quick_is_no_excuse() {
        let start = Instant::now();
        let progress = ConnectionProgress::new(start);
        let second = start + Duration::from_secs(1);
        progress.moved(1 << 40, second);
        progress.moved(0, start + Duration::from_secs(60));
        assert_eq!(progress.until(), second);
    }
}
