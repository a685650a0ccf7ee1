//! What the next flush of a file's content has to cover.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How much of a file must be on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The content, and what is needed to read it again (fdatasync(2)).
    Data,
    /// All of it (fsync(2)).
    All,
}

/// The write descriptor that was open when a caller began to wait for a flush. Another flush or a
/// sweep may close it meanwhile, and then nothing else of the file need be open.
pub(in crate::fs) type KeptOpen = Option<Arc<OwnedFd>>;

/// What callers want of the next flush.
#[derive(Default)]
pub(in crate::fs) struct ContentRequest {
    pub(super) extent: Option<Extent>,
    pub(super) kept: KeptOpen,
}

impl ContentRequest {
    pub(super) fn add(&mut self, extent: Extent, kept: KeptOpen) {
        self.extent = self.extent.max(Some(extent));
        self.kept = self.kept.take().or(kept);
    }
}
