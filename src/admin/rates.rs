//! Throughput, from samples of the counters every few seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::telemetry::metrics::Throughput;

/// Sampling interval.
pub const EVERY: Duration = Duration::from_secs(3);

/// Number of rates that are kept: five minutes.
const KEPT: usize = 100;

/// Throughput of NFS, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Calls.
    pub calls: f64,
    /// Bytes read.
    pub read: f64,
    /// Bytes written.
    pub written: f64,
}

/// The rates of the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    last: Option<(Instant, Throughput)>,
    rates: VecDeque<Rate>,
}

impl Rates {
    /// Adds a sample: the counters at `now`.
    pub fn sample(&mut self, now: Instant, counted: Throughput) {
        let Some((then, before)) = self.last.replace((now, counted)) else { return };
        let seconds = now.duration_since(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        if self.rates.len() == KEPT {
            self.rates.pop_front();
        }
        let per_second = |now: u64, before: u64| as_float(now.saturating_sub(before)) / seconds;
        self.rates.push_back(Rate {
            calls: per_second(counted.calls, before.calls),
            read: per_second(counted.read, before.read),
            written: per_second(counted.written, before.written),
        });
    }

    /// Returns the latest rate.
    pub fn now(&self) -> Rate {
        self.rates.back().copied().unwrap_or_default()
    }

    /// Returns the rates that are kept, the oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rate> {
        self.rates.iter()
    }

    /// Returns approximately the time that the rates cover.
    pub fn span(&self) -> Duration {
        EVERY * u32::try_from(self.rates.len()).unwrap_or(u32::MAX)
    }
}

/// Converts a number for display: above 2^53, the last digits are lost.
#[allow(clippy::cast_precision_loss)]
pub const fn as_float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_of_two_samples_per_second() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.sample(start, Throughput { calls: 100, read: 0, written: 7 });
        assert_eq!(rates.now(), Rate::default());
        let counted = Throughput { calls: 300, read: 50, written: 7 };
        rates.sample(start + Duration::from_secs(2), counted);
        assert_eq!(rates.now(), Rate { calls: 100.0, read: 25.0, written: 0.0 });
        rates.sample(start + Duration::from_secs(4), counted);
        assert_eq!(rates.now(), Rate::default());
        assert_eq!(rates.iter().len(), 2);
    }

    #[test]
    fn the_oldest_rates_are_dropped() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for n in 0..1000 {
            let counted = Throughput { calls: n * n, read: 0, written: 0 };
            rates.sample(start + Duration::from_secs(n), counted);
        }
        assert_eq!(rates.iter().len(), KEPT);
        assert_eq!(rates.iter().next().unwrap().calls, 1799.0);
        assert_eq!(rates.now().calls, 1997.0);
        assert_eq!(rates.span(), Duration::from_secs(300));
    }
}
