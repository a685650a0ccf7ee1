//! One budget for the memory that peers make the server hold: incomplete records, queued calls, and
//! replies that are not acknowledged, also those that the kernel holds ([`super::sent`]).
//!
//! ```text
//!   Account (a connection) --+
//!   Account (a connection) --+--> Peer (an address) --+
//!   Account (a connection) -----> Peer ---------------+--> MemoryBudget
//! ```
//!
//! An address may hold [`SHARE`] times as much as is free. One address alone gets two thirds of the
//! budget, two addresses get two fifths each in the end, and any number of them leave room for one
//! more: the threshold falls while the budget fills, without a list of who is active.
//!
//! What is admitted comes to an end by itself: records and replies have deadlines, calls are
//! answered. What was read and must wait is therefore counted apart ([`Account::keep`]): however
//! much of it there is, something can be admitted, and all that waits goes on.
//!
//! Memory that cannot wait is charged without a question ([`Account::take`]): it is small, or at
//! most one reply for each thread. What can wait is admitted first ([`Account::admit`]): a large
//! record before it is read, a call with a large reply before it is carried out. Admission charges
//! the whole size, so that no record waits in the middle for memory that other incomplete records
//! hold. Within an address, memory is granted in the order of the requests.
//!
//! A connection's first [`ALLOWANCE`] bytes are free, and charges are rounded up to [`CHUNK`]s:
//! small calls write no memory that connections share. `--max-connections` bounds what is not
//! charged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a connection holds free of charge, in bytes.
pub const ALLOWANCE: usize = 16 * 1024;

/// The unit of charges, in bytes.
const CHUNK: usize = 16 * 1024;

/// How many times the free memory an address may hold.
const SHARE: usize = 2;

/// The smallest budget: room for a few of the largest records and replies.
pub const MINIMUM: usize = 16 * 1024 * 1024;

/// The memory that all peers together may make the server hold.
#[derive(Debug)]
pub struct MemoryBudget {
    /// For what comes to an end by itself.
    limit: usize,
    /// For what was read and waits.
    backlog: usize,
    /// For buffers that are kept for the next call.
    buffers: usize,
    /// For the reply cache.
    replies: usize,
    taken: AtomicUsize,
    kept: AtomicUsize,
    /// How many accounts wait, looked at without the lock of the queue.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    waits: AtomicU64,
    /// How many accounts there are.
    connections: AtomicUsize,
}

/// What one address holds.
#[derive(Debug)]
pub struct Peer {
    budget: Arc<MemoryBudget>,
    taken: AtomicUsize,
    kept: AtomicUsize,
    /// How many of its accounts wait.
    waiting: AtomicUsize,
    /// The last pass over the queue in which one of them could not be granted its bytes.
    blocked: AtomicU64,
}

/// What one connection holds. Dropping it gives everything back.
#[derive(Debug)]
pub struct Account {
    peer: Arc<Peer>,
    used: AtomicUsize,
    kept: AtomicUsize,
    /// Bytes that were granted after a wait and are charged already.
    granted: AtomicUsize,
    is_waiting: AtomicBool,
    /// Notified when bytes are granted.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    passes: u64,
}

/// An account that waits for memory.
#[derive(Debug)]
struct Waiter {
    account: Weak<Account>,
    peer: Arc<Peer>,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of `total` bytes, or of [`MINIMUM`] if that is more.
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

    /// A new address, which holds nothing.
    pub fn peer(self: &Arc<Self>) -> Arc<Peer> {
        let zero = || AtomicUsize::new(0);
        let (taken, kept, waiting, blocked) = (zero(), zero(), zero(), AtomicU64::new(0));
        Arc::new(Peer { budget: Arc::clone(self), taken, kept, waiting, blocked })
    }

    /// The whole budget, in bytes.
    pub const fn total(&self) -> usize {
        self.limit + self.backlog + self.buffers + self.replies
    }

    /// The part for buffers that are kept for the next call, in bytes.
    pub const fn for_buffers(&self) -> usize {
        self.buffers
    }

    /// The part for the reply cache, in bytes.
    pub const fn for_replies(&self) -> usize {
        self.replies
    }

    /// What connections hold now, in bytes.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    /// How often a connection had to wait for memory since the start.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Forgets who waits and is gone. To be called now and then.
    pub fn sweep(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant(None);
        }
    }

    /// Whether more than half is held, and nothing should be kept that is not needed.
    pub fn is_tight(&self) -> bool {
        self.taken() > self.limit / 2
    }

    fn free(&self) -> usize {
        self.limit.saturating_sub(self.taken.load(Ordering::SeqCst))
    }

    /// Grants bytes to those who wait, as far as there are any.
    fn grant(&self, waiter: Option<Waiter>) {
        // The last reference to an account must not go while the queue is locked: its end gives
        // memory back, which comes here again.
        let mut looked_at = Vec::new();
        let mut queue = self.queue.lock();
        let Queue { waiters, passes } = &mut *queue;
        waiters.extend(waiter);
        *passes += 1;
        waiters.retain(|waiter| {
            if waiter.peer.blocked.load(Ordering::Relaxed) == *passes {
                return true;
            }
            let account = waiter.account.upgrade();
            let waits = account.as_deref().is_some_and(|account| !account.grant(waiter.bytes));
            if waits {
                waiter.peer.blocked.store(*passes, Ordering::Relaxed);
            } else {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                waiter.peer.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            looked_at.extend(account);
            waits
        });
        drop(queue);
    }
}

impl Peer {
    /// What the address holds, in bytes.
    pub fn held(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    /// Whether it waits for memory.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether the address may hold so many bytes more.
    fn may_take(&self, bytes: usize) -> bool {
        let (held, free) = (self.taken.load(Ordering::SeqCst), self.budget.free());
        let left = free.saturating_sub(bytes);
        // What the only one asks for is granted, however large; and a newcomer gets what is left.
        free == self.budget.limit
            || bytes <= free && (held == 0 || held.saturating_add(bytes) <= SHARE * left)
    }
}

impl Account {
    /// An account of an address; `wake` is notified when it was granted what it waited for.
    pub fn new(peer: &Arc<Peer>, wake: Arc<Notify>) -> Arc<Self> {
        peer.budget.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            peer: Arc::clone(peer),
            used: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
            is_waiting: AtomicBool::new(false),
            wake,
        })
    }

    /// Charges bytes that are held already, or cannot wait. Does not block.
    pub fn take(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::SeqCst);
        let more = charge(before + bytes) - charge(before);
        if more > 0 {
            self.peer.taken.fetch_add(more, Ordering::SeqCst);
            self.peer.budget.taken.fetch_add(more, Ordering::SeqCst);
        }
    }

    /// Gives back bytes that were charged. Does not block.
    pub fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        let less = charge(before) - charge(before - bytes);
        if less > 0 {
            let budget = &self.peer.budget;
            self.peer.taken.fetch_sub(less, Ordering::SeqCst);
            budget.taken.fetch_sub(less, Ordering::SeqCst);
            if budget.waiting.load(Ordering::SeqCst) > 0 {
                budget.grant(None);
            }
        }
    }

    /// Whether the connection holds more than is free of charge, besides what was read and waits.
    pub fn is_charged(&self) -> bool {
        self.used.load(Ordering::Relaxed) > ALLOWANCE
    }

    /// Whether the address holds its share, and should be made to hold no more.
    pub fn is_over(&self) -> bool {
        !self.peer.may_take(CHUNK)
    }

    /// Says that the connection holds so many bytes that were read and wait, beyond what is free of
    /// charge. Does not block.
    pub fn keep(&self, bytes: usize) {
        let before = self.kept.swap(bytes, Ordering::SeqCst);
        for kept in [&self.peer.kept, &self.peer.budget.kept] {
            if bytes > before {
                kept.fetch_add(bytes - before, Ordering::SeqCst);
            } else if bytes < before {
                kept.fetch_sub(before - bytes, Ordering::SeqCst);
            }
        }
    }

    /// About how many connections the address has.
    pub fn neighbours(&self) -> usize {
        Arc::strong_count(&self.peer)
    }

    /// How many connections all addresses have.
    pub fn connections(&self) -> usize {
        self.peer.budget.connections.load(Ordering::Relaxed)
    }

    /// Whether no more should be read at once than is free of charge.
    pub fn is_short(&self) -> bool {
        let budget = &self.peer.budget;
        let left = budget.backlog.saturating_sub(budget.kept.load(Ordering::SeqCst));
        self.peer.kept.load(Ordering::SeqCst) + CHUNK > SHARE * left
    }

    /// Charges `bytes` if the address may hold them. Otherwise the account is notified when they
    /// are granted: then this is to be called again. Does not block. For one caller at a time,
    /// which waits for one thing at a time.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> bool {
        // Before the look at what was granted: what is granted afterwards is notified.
        let is_waiting = self.is_waiting.load(Ordering::SeqCst);
        if self.collect(bytes) {
            return true;
        }
        if is_waiting {
            return false;
        }
        if self.peer.waiting.load(Ordering::SeqCst) == 0 && self.fits(bytes) {
            self.take(bytes);
            return true;
        }
        self.wait_for(bytes);
        self.collect(bytes)
    }

    fn wait_for(self: &Arc<Self>, bytes: usize) {
        let budget = &self.peer.budget;
        self.is_waiting.store(true, Ordering::SeqCst);
        budget.waits.fetch_add(1, Ordering::Relaxed);
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        self.peer.waiting.fetch_add(1, Ordering::SeqCst);
        let (account, peer) = (Arc::downgrade(self), Arc::clone(&self.peer));
        // Looks at the queue again: memory may have been given back a moment ago.
        budget.grant(Some(Waiter { account, peer, bytes }));
    }

    /// Whether the address holds less than half of its share.
    pub fn has_plenty(&self) -> bool {
        self.peer.may_take(self.peer.taken.load(Ordering::SeqCst).max(CHUNK))
    }

    /// Whether the address may hold so many bytes more.
    pub fn fits(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        let more = charge(used + bytes) - charge(used);
        more == 0 || self.peer.may_take(more)
    }

    /// Grants bytes that the account waits for, if its address may hold them.
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

    /// Whether something was granted; makes it `bytes`.
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

impl Drop for Account {
    fn drop(&mut self) {
        self.keep(0);
        self.give(self.used.load(Ordering::SeqCst));
        self.peer.budget.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is charged to an account that uses so many bytes.
const fn charge(used: usize) -> usize {
    used.saturating_sub(ALLOWANCE).next_multiple_of(CHUNK)
}

#[cfg(test)]
mod tests;
