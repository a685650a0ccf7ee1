//! A bound on the descriptors of all searches together, so that searches leave descriptors for
//! other calls.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::Result;
use crate::fs::error::Error;

/// Descriptors that a descent has open at most: of the current directory, of its listing, of the
/// entry that is being opened, and of the directory in which it began.
pub(super) const PER_DESCENT: usize = 4;

/// The part of the descriptors for files that all searches have together: an eighth.
const DIVISOR: usize = 8;

/// The least budget: a search that leads through moved directories takes several descents.
pub(super) const MIN: usize = 16 * PER_DESCENT;

/// The descriptors that are left.
pub(in crate::fs) struct DescentBudget {
    free: AtomicUsize,
}

/// The descriptors of one descent, until this is dropped.
pub(super) struct DescentPermit<'a>(&'a DescentBudget);

impl DescentBudget {
    /// Creates the budget where files may have `max` descriptors.
    pub(in crate::fs) fn new(max: usize) -> Self {
        Self { free: AtomicUsize::new((max / DIVISOR).max(MIN)) }
    }

    /// Takes the descriptors for a descent. Does not block.
    ///
    /// # Errors
    /// [`Error::Busy`] if other searches have them.
    pub(super) fn take(&self) -> Result<DescentPermit<'_>, Error> {
        let take = |free: usize| free.checked_sub(PER_DESCENT);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(|_| DescentPermit(self)).map_err(|_| Error::Busy)
    }
}

impl Drop for DescentPermit<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(PER_DESCENT, Ordering::Relaxed);
    }
}
