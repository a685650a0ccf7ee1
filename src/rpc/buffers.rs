//! Large buffers that are used again: for records of WRITEs and for replies of READs.
//!
//! A fresh megabyte costs more to map and to clear than to copy, so that buffers go back here.

use std::sync::{Mutex, PoisonError};

/// Buffers that are kept.
const KEPT: usize = 48;

/// Smaller ones are not worth it.
const SMALL: usize = 16 * 1024;

/// Larger ones are not kept: they were a burst.
const LARGE: usize = 2 * 1024 * 1024;

/// A stock of empty buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer, of some capacity if there is one.
    pub fn take(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a buffer back; its content is dropped.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if (SMALL..=LARGE).contains(&buffer.capacity()) {
            buffer.clear();
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT {
                kept.push(buffer);
            }
        }
    }
}
