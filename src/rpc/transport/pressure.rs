//! Chooses the slow connections that are closed when other addresses wait for memory.
//!
//! The memory budget leaves room for a new address, but several addresses together can fill it with
//! slow transfers. For each address that waits, one connection is closed, of an address that holds
//! more than twice as much. It is
//! - one that has not kept up for [`STUCK`], or
//! - one that keeps up, but whose transfer has taken longer than that. The address's oldest
//!   transfer is exempt: a client on a slow line gets its calls done one after the other, however
//!   many addresses wait, and an address cannot hold more than one record by sending just at the
//!   minimum rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outbox::Outbox;

/// How long a transfer that holds memory may take, or fall behind, before its connection may be
/// closed.
pub const STUCK: Duration = Duration::from_secs(5);

/// An address that holds memory.
pub struct MemoryHolder {
    /// How many bytes it holds.
    pub held: usize,
    /// Those of its connections that hold some.
    pub outboxes: Vec<Arc<Outbox>>,
}

impl MemoryHolder {
    /// Creates the entry of an address with these connections, which holds so many bytes.
    pub fn new(held: usize, outboxes: &[Arc<Outbox>]) -> Self {
        // A connection that waits for the server is not slow: its calls are carried out, or its
        // record waits for memory and holds none that was admitted.
        let holds = |outbox: &&Arc<Outbox>| {
            outbox.memory.is_charged() && outbox.is_settled() && !outbox.is_broken()
        };
        Self { held, outboxes: outboxes.iter().filter(holds).cloned().collect() }
    }

    /// Returns its slow connections: those that have fallen behind, the furthest behind first, then
    /// those that keep up, the latest first and without the oldest.
    fn slow(self, now: Instant) -> Vec<Arc<Outbox>> {
        let is_past = |since| now.saturating_duration_since(since) > STUCK;
        let outboxes =
            self.outboxes.into_iter().filter(|outbox| is_past(outbox.progress().begun()));
        let (mut behind, mut moving): (Vec<_>, Vec<_>) =
            outboxes.partition(|outbox| is_past(outbox.progress().until()));
        behind.sort_by_key(|outbox| outbox.progress().until());
        moving.sort_by_key(|outbox| outbox.progress().begun());
        behind.extend(moving.into_iter().skip(1).rev());
        behind
    }
}

/// Returns the connections to close for addresses that wait, which hold so many bytes each.
pub fn giving_way(
    mut holders: Vec<MemoryHolder>,
    waiting: &[usize],
    now: Instant,
) -> Vec<Arc<Outbox>> {
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.held));
    let mut found = Vec::new();
    for holder in holders {
        let poorer = waiting.iter().filter(|held| **held < holder.held / 2).count();
        if poorer <= found.len() {
            break; // those that follow hold less
        }
        let count = poorer - found.len();
        found.extend(holder.slow(now).into_iter().take(count));
    }
    found
}
