//! What came through an export: counters that every call moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of an export, shared by all copies of it. They say nothing of what the export is, so
/// that all are equal.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub calls: u64,
    /// Bytes that clients read.
    pub read: u64,
    /// Bytes that they wrote.
    pub written: u64,
}

impl Traffic {
    /// Notes a call.
    pub fn call(&self) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that so many bytes were read.
    pub fn read(&self, bytes: usize) {
        self.0.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that so many bytes were written.
    pub fn written(&self, bytes: usize) {
        self.0.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What came through until now.
    pub fn sums(&self) -> Sums {
        let Counters { calls, read, written } = &*self.0;
        let [calls, read, written] = [calls, read, written].map(|n| n.load(Ordering::Relaxed));
        Sums { calls, read, written }
    }
}

impl PartialEq for Traffic {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Traffic {}
