//! The budget for the memory that peers make the server hold: incomplete records, deferred calls,
//! and unacknowledged replies, including those in the kernel ([`super::unacknowledged`]).
//!
//! ```text
//!   ConnectionMemory --+
//!   ConnectionMemory --+--> AddressMemory --+
//!   ConnectionMemory -----> AddressMemory --+--> MemoryBudget
//! ```
//!
//! An address may hold [`SHARE`] times as much as is free (dynamic thresholds). One address alone
//! gets two thirds of the budget, two addresses get two fifths each in the end, and any number of
//! them leave room for one more. The threshold falls while the budget fills; no list of active
//! addresses is needed.
//!
//! Admitted memory becomes free by itself, because records and replies have deadlines, and calls
//! are answered. Records that were read and are held back may wait for admission themselves. They
//! are counted apart ([`ConnectionMemory::keep`]), so however many they are, some can be admitted.
//!
//! Memory that cannot wait is charged unconditionally ([`ConnectionMemory::take`]): it is small, or
//! at most one reply for each thread. Other memory is admitted first ([`ConnectionMemory::admit`]):
//! that for a large record before the record is read, that for a large reply before the call is
//! carried out. The whole size is admitted at once: otherwise incomplete records could wait for
//! memory that other incomplete records hold. Within an address, memory is granted in the order of
//! the requests.
//!
//! The first [`ALLOWANCE`] bytes of a connection are not charged, and charges are rounded up to
//! [`CHUNK`]s, so small calls write to no shared memory. `--max-connections` limits what is not
//! charged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The memory of a connection that is not charged, in bytes.
pub const ALLOWANCE: usize = 16 * 1024;

/// The unit of charges, in bytes.
const CHUNK: usize = 16 * 1024;

/// The maximum ratio of the memory of an address to the free memory.
const SHARE: usize = 2;

/// The smallest budget: room for a few of the largest records and replies.
pub const MINIMUM: usize = 16 * 1024 * 1024;

/// The memory that all peers together may make the server hold.
#[derive(Debug)]
pub struct MemoryBudget {
    /// The part for what is charged or admitted, in bytes. The parts below come in addition.
    limit: usize,
    /// The part for records that were read and are held back.
    backlog: usize,
    /// The part for pooled buffers.
    buffers: usize,
    /// The part for the reply cache.
    replies: usize,
    taken: AtomicUsize,
    kept: AtomicUsize,
    /// How many connections wait. Read without the lock of the queue.
    waiting: AtomicUsize,
    queue: Mutex<WaitQueue>,
    waits: AtomicU64,
    /// How many connections there are.
    connections: AtomicUsize,
}

/// The memory of one address.
#[derive(Debug)]
pub struct AddressMemory {
    budget: Arc<MemoryBudget>,
    taken: AtomicUsize,
    kept: AtomicUsize,
    /// How many of its connections wait.
    waiting: AtomicUsize,
    /// The last pass over the queue in which one of them could not be granted its bytes.
    blocked: AtomicU64,
}

/// The memory of one connection. Dropping it gives everything back.
#[derive(Debug)]
pub struct ConnectionMemory {
    address: Arc<AddressMemory>,
    used: AtomicUsize,
    kept: AtomicUsize,
    /// Bytes that were granted after a wait, charged, and not collected yet.
    granted: AtomicUsize,
    is_waiting: AtomicBool,
    /// Notified when bytes are granted.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct WaitQueue {
    waiters: VecDeque<MemoryWaiter>,
    passes: u64,
}

/// A connection that waits for memory.
#[derive(Debug)]
struct MemoryWaiter {
    connection: Weak<ConnectionMemory>,
    address: Arc<AddressMemory>,
    bytes: usize,
}

impl MemoryBudget {
    /// Creates a budget of `total` bytes, or of [`MINIMUM`] if that is more.
    pub fn new(total: usize) -> Arc<Self> {
        let total = total.max(MINIMUM);
        let (buffers, backlog, replies) = (total / 8, total / 8, total / 16);
        Arc::new(Self {
            limit: total - buffers - backlog - replies,
            backlog,
            buffers,
            replies,
            taken: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            waits: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        })
    }

    /// Creates the entry of an address, which holds nothing.
    pub fn address(self: &Arc<Self>) -> Arc<AddressMemory> {
        let zero = || AtomicUsize::new(0);
        let (taken, kept, waiting, blocked) = (zero(), zero(), zero(), AtomicU64::new(0));
        Arc::new(AddressMemory { budget: Arc::clone(self), taken, kept, waiting, blocked })
    }

    /// Returns the whole budget, in bytes.
    pub const fn total(&self) -> usize {
        self.limit + self.backlog + self.buffers + self.replies
    }

    /// Returns the part for pooled buffers, in bytes.
    pub const fn for_buffers(&self) -> usize {
        self.buffers
    }

    /// Returns the part for the reply cache, in bytes.
    pub const fn for_replies(&self) -> usize {
        self.replies
    }

    /// Returns what connections hold, in bytes.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    /// Returns how often a connection had to wait for memory since the start.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Forgets waiting connections that have ended. To be called now and then.
    pub fn sweep(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant(None);
        }
    }

    /// Whether more than half is held, so that unused memory should be freed.
    pub fn is_tight(&self) -> bool {
        self.taken() > self.limit / 2
    }

    fn free(&self) -> usize {
        self.limit.saturating_sub(self.taken.load(Ordering::SeqCst))
    }

    /// Queues `waiter`, if given, and grants memory to waiting connections as far as possible.
    fn grant(&self, waiter: Option<MemoryWaiter>) {
        // The last reference to a connection's memory must not be dropped under the lock: that
        // gives memory back, which locks the queue again.
        let mut looked_at = Vec::new();
        let mut queue = self.queue.lock();
        let WaitQueue { waiters, passes } = &mut *queue;
        waiters.extend(waiter);
        *passes += 1;
        waiters.retain(|waiter| {
            if waiter.address.blocked.load(Ordering::Relaxed) == *passes {
                return true;
            }
            let connection = waiter.connection.upgrade();
            let waits =
                connection.as_deref().is_some_and(|connection| !connection.grant(waiter.bytes));
            if waits {
                waiter.address.blocked.store(*passes, Ordering::Relaxed);
            } else {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                waiter.address.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            looked_at.extend(connection);
            waits
        });
        drop(queue);
    }
}

impl AddressMemory {
    /// Returns what the address holds, in bytes.
    pub fn held(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    /// Whether a connection of the address waits for memory.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether the address may hold so many bytes more.
    fn may_take(&self, bytes: usize) -> bool {
        let (held, free) = (self.taken.load(Ordering::SeqCst), self.budget.free());
        let left = free.saturating_sub(bytes);
        // If nothing else is held, any size is granted; and a new address gets what is left.
        free == self.budget.limit
            || bytes <= free && (held == 0 || held.saturating_add(bytes) <= SHARE * left)
    }
}

impl ConnectionMemory {
    /// Creates the entry of a connection from an address. `wake` is notified when the connection
    /// was granted what it waited for.
    pub fn new(address: &Arc<AddressMemory>, wake: Arc<Notify>) -> Arc<Self> {
        address.budget.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            address: Arc::clone(address),
            used: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
            is_waiting: AtomicBool::new(false),
            wake,
        })
    }

    /// Charges bytes unconditionally. Does not block.
    pub fn take(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::SeqCst);
        let more = charge(before + bytes) - charge(before);
        if more > 0 {
            self.address.taken.fetch_add(more, Ordering::SeqCst);
            self.address.budget.taken.fetch_add(more, Ordering::SeqCst);
        }
    }

    /// Gives back bytes that were charged. Does not block.
    pub fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        let less = charge(before) - charge(before - bytes);
        if less > 0 {
            let budget = &self.address.budget;
            self.address.taken.fetch_sub(less, Ordering::SeqCst);
            budget.taken.fetch_sub(less, Ordering::SeqCst);
            if budget.waiting.load(Ordering::SeqCst) > 0 {
                budget.grant(None);
            }
        }
    }

    /// Whether anything is charged, apart from [`ConnectionMemory::keep`].
    pub fn is_charged(&self) -> bool {
        self.used.load(Ordering::Relaxed) > ALLOWANCE
    }

    /// Whether the address holds its share.
    pub fn is_over(&self) -> bool {
        !self.address.may_take(CHUNK)
    }

    /// Sets how many bytes were read and are held back, beyond [`ALLOWANCE`]. Does not block.
    pub fn keep(&self, bytes: usize) {
        let before = self.kept.swap(bytes, Ordering::SeqCst);
        for kept in [&self.address.kept, &self.address.budget.kept] {
            if bytes > before {
                kept.fetch_add(bytes - before, Ordering::SeqCst);
            } else if bytes < before {
                kept.fetch_sub(before - bytes, Ordering::SeqCst);
            }
        }
    }

    /// Returns about how many connections the address has.
    pub fn neighbours(&self) -> usize {
        Arc::strong_count(&self.address)
    }

    /// Returns how many connections all addresses have.
    pub fn connections(&self) -> usize {
        self.address.budget.connections.load(Ordering::Relaxed)
    }

    /// Whether no more than [`ALLOWANCE`] should be read at once.
    pub fn is_short(&self) -> bool {
        let budget = &self.address.budget;
        let left = budget.backlog.saturating_sub(budget.kept.load(Ordering::SeqCst));
        self.address.kept.load(Ordering::SeqCst) + CHUNK > SHARE * left
    }

    /// Charges `bytes` and returns true, if the address may hold them. Otherwise queues the
    /// request, and notifies when it is granted; then this must be called again. Does not block.
    /// Must not be called concurrently, and not for another request while one waits.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> bool {
        // Read before `granted`: what is granted afterwards is notified.
        let is_waiting = self.is_waiting.load(Ordering::SeqCst);
        if self.collect(bytes) {
            return true;
        }
        if is_waiting {
            return false;
        }
        if self.address.waiting.load(Ordering::SeqCst) == 0 && self.fits(bytes) {
            self.take(bytes);
            return true;
        }
        self.wait_for(bytes);
        self.collect(bytes)
    }

    fn wait_for(self: &Arc<Self>, bytes: usize) {
        let budget = &self.address.budget;
        self.is_waiting.store(true, Ordering::SeqCst);
        budget.waits.fetch_add(1, Ordering::Relaxed);
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        self.address.waiting.fetch_add(1, Ordering::SeqCst);
        let (connection, address) = (Arc::downgrade(self), Arc::clone(&self.address));
        // This also tries to grant it: memory may have been given back a moment ago.
        budget.grant(Some(MemoryWaiter { connection, address, bytes }));
    }

    /// Whether the address holds less than half of its share.
    pub fn has_plenty(&self) -> bool {
        self.address.may_take(self.address.taken.load(Ordering::SeqCst).max(CHUNK))
    }

    /// Whether the address may hold so many bytes more.
    pub fn fits(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        let more = charge(used + bytes) - charge(used);
        more == 0 || self.address.may_take(more)
    }

    /// Grants bytes that the connection waits for, if its address may hold them.
    fn grant(&self, bytes: usize) -> bool {
        let fits = self.fits(bytes);
        if fits {
            self.take(bytes);
            self.granted.store(bytes, Ordering::SeqCst);
            self.is_waiting.store(false, Ordering::SeqCst);
            self.wake.notify_one();
        }
        fits
    }

    /// Whether something was granted. Adjusts the charge to `bytes`.
    fn collect(&self, bytes: usize) -> bool {
        if self.granted.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let granted = self.granted.swap(0, Ordering::SeqCst);
        if granted > bytes {
            self.give(granted - bytes);
        } else if granted > 0 {
            self.take(bytes - granted);
        }
        granted > 0
    }
}

impl Drop for ConnectionMemory {
    fn drop(&mut self) {
        self.keep(0);
        self.give(self.used.load(Ordering::SeqCst));
        self.address.budget.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns what is charged to a connection that uses so many bytes.
const fn charge(used: usize) -> usize {
    used.saturating_sub(ALLOWANCE).next_multiple_of(CHUNK)
}

#[cfg(test)]
mod tests;
