//! The result as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Outcome;
use crate::image::MIB;
use crate::workload::{Unit, Workload};

/// The measurements of one workload, and the server's CPU time for it.
pub struct Line {
    pub workload: &'static Workload,
    pub outcome: Outcome,
    pub cpu: Option<Duration>,
}

impl Line {
    /// The number that CPU time is divided by: entries for READDIRPLUS, otherwise calls.
    fn divisor(&self) -> u64 {
        match self.workload.unit {
            Unit::Entries => self.outcome.units,
            Unit::Calls | Unit::Bytes => self.outcome.calls,
        }
    }

    fn cpu_us(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.divisor() as f64)
    }

    fn per_second(&self) -> f64 {
        let done = match self.workload.unit {
            Unit::Calls => self.outcome.calls as f64,
            Unit::Bytes => self.outcome.units as f64 / MIB as f64,
            Unit::Entries => self.outcome.units as f64,
        };
        done / self.outcome.elapsed.as_secs_f64()
    }

    fn unit(&self) -> &'static str {
        match self.workload.unit {
            Unit::Calls => "calls",
            Unit::Bytes => "MiB",
            Unit::Entries => "entries",
        }
    }

    fn percentile_us(&self, percent: f64) -> f64 {
        self.outcome.nanoseconds.value_at_quantile(percent / 100.0) as f64 / 1e3
    }

    pub fn text(&self) -> String {
        let cpu = self.cpu_us().map_or("-".to_owned(), |us| format!("{us:.2}"));
        format!(
            "{:14} {:8} {:11.0} {:9} {:9.0} {:9.0} {:>9}",
            self.workload.name,
            self.outcome.calls,
            self.per_second(),
            format!("{}/s", self.unit()),
            self.percentile_us(50.0),
            self.percentile_us(99.0),
            cpu
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "name": self.workload.name,
            "calls": self.outcome.calls,
            "seconds": self.outcome.elapsed.as_secs_f64(),
            "unit": self.unit(),
            "per_second": self.per_second(),
            "p50_us": self.percentile_us(50.0),
            "p99_us": self.percentile_us(99.0),
            "cpu_us": self.cpu_us(),
        })
    }
}

/// The header of the table that `Line::text` fills.
pub fn head() -> String {
    format!(
        "{:14} {:>8} {:>11} {:9} {:>9} {:>9} {:>9}",
        "workload", "calls", "rate", "", "p50 us", "p99 us", "CPU us"
    )
}
