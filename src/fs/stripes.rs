//! Locks for files, by number: a file has one of many, which two files may share.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::errno::{Errno, Result};
use crate::sys::Patience;

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
            Patience::Blocking => Ok(lock.lock().unwrap_or_else(PoisonError::into_inner)),
            Patience::None => match lock.try_lock() {
                Ok(guard) => Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => Err(Errno::AGAIN),
            },
        }
    }

    /// Waits until everybody who has a lock now has given it back. Those who take one meanwhile are
    /// not waited for.
    pub(super) fn wait_for_all(&self) {
        for lock in &self.locks {
            drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
