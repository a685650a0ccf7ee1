//! A pool of large buffers, for records of WRITEs and replies of READs.
//!
//! Mapping and clearing a fresh megabyte costs more than copying one. Buffers are therefore kept
//! for the next call: as many as their part of the memory budget allows, and none while memory is
//! short. Buffers that were not needed for a while are freed ([`Buffers::trim`]).

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::memory_budget::MemoryBudget;

/// The maximum number of buffers that are kept.
const KEPT: usize = 48;

/// Smaller buffers, in bytes, are not kept: allocating them is cheap.
const SMALL: usize = 16 * 1024;

/// Larger buffers, in bytes, are not kept: few calls need them.
pub const LARGE: usize = 2 * 1024 * 1024;

/// A pool of empty buffers.
#[derive(Debug)]
pub struct Buffers {
    budget: Arc<MemoryBudget>,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    /// A stack: those at the bottom are the ones that were not needed.
    buffers: Vec<Vec<u8>>,
    /// The sum of their capacities.
    bytes: usize,
    /// The smallest number of them since the last [`Buffers::trim`].
    least: usize,
}

impl Buffers {
    /// Creates an empty pool.
    pub fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, stock: Mutex::default() }
    }

    /// Returns an empty buffer: a pooled one if there is any, otherwise one without capacity.
    pub fn take(&self) -> Vec<u8> {
        let mut stock = self.stock();
        let buffer = stock.buffers.pop().unwrap_or_default();
        stock.bytes -= buffer.capacity();
        stock.least = stock.least.min(stock.buffers.len());
        buffer
    }

    /// Returns a buffer to the pool, or frees it. Its content is dropped.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if !(SMALL..=LARGE).contains(&capacity) || self.budget.is_tight() {
            return;
        }
        buffer.clear();
        let mut stock = self.stock();
        if stock.buffers.len() < KEPT && stock.bytes + capacity <= self.budget.for_buffers() {
            stock.bytes += capacity;
            stock.buffers.push(buffer);
        }
    }

    /// Frees the buffers that were not needed since this was last called; returns how many bytes
    /// that were.
    pub fn trim(&self) -> usize {
        let mut stock = self.stock();
        let unused = stock.least;
        let gone: Vec<_> = stock.buffers.drain(..unused).collect();
        let bytes = gone.iter().map(Vec::capacity).sum();
        stock.bytes -= bytes;
        stock.least = stock.buffers.len();
        drop(stock);
        bytes
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::transport::memory_budget::{ConnectionMemory, MINIMUM};

    fn buffer() -> Vec<u8> {
        Vec::with_capacity(1024 * 1024)
    }

    #[test]
    fn what_is_kept_is_bounded_by_the_budget() {
        let budget = MemoryBudget::new(MINIMUM);
        let buffers = Buffers::new(Arc::clone(&budget));
        (0..100).for_each(|_| buffers.give(buffer()));
        let bytes = buffers.stock().bytes;
        assert!((1..=budget.for_buffers()).contains(&bytes), "{bytes}");
        while buffers.take().capacity() > 0 {}
        assert_eq!(buffers.stock().bytes, 0);
        let connection = ConnectionMemory::new(&budget.address(), Arc::default());
        connection.take(MINIMUM / 2);
        buffers.give(buffer());
        assert_eq!(buffers.take().capacity(), 0, "nothing is kept while memory is short");
    }

    #[test]
    fn what_is_not_needed_is_given_back_and_the_rest_is_not() {
        let buffers = Buffers::new(MemoryBudget::new(256 << 20));
        (0..8).for_each(|_| buffers.give(buffer()));
        assert_eq!(buffers.trim(), 0, "they were just given");
        let used: Vec<_> = (0..3).map(|_| buffers.take()).collect();
        used.into_iter().for_each(|buffer| buffers.give(buffer));
        assert_eq!(buffers.trim(), 5 << 20);
        assert_eq!(buffers.trim(), 3 << 20);
        assert_eq!(buffers.take().capacity(), 0);
    }
}
