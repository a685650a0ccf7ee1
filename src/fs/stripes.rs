//! Locks for files, by number: a file has one of many, which two files may share.

use std::hash::{BuildHasher, RandomState};

use parking_lot::{Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::sched::Patience;

/// How many locks there are.
const LOCKS: usize = 1024;

/// Locks that protect nothing but an order of deeds, so that a panic spoils nothing.
pub(super) struct Stripes {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Stripes {
    pub(super) fn new() -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self { locks, hasher: RandomState::new() }
    }

    /// Which lock a file has. By number alone: the same file reached through two exports must find
    /// the same lock.
    pub(super) fn index(&self, fileid: u64) -> usize {
        #[allow(clippy::cast_possible_truncation)] // below LOCKS
        let index = (self.hasher.hash_one(fileid) % LOCKS as u64) as usize;
        index
    }

    /// Locks what has this index.
    ///
    /// # Errors
    /// `EAGAIN` without patience, if it is locked.
    pub(super) fn lock(&self, index: usize, patience: Patience) -> Result<MutexGuard<'_, ()>> {
        let lock = &self.locks[index];
        match patience {
            Patience::Blocking => Ok(lock.lock()),
            Patience::None => lock.try_lock().ok_or(Errno::AGAIN),
        }
    }

    /// Waits until everybody who has a lock now has given it back. Those who take one meanwhile are
    /// not waited for.
    pub(super) fn wait_for_all(&self) {
        for lock in &self.locks {
            drop(lock.lock());
        }
    }
}
