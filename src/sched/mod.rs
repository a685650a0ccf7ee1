//! Threads and waiting, without any protocol: which thread runs a piece of work, and whether it may
//! block.
//!
//! ```text
//!   a data-plane thread, which must not block          a thread of the pool, which may
//!     Patience::None                                     Patience::Blocking
//!     affinity: runs where its packets arrive            lanes: work that would wait for other
//!     pace, dirty_budget: whether the disk               work queues without a thread
//!       keeps up with changes                            idle: which waiting thread is woken
//! ```

pub mod affinity;
pub mod dirty_budget;
pub mod idle;
pub mod lanes;
pub mod pace;
mod patience;
pub mod pool;

pub use patience::Patience;
