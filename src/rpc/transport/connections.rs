//! The limit on connections, and which connection is closed for a new one.
//!
//! Above the limit, a new connection displaces another: of the address with the most connections,
//! the one that has made no progress for the longest time ([`super::progress`]). A flood from one
//! address therefore displaces its own connections only. The connections of a known address count a
//! [`CREDIT`]th: an address that is listed in an export by more than `*`, has something mounted, or
//! is this machine's, from which health checks come. So unknown addresses do not displace known
//! ones, however many they are.
//!
//! If the new connection's own address has the most connections, it is refused while all of these
//! are in use: clients that need more connections than the limit would displace each other forever.
//! This machine is never refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::memory_budget::{AddressMemory, MemoryBudget};
use super::outbox::Outbox;
use super::pressure::{MemoryHolder, giving_way};
use crate::rpc::address::Address;
use crate::rpc::service::Origin;

/// The number of connections of a known address that count as one of an unknown address.
const CREDIT: usize = 8;

/// A connection without progress for longer than this is not in use. Longer than the second between
/// two checks of what peers take.
const UNUSED: Duration = Duration::from_secs(2);

/// For how long it is remembered whether an address is known.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Returns whether an address belongs to a listed client, or has something mounted.
pub type IsKnown = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The connections of a server.
pub struct Connections {
    limit: usize,
    budget: Arc<MemoryBudget>,
    is_known: OnceLock<IsKnown>,
    open: AtomicUsize,
    addresses: Mutex<HashMap<Address, AddressEntry>>,
}

/// The connections of an address.
struct AddressEntry {
    memory: Arc<AddressMemory>,
    /// The IP address for which [`IsKnown`] is called: the one that was found to be known, or the
    /// latest one. An [`Address`] may be a network, whose own address no client has.
    ip: IpAddr,
    outboxes: Vec<Arc<Outbox>>,
    /// Whether the address was known, and when that was found.
    known: Option<(bool, Instant)>,
}

/// The right to have a connection. It ends when this is dropped, or when the connection is
/// displaced.
pub struct ConnectionPermit {
    connections: Arc<Connections>,
    address: Address,
    outbox: Arc<Outbox>,
}

/// Whether a new connection is admitted.
pub enum ConnectionAdmission {
    /// It is, below the limit.
    Free(ConnectionPermit),
    /// It is, and displaced another, which was given up.
    Displaced(ConnectionPermit),
    /// It is not.
    Refused,
}

impl Connections {
    /// Admits `limit` connections at a time, whose memory is charged to `budget`.
    pub fn new(limit: usize, budget: Arc<MemoryBudget>) -> Arc<Self> {
        let (is_known, open, addresses) = (OnceLock::new(), AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { limit, budget, is_known, open, addresses })
    }

    /// Sets which addresses are known. To be called once, before the first connection.
    pub fn set_is_known(&self, is_known: IsKnown) {
        let _ = self.is_known.set(is_known);
    }

    /// Returns how many are open.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Admits a connection, which `outbox` creates, if possible.
    pub fn enter(
        self: &Arc<Self>,
        origin: Origin,
        outbox: impl FnOnce(&Arc<AddressMemory>) -> Outbox,
    ) -> ConnectionAdmission {
        let (ip, address) = (origin.peer.ip().to_canonical(), Address::of(origin.peer.ip()));
        let is_here = ip.is_loopback() || ip == origin.local.ip().to_canonical();
        let mut addresses = self.addresses();
        let entry = addresses
            .entry(address)
            .or_insert_with(|| AddressEntry::new(self.budget.address(), ip));
        entry.came_from(ip);
        if is_here {
            entry.known = Some((true, Instant::now() + REMEMBERED));
        }
        let outbox = Arc::new(outbox(&entry.memory));
        let mut displaced = None;
        if self.count() >= self.limit {
            displaced = self.displace(&mut addresses, (address, ip), is_here);
            if displaced.is_none() {
                drop(outbox); // it uses the address
                if addresses.get(&address).is_some_and(|entry| !entry.is_used()) {
                    addresses.remove(&address);
                }
                return ConnectionAdmission::Refused;
            }
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = addresses.get_mut(&address) {
            entry.outboxes.push(Arc::clone(&outbox));
        }
        drop(addresses);
        let permit = ConnectionPermit { connections: Arc::clone(self), address, outbox };
        match displaced {
            Some(displaced) => {
                displaced.give_up();
                ConnectionAdmission::Displaced(permit)
            }
            None => ConnectionAdmission::Free(permit),
        }
    }

    /// Removes a connection in favor of one from `newcomer`, and returns it.
    fn displace(
        &self,
        addresses: &mut HashMap<Address, AddressEntry>,
        (newcomer, ip): (Address, IpAddr),
        is_here: bool,
    ) -> Option<Arc<Outbox>> {
        let now = Instant::now();
        let weight = |address: Address, entry: &mut AddressEntry| {
            let count = entry.outboxes.len() + usize::from(address == newcomer);
            let latest = if address == newcomer { ip } else { entry.ip };
            if entry.is_known(now, latest, |ip| self.is_known(ip)) { count } else { count * CREDIT }
        };
        let weights =
            addresses.iter_mut().map(|(address, entry)| (weight(*address, entry), *address));
        let weights: Vec<_> = weights.collect();
        let most = weights.iter().map(|(weight, _)| *weight).max()?;
        let own =
            weights.iter().find(|(_, address)| *address == newcomer).map_or(0, |(own, _)| *own);
        let greediest = weights.iter().filter(|(weight, _)| *weight == most);
        // Of the addresses with the most, the one whose connection was without progress the
        // longest.
        let (quiet_since, address) = greediest
            .filter_map(|(_, address)| Some((addresses.get(address)?.quietest()?.0, *address)))
            .min_by_key(|(since, _)| *since)?;
        let is_in_use = now.saturating_duration_since(quiet_since) < UNUSED;
        if own == most && is_in_use && !is_here {
            return None;
        }
        let entry = addresses.get_mut(&address)?;
        let (_, place) = entry.quietest()?;
        let displaced = entry.outboxes.swap_remove(place);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Some(displaced)
    }

    fn is_known(&self, ip: IpAddr) -> bool {
        self.is_known.get().is_some_and(|is_known| is_known(ip))
    }

    /// Forgets addresses without connections and memory, and notes what peers have taken of their
    /// replies. If an address waits for memory, closes [slow connections](giving_way) of others
    /// that hold much more. To be called every second.
    pub fn sweep(&self) {
        self.sweep_at(Instant::now());
    }

    fn sweep_at(&self, now: Instant) {
        let mut addresses = self.addresses();
        addresses.retain(|_, entry| entry.is_used());
        let outboxes = addresses.values().flat_map(|entry| &entry.outboxes);
        let owed: Vec<_> = outboxes.filter(|outbox| outbox.is_owed()).cloned().collect();
        drop(addresses); // new connections need it
        owed.iter().for_each(|outbox| outbox.look(now));
        self.relieve(now);
    }

    fn relieve(&self, now: Instant) {
        let addresses = self.addresses();
        let waiting = addresses.values().filter(|entry| entry.memory.is_waiting());
        let waiting: Vec<_> = waiting.map(|entry| entry.memory.held()).collect();
        if waiting.is_empty() {
            return;
        }
        let holder = |entry: &AddressEntry| MemoryHolder::new(entry.memory.held(), &entry.outboxes);
        let holders = addresses.values().map(holder).collect();
        drop(addresses);
        giving_way(holders, &waiting, now).iter().for_each(|outbox| outbox.give_up());
    }

    fn leave(&self, address: Address, outbox: &Arc<Outbox>) {
        let mut addresses = self.addresses();
        let Some(entry) = addresses.get_mut(&address) else { return };
        // A displaced connection was removed already.
        if let Some(place) = entry.outboxes.iter().position(|open| Arc::ptr_eq(open, outbox)) {
            drop(entry.outboxes.swap_remove(place));
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<Address, AddressEntry>> {
        self.addresses.lock()
    }
}

impl AddressEntry {
    const fn new(memory: Arc<AddressMemory>, ip: IpAddr) -> Self {
        Self { memory, ip, outboxes: Vec::new(), known: None }
    }

    /// Notes a connection from `ip`, which does not replace an IP address that is known.
    const fn came_from(&mut self, ip: IpAddr) {
        if !matches!(self.known, Some((true, _))) {
            self.ip = ip;
        }
    }

    /// Whether the address has connections, or former ones still hold memory.
    fn is_used(&self) -> bool {
        !self.outboxes.is_empty() || Arc::strong_count(&self.memory) > 1
    }

    /// Whether the IP address of this entry, or the `latest` one, is known.
    fn is_known(&mut self, now: Instant, latest: IpAddr, ask: impl Fn(IpAddr) -> bool) -> bool {
        match self.known {
            Some((known, asked)) if now.saturating_duration_since(asked) < REMEMBERED => known,
            _ => {
                let known = [self.ip, latest].into_iter().find(|ip| ask(*ip));
                self.ip = known.unwrap_or(latest);
                self.known.insert((known.is_some(), now)).0
            }
        }
    }

    /// Returns the connection without progress for the longest time: until when it kept up, and its
    /// index.
    fn quietest(&self) -> Option<(Instant, usize)> {
        let quiet_since =
            |(place, outbox): (usize, &Arc<Outbox>)| (outbox.progress().until(), place);
        self.outboxes.iter().enumerate().map(quiet_since).min()
    }
}

impl ConnectionPermit {
    /// Returns the sending side of the connection.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.leave(self.address, &self.outbox);
    }
}

#[cfg(test)]
mod tests;
