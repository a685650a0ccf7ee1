//! The resources that connections share, and the limits of each connection.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::memory_budget::MemoryBudget;
use crate::sched::pool::{Pool, Work};
use crate::telemetry::metrics::Metrics;

/// The maximum size of a read from a socket, in bytes. The small calls in it are one batch.
pub const SCRATCH: usize = 256 * 1024;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Largest record, in bytes.
    pub record: usize,
    /// A connection without calls is closed after this time.
    pub idle: Duration,
    /// A peer that stops in the middle of a call, takes no replies, or does either too slowly is
    /// disconnected after this time.
    pub stalled: Duration,
}

/// The resources that the connections of a server share. Generic over the pool's work, because that
/// work refers to them.
pub struct SharedResources<W: Work> {
    /// The threads that may block.
    pub pool: Arc<Pool<W>>,
    /// The pool of large buffers.
    pub buffers: Arc<Buffers>,
    /// The memory that connections may hold.
    pub budget: Arc<MemoryBudget>,
    /// The limits of each connection.
    pub limits: ConnectionLimits,
    /// Cancelled when the server stops. Nothing is read then; calls that were read are answered.
    pub drain: CancellationToken,
    /// Counts the calls.
    pub metrics: Arc<Metrics>,
}
