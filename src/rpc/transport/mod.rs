//! Sockets, and back-pressure: which calls are read, answered at once or deferred.
//!
//! ```text
//!   server -- accepts --> connections: admits it, or not
//!      |                     |
//!      |                  connection (a task of one data-plane thread)
//!      |                     |  intake: reads records
//!      |                     |  batch: answers the records of one read
//!      |                     |      |
//!      |                     |      +--> deferred: calls that run on another thread
//!      |                     |                 |
//!      |                  outbox <-------------+   replies, until the socket takes them
//!   datagram                 |
//!      |                  memory_budget, progress: how much a connection may hold
//! ```

mod batch;
mod buffers;
mod connection;
pub mod connections;
mod datagram;
mod deadline;
mod deferred;
#[cfg(test)]
mod fixture;
mod handover;
mod intake;
pub mod memory_budget;
mod outbox;
mod pressure;
mod progress;
pub mod server;
pub mod shared;
mod sync;
mod unacknowledged;
