//! Room for the calls that wait for a thread or run on one, of all connections together.
//!
//! It is not for the first call of a connection, so that nobody waits for others without an end: who
//! has to wait has a call of its own under way, and looks again when that has ended.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of calls above which a connection that has one under way is not read.
const BYTES_MAX: usize = 128 * 1024 * 1024;

/// The bytes that are taken.
#[derive(Debug, Default)]
pub struct Room(AtomicUsize);

impl Room {
    /// Whether there is some left.
    pub fn is_left(&self) -> bool {
        self.0.load(Ordering::SeqCst) < BYTES_MAX
    }

    /// Takes some, whether it is left or not.
    pub fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Gives some back.
    pub fn give(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
    }
}
