//! What the clients of one address have.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::{AddressShare, SlotCharge, SlotMemory};
use crate::rpc::address::Address;

/// The addresses that have confirmed clients.
#[derive(Debug)]
pub(super) struct Addresses {
    memory: Arc<SlotMemory>,
    entries: HashMap<Address, ClientAddress>,
    /// Confirmed clients of all addresses.
    clients: usize,
}

#[derive(Debug)]
struct ClientAddress {
    share: Arc<AddressShare>,
    clients: usize,
}

impl Addresses {
    pub(super) fn new(memory: usize) -> Self {
        Self { memory: Arc::new(SlotMemory::new(memory)), entries: HashMap::new(), clients: 0 }
    }

    /// Returns the bytes that all sessions take.
    pub(super) fn memory_used(&self) -> usize {
        self.memory.used()
    }

    /// Returns whether an address may have one more confirmed client: `least`, or twice as many as
    /// are left of `shared`.
    pub(super) fn may_add_client(&self, address: Address, least: usize, shared: usize) -> bool {
        let has = self.entries.get(&address).map_or(0, |entry| entry.clients);
        has < least || has < shared.saturating_sub(self.clients).saturating_mul(2)
    }

    /// Counts a confirmed client.
    pub(super) fn add_client(&mut self, address: Address) {
        self.entry(address).clients += 1;
        self.clients += 1;
    }

    /// Counts a client that is gone.
    pub(super) fn remove_client(&mut self, address: Address) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.clients -= 1;
            self.clients -= 1;
        }
        self.release(address);
    }

    /// Returns an empty charge for a session. [`Addresses::release`] the address if the session is
    /// not created.
    pub(super) fn charge(&mut self, address: Address) -> SlotCharge {
        SlotCharge::new(self.entry(address).share.clone())
    }

    /// Forgets an address without clients. Requests that still run in sessions of earlier ones hold
    /// the share of the address, and give their memory back to all.
    pub(super) fn release(&mut self, address: Address) {
        if self.entries.get(&address).is_some_and(|entry| entry.clients == 0) {
            self.entries.remove(&address);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, address: Address) -> &mut ClientAddress {
        let memory = &self.memory;
        let new =
            || ClientAddress { share: Arc::new(AddressShare::new(memory.clone())), clients: 0 };
        self.entries.entry(address).or_insert_with(new)
    }
}
