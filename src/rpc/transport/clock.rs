//! How long a peer may take to send a record, or to take its replies.
//!
//! A deadline for each byte lets a peer that sends one now and then hold a record for ever; a
//! deadline for the whole closes an honest client on a slow line. So there is a deadline, and every
//! [`RATE`] bytes put it off by a second: whoever keeps that rate up is never late. It is never put
//! off further than from now on, so that nobody is slow on what it was quick with before.

use std::time::{Duration, Instant};

/// Bytes a second at which a peer is never late: 64 kbit/s.
const RATE: u64 = 8 * 1024;

/// For how long a peer that moved so many bytes has kept up: twice the time that they may take,
/// because lines are uneven.
pub fn credit(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(2_000_000) / RATE)
}

/// The deadline of a peer that has something to send or to take.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    due: Instant,
    /// The bytes that had been sent or taken when the deadline was last put off.
    seen: u64,
}

impl Clock {
    /// Starts at `now`, after `total` bytes; the peer has `patience` at first.
    pub fn start(now: Instant, total: u64, patience: Duration) -> Self {
        Self { due: now + patience, seen: total }
    }

    /// When it is to be looked at next.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Whether the peer is in time at `now`, after `total` bytes. Asks for the total only if the
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

    /// After how many seconds a peer is late that sends `bytes` every `seconds`; an hour at most.
    fn late_after(bytes: u64, seconds: u64) -> Option<u64> {
        let start = Instant::now();
        let mut clock = Clock::start(start, 0, PATIENCE);
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
        let mut clock = Clock::start(start, 0, PATIENCE);
        assert!(clock.is_in_time(start + PATIENCE, || 1 << 40, PATIENCE));
        assert!(!clock.is_in_time(start + PATIENCE * 2, || 1 << 40, PATIENCE));
    }
}
