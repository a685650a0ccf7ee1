//! Sockets, and the calls that come over them: which are read, answered or kept waiting.
//!
//! ```text
//!   server -- accepts --> connections: has it a seat?
//!      |                     |
//!      |                  connection (a task of one data-plane thread)
//!      |                     |  intake: reads records
//!      |                     |  batch: answers what came together
//!      |                     |      |
//!      |                     |      +--> deferred: calls that another thread has
//!      |                     |                 |
//!      |                  outbox <-------------+   replies, until the socket takes them
//!   datagram                 |
//!      |                  memory_budget, progress: which connections may hold how much
//! ```

mod batch;
mod buffers;
mod clock;
mod connection;
pub mod connections;
mod datagram;
mod deferred;
#[cfg(test)]
mod fixture;
mod handover;
mod intake;
pub mod memory_budget;
mod outbox;
mod pressure;
mod progress;
mod sent;
pub mod server;
pub mod shared;
mod sync;
