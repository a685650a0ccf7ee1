//! Striped locks for files: a file has one of many locks, by its inode number.

use std::hash::{BuildHasher, RandomState};

use parking_lot::{Mutex, MutexGuard};

use super::error::Error;
use crate::errno::Result;
use crate::sched::Patience;

/// The number of locks.
const LOCKS: usize = 1024;

/// Locks that order changes, and protect no data.
pub(super) struct Stripes {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Stripes {
    pub(super) fn new() -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self { locks, hasher: RandomState::new() }
    }

    /// Returns the index of a file's lock. It depends on the number alone: the same file, reached
    /// through two exports, must have the same lock.
    pub(super) fn index(&self, fileid: u64) -> usize {
        #[allow(clippy::cast_possible_truncation)] // below LOCKS
        let index = (self.hasher.hash_one(fileid) % LOCKS as u64) as usize;
        index
    }

    /// Takes the lock with this index. Blocks with patience.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if another thread has it.
    pub(super) fn lock(
        &self,
        index: usize,
        patience: Patience,
    ) -> Result<MutexGuard<'_, ()>, Error> {
        let lock = &self.locks[index];
        match patience {
            Patience::Blocking => Ok(lock.lock()),
            Patience::None => lock.try_lock().ok_or(Error::WouldBlock),
        }
    }

    /// Waits until every lock that is held now was released. Does not wait for threads that take
    /// one meanwhile.
    pub(super) fn wait_for_all(&self) {
        for lock in &self.locks {
            drop(lock.lock());
        }
    }
}
