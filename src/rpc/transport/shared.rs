//! What the connections of a server share, and what bounds each of them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::memory_budget::MemoryBudget;
use crate::sched::pool::{Pool, Work};
use crate::telemetry::metrics::Metrics;

/// The piece in which sockets are read. Small calls in it are answered together.
pub const SCRATCH: usize = 256 * 1024;

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest record, in bytes.
    pub record: usize,
    /// A connection without calls is closed after this time.
    pub idle: Duration,
    /// A peer that stops in the middle of a call, or takes no replies, or is too slow with either,
    /// is disconnected after this time.
    pub stalled: Duration,
}

/// What the connections of a server share. Generic over the pool's work, because that work refers
/// to it.
pub struct Shared<W: Work> {
    /// The threads that may block.
    pub pool: Arc<Pool<W>>,
    /// Large buffers.
    pub buffers: Arc<Buffers>,
    /// The memory that connections may hold.
    pub budget: Arc<MemoryBudget>,
    /// Bounds of each connection.
    pub limits: Limits,
    /// Cancelled when the server stops: no more is read, and calls that were read are answered.
    pub drain: CancellationToken,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}
