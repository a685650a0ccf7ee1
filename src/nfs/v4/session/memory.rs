//! The memory of all sessions, with their slots and replies.
//!
//! ```text
//!   Charge (a session) --> AddressShare (an address) --> SlotMemory
//! ```
//!
//! An address may hold [`SHARE`] times as much as is free, as in
//! [`crate::rpc::transport::memory_budget`]: one address gets two thirds, and leaves room for
//! others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many times the free memory an address may hold.
const SHARE: usize = 2;

/// The memory of all sessions.
#[derive(Debug)]
pub(super) struct SlotMemory {
    limit: usize,
    used: AtomicUsize,
}

/// The memory of the sessions of one address.
#[derive(Debug)]
pub(super) struct AddressShare {
    memory: Arc<SlotMemory>,
    held: AtomicUsize,
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Something that must be kept.
    Must,
    /// Something that need not be kept. It never takes the second half of the memory.
    May,
}

/// The memory of one session, given back when this is dropped.
#[derive(Debug)]
pub(super) struct SlotCharge {
    share: Arc<AddressShare>,
    bytes: usize,
}

impl SlotMemory {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Returns the bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether three quarters are in use. Clients are then told to use fewer slots.
    pub(super) fn is_scarce(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }
}

impl AddressShare {
    pub(super) const fn new(memory: Arc<SlotMemory>) -> Self {
        Self { memory, held: AtomicUsize::new(0) }
    }

    /// Takes memory. Returns whether there was enough.
    fn take(&self, bytes: usize, need: Need) -> bool {
        let limit = match need {
            Need::Must => self.memory.limit,
            Need::May => self.memory.limit / 2,
        };
        // Two threads of one address may both pass the comparison with its share; the limit of all
        // is exact.
        let held = self.held.load(Ordering::Relaxed) + bytes;
        let grown = |used: usize| {
            let used = used.checked_add(bytes).filter(|used| *used <= limit)?;
            (held <= (self.memory.limit - used).saturating_mul(SHARE)).then_some(used)
        };
        let used = &self.memory.used;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl SlotCharge {
    /// Charges nothing yet.
    pub(super) const fn new(share: Arc<AddressShare>) -> Self {
        Self { share, bytes: 0 }
    }

    /// Takes more memory. Returns whether there was enough.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: usize, need: Need) -> bool {
        let taken = self.share.take(bytes, need);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Gives some memory back.
    pub(super) fn shrink(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes, "more is given back than was taken");
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.share.give_back(bytes);
    }

    /// Returns whether clients should use fewer slots.
    pub(super) fn is_scarce(&self) -> bool {
        self.share.memory.is_scarce()
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SlotCharge {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}
