//! The core of the program: the state that the calls of all versions share.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;

use crate::export::table::Exports;
use crate::fs::Fs;
use crate::sched::dirty_budget::DirtyBudget;
use crate::sched::lanes::Lane;
use crate::sched::pace::ChangePace;

/// Largest READ and WRITE transfer, in bytes.
pub const TRANSFER_MAX: u32 = 1024 * 1024;

/// Largest call, in bytes: a WRITE whose header, credentials and arguments fit into 4 KiB.
pub const CALL_MAX: usize = TRANSFER_MAX as usize + 4096;

/// The state that the calls of all versions share.
pub struct Core {
    /// The file system operations.
    pub fs: Arc<Fs>,
    /// The exports. Each call uses them as they are when it begins.
    pub exports: Arc<Exports>,
    /// How long changes take.
    pub pace: ChangePace,
    /// Room for large writes on threads that must not block.
    pub dirty_budget: DirtyBudget,
    hasher: RandomState,
    processors: usize,
}

/// The calls that wait for each other, for one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Changes of a file or directory. They take its lock, so one runs at a time.
    Changes,
    /// Listings of a directory. They share its read position, so no more run than there are
    /// processors.
    Listings,
}

impl Core {
    /// Serves `exports`; their directories must be attached to `fs`.
    pub fn new(fs: Arc<Fs>, exports: Arc<Exports>) -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self {
            fs,
            exports,
            pace: ChangePace::new(),
            dirty_budget: DirtyBudget::new(),
            hasher: RandomState::new(),
            processors,
        }
    }

    /// Returns the lane of a call for the file with this handle, as received.
    pub fn lane(&self, kind: LaneKind, handle: &[u8]) -> Lane {
        let width = match kind {
            LaneKind::Changes => 1,
            LaneKind::Listings => self.processors,
        };
        Lane { key: self.hasher.hash_one((kind == LaneKind::Listings, handle)), width }
    }
}
