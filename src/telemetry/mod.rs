//! Telemetry: the log, and the metrics.

pub mod bounded;
pub mod log;
pub mod metrics;
mod panics;
