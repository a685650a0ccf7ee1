//! How long a peer may take to send a record, or to take its replies.
//!
//! A timeout for each byte would let a peer hold a record forever by sending a byte now and then; a
//! timeout for the whole record would disconnect an honest client on a slow line. So every [`RATE`]
//! bytes extend the deadline by a second, and a peer that keeps up that rate is never late. The
//! deadline is at most the full timeout away, so a peer cannot save up time by having been fast.

use std::time::{Duration, Instant};

/// The rate at which a peer is never late, in bytes per second: 64 kbit/s.
const RATE: u64 = 8 * 1024;

/// Returns the time for which a peer has kept up by moving so many bytes: twice what they may take
/// at [`RATE`], because the rate of a line varies.
pub fn credit(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(2_000_000) / RATE)
}

/// The deadline of a peer that must send a record or take replies.
#[derive(Clone, Copy, Debug)]
pub struct PeerDeadline {
    due: Instant,
    /// The total of bytes when the deadline was last extended.
    seen: u64,
}

impl PeerDeadline {
    /// Starts at `now`, after `total` bytes, with a timeout of `patience`.
    pub fn start(now: Instant, total: u64, patience: Duration) -> Self {
        Self { due: now + patience, seen: total }
    }

    /// Returns when to check it next.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Whether the peer is in time at `now`, after `total` bytes. Calls `total` only if the
    /// deadline has passed.
    pub fn is_in_time(
        &mut self,
        now: Instant,
        total: impl FnOnce() -> u64,
        patience: Duration,
    ) -> bool {
        if now < self.due {
            return true;
        }
        let total = total();
        let millis = total.saturating_sub(self.seen).saturating_mul(1000) / RATE;
        self.seen = total;
        self.due = self.due.checked_add(Duration::from_millis(millis)).unwrap_or(now + patience);
        self.due = self.due.min(now + patience);
        now < self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Returns the second at which a peer is late that sends `bytes` every `seconds`, within an
    /// hour.
    fn late_after(bytes: u64, seconds: u64) -> Option<u64> {
        let start = Instant::now();
        let mut clock = PeerDeadline::start(start, 0, PATIENCE);
        (1..3600).find(|&second| {
            let now = start + Duration::from_secs(second);
            !clock.is_in_time(now, || second / seconds * bytes, PATIENCE)
        })
    }

    #[test]
    fn silence_is_late_after_the_patience() {
        assert_eq!(late_after(0, 1), Some(60));
    }

    #[test]
    fn a_byte_now_and_then_buys_next_to_nothing() {
        assert!(late_after(1, 3).is_some_and(|second| second < 62));
        assert!(late_after(1, 1).is_some_and(|second| second < 62));
        assert!(late_after(1000, 1).is_some_and(|second| second < 70));
    }

    #[test]
    fn a_slow_line_is_in_time_for_ever() {
        assert_eq!(late_after(RATE, 1), None);
        assert_eq!(late_after(RATE * 10, 10), None);
        assert_eq!(late_after(RATE * 50, 50), None, "in bursts, too");
    }

    #[test]
    fn having_been_quick_is_no_excuse() {
        let start = Instant::now();
        let mut clock = PeerDeadline::start(start, 0, PATIENCE);
        assert!(clock.is_in_time(start + PATIENCE, || 1 << 40, PATIENCE));
        assert!(!clock.is_in_time(start + PATIENCE * 2, || 1 << 40, PATIENCE));
    }
}
