//! The primitives of [`super::handover`]. The model checker's test of that file has others.

pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use parking_lot::{Mutex, MutexGuard};
pub use tokio::sync::Notify;
