//! Which connections give way to addresses that wait for memory.
//!
//! The memory budget leaves room for newcomers, but several addresses together can fill it with
//! records and replies that move slowly. So a connection of an address that holds more than twice
//! as much as one that waits gives way, one for each that waits:
//! - one that has not kept up for [`STUCK`];
//! - one that keeps up, but has been at the same record or reply for longer than that, unless it is
//!   the address's oldest. So a client on a slow line gets its calls done one after the other,
//!   however many wait, and an address cannot hold more than one record by sending just at the
//!   minimum rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outbox::Outbox;

/// How long a connection that holds memory may take for a record or reply, or fall behind with it,
/// before it gives way.
pub const STUCK: Duration = Duration::from_secs(5);

/// An address that holds memory.
pub struct Holder {
    /// How many bytes it holds.
    pub held: usize,
    /// Those of its connections that hold some.
    pub outboxes: Vec<Arc<Outbox>>,
}

impl Holder {
    /// An address with these connections, which holds so many bytes.
    pub fn new(held: usize, outboxes: &[Arc<Outbox>]) -> Self {
        // What waits for the server is not slow: neither calls that are carried out, nor records
        // that wait for memory, which hold none that was admitted.
        let holds = |outbox: &&Arc<Outbox>| {
            outbox.account.is_charged() && outbox.is_settled() && !outbox.is_broken()
        };
        Self { held, outboxes: outboxes.iter().filter(holds).cloned().collect() }
    }

    /// Its slow connections: first those that have fallen behind, the furthest behind first, then
    /// others, the latest first, but not the first of them.
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

/// The connections that give way to addresses that wait and hold so many bytes each.
pub fn giving_way(mut holders: Vec<Holder>, waiting: &[usize], now: Instant) -> Vec<Arc<Outbox>> {
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
