//! The right to change files: their locks, held.

use std::cell::Cell;

use parking_lot::MutexGuard;

use super::Fs;
use super::error::Error;
use super::node::Node;
use crate::errno::Result;
use crate::sched::Patience;

/// The right to change one or two files, until it is dropped.
#[must_use = "the files are unlocked when this is dropped"]
pub struct Guard<'a> {
    /// The patience of the call, for further locks.
    pub(super) patience: Patience,
    /// Whether the last room that was requested is held until files are flushed.
    pub(super) room_later: Cell<bool>,
    _first: MutexGuard<'a, ()>,
    _second: Option<MutexGuard<'a, ()>>,
}

impl<'a> Guard<'a> {
    fn new(
        patience: Patience,
        first: MutexGuard<'a, ()>,
        second: Option<MutexGuard<'a, ()>>,
    ) -> Self {
        Self { patience, room_later: Cell::new(false), _first: first, _second: second }
    }

    /// Whether the change that failed with `ENOSPC` may fit after files of its volume have been
    /// flushed ([`Fs::flush_volume`]): room is held for what they may turn out to take.
    pub const fn may_have_room_later(&self) -> bool {
        self.room_later.get()
    }
}

impl Fs {
    /// Locks a file for a change.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if another change is under way.
    pub fn lock(&self, node: &Node, patience: Patience) -> Result<Guard<'_>, Error> {
        let first = self.lock_stripe(node.fileid, patience)?;
        Ok(Guard::new(patience, first, None))
    }

    /// Locks two files for a change of both.
    ///
    /// # Errors
    /// As [`Fs::lock`].
    pub fn lock_both(
        &self,
        one: &Node,
        other: &Node,
        patience: Patience,
    ) -> Result<Guard<'_>, Error> {
        let (a, b) = (self.locks.index(one.fileid), self.locks.index(other.fileid));
        // Always in this order: two calls that need the same locks must not wait for each other.
        let first = self.locks.lock(a.min(b), patience)?;
        let second = if a == b { None } else { Some(self.locks.lock(a.max(b), patience)?) };
        Ok(Guard::new(patience, first, second))
    }

    /// Locks the file with this number.
    ///
    /// # Errors
    /// As [`Fs::lock`].
    pub(super) fn lock_stripe(
        &self,
        fileid: u64,
        patience: Patience,
    ) -> Result<MutexGuard<'_, ()>, Error> {
        self.locks.lock(self.locks.index(fileid), patience)
    }

    /// Waits until every change has ended that is under way now.
    pub(super) fn wait_for_changes(&self) {
        self.locks.wait_for_all();
    }
}
