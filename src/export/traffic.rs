//! Traffic counters of an export, updated by every call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The counters of an export, shared by all its clones. They compare equal, because they are not
/// part of what the export is.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// A snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTotals {
    /// NFS calls.
    pub calls: u64,
    /// Bytes that clients read.
    pub read: u64,
    /// Bytes that clients wrote.
    pub written: u64,
}

impl Traffic {
    /// Counts a call.
    pub fn call(&self) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that a client read.
    pub fn read(&self, bytes: usize) {
        self.0.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that a client wrote.
    pub fn written(&self, bytes: usize) {
        self.0.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the totals so far.
    pub fn totals(&self) -> TrafficTotals {
        let Counters { calls, read, written } = &*self.0;
        let [calls, read, written] = [calls, read, written].map(|n| n.load(Ordering::Relaxed));
        TrafficTotals { calls, read, written }
    }
}

impl PartialEq for Traffic {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Traffic {}
