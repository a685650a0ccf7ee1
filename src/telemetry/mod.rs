//! What the process says of itself.

pub mod bounded;
pub mod log;
pub mod metrics;
mod panics;
