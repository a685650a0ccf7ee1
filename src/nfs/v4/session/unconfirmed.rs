//! The order of unconfirmed clients, of which there is a bounded number.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{ClientId, Uptime};
use crate::rpc::address::Address;

/// Unconfirmed clients, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// By a number that counts up.
    queue: BTreeMap<u64, QueuedClient>,
    /// The same for each address.
    addresses: HashMap<Address, VecDeque<u64>>,
    issued: u64,
}

/// Place of a client in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueuePlace(u64);

#[derive(Debug)]
struct QueuedClient {
    client: ClientId,
    address: Address,
    since: Uptime,
}

impl Unconfirmed {
    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a client.
    pub(super) fn push(&mut self, client: ClientId, address: Address, since: Uptime) -> QueuePlace {
        self.issued += 1;
        self.queue.insert(self.issued, QueuedClient { client, address, since });
        self.addresses.entry(address).or_default().push_back(self.issued);
        QueuePlace(self.issued)
    }

    /// Removes a client.
    pub(super) fn remove(&mut self, place: QueuePlace) {
        let Some(entry) = self.queue.remove(&place.0) else { return };
        if let Some(places) = self.addresses.get_mut(&entry.address) {
            // Ordered, because the numbers count up.
            if let Ok(index) = places.binary_search(&place.0) {
                places.remove(index);
            }
            if places.is_empty() {
                self.addresses.remove(&entry.address);
            }
        }
    }

    /// Returns a client that has to go for another one of an address: the oldest of the address, or
    /// of all.
    pub(super) fn surplus(&self, address: Address, own: usize, all: usize) -> Option<ClientId> {
        let of_address = self.addresses.get(&address).filter(|places| places.len() >= own);
        let oldest = of_address.and_then(|places| self.queue.get(places.front()?));
        let oldest = oldest
            .or_else(|| if self.queue.len() < all { None } else { self.queue.values().next() });
        oldest.map(|entry| entry.client)
    }

    /// Returns the oldest client, if it has been here for longer than the lease time.
    pub(super) fn expired(&self, lease: Uptime, now: Uptime) -> Option<ClientId> {
        let (_, oldest) = self.queue.first_key_value()?;
        (now.saturating_sub(oldest.since) > lease).then_some(oldest.client)
    }
}
