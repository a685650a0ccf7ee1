//! The table of all clients, opens and locks.
//!
//! ```text
//!   OPEN ---> live open state <---- LOCK adds lock states to it
//!               | CLOSE: gone, with its lock states
//!               | lease expired and state in the way, volume gone, evicted:
//!               v
//!             revoked: EXPIRED or ADMIN_REVOKED until FREE_STATEID, then gone
//! ```
//!
//! A file is known as long as it has an open. An open state, its entry in the file, its owner and
//! the counters of its client begin and end together (`attach_*`, `remove_*` in `state`); all other
//! code goes through these.

#[cfg(test)]
mod check;
mod clients;
mod io;
mod lock;
mod open;
mod state;
mod view;

use std::collections::HashMap;
use std::hash::Hash;

use super::client::ClientState;
use super::grace::Grace;
use super::owner::{OwnerId, Owners};
use super::range_table::RangeTable;
use super::serial::{SerialMap, SmallMap};
use super::share::ShareCounts;
use super::stateid::StateKey;
use super::{ClientId, Event, LockCounts, LockError, LockLimits, RecordedClient, Uptime};
use state::State;

#[cfg(test)]
pub(super) use check::{map, vector};
pub use clients::AddedClient;
pub use io::IoGrant;
pub use lock::{LockRequest, LockTestRequest, Locker};
pub use open::{OpenRequest, Opened};
pub use view::{FileView, LockClientView, OpenView, RangeView};

/// Settings of a table. They do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockSettings {
    /// Number of this start of the server. Another one after each restart; stateids have it.
    pub epoch: u32,
    /// Lease time.
    pub lease: Uptime,
    /// How long the state of a silent client stays after its lease has expired, unless it conflicts
    /// with a request.
    pub courtesy: Uptime,
    /// Longest grace period.
    pub grace: Uptime,
    /// Bounds.
    pub limits: LockLimits,
}

/// Whether a request is for new state, or for state of before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// New state: CLAIM_NULL and CLAIM_FH of OPEN.
    New,
    /// CLAIM_PREVIOUS of OPEN, `reclaim` of LOCK.
    Reclaim,
}

/// All state of all clients. `K` identifies a file.
#[derive(Debug)]
pub struct LockTable<K> {
    settings: LockSettings,
    clients: SerialMap<ClientId, ClientState>,
    owners: Owners,
    states: SerialMap<StateKey, State<K>>,
    files: HashMap<K, File>,
    /// The number of state keys that were issued.
    issued: u64,
    grace: Option<Grace>,
    totals: LockCounts,
    events: Vec<Event<K>>,
}

/// A file that is open.
#[derive(Debug, Default)]
struct File {
    shares: ShareCounts,
    /// At most one open state for each open owner.
    opens: SmallMap<OwnerId, StateKey>,
    ranges: RangeTable<OwnerId>,
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// A table without state. `recorded` are the clients that have a record from before the
    /// restart: there is a grace period for them, if there are any.
    pub fn new(
        settings: LockSettings,
        recorded: impl IntoIterator<Item = RecordedClient>,
        now: Uptime,
    ) -> Self {
        Self {
            settings,
            clients: SerialMap::default(),
            owners: Owners::default(),
            states: SerialMap::default(),
            files: HashMap::new(),
            issued: 0,
            grace: Grace::begin(recorded, now + settings.grace),
            totals: LockCounts::default(),
            events: Vec::new(),
        }
    }

    /// Takes what the caller has to do because of earlier calls, oldest first.
    pub fn take_events(&mut self) -> Vec<Event<K>> {
        let mut events = std::mem::take(&mut self.events);
        events.retain(|event| match event {
            Event::Unopened(file) => !self.files.contains_key(file),
            Event::Forget(_) | Event::Removed(_) | Event::GraceEnded { .. } => true,
        });
        events
    }

    /// Whether [`Self::take_events`] would return any.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether there is a grace period.
    pub fn is_in_grace(&self, now: Uptime) -> bool {
        self.grace.as_ref().is_some_and(|grace| !grace.is_over(now))
    }

    /// Checks that there is no grace period. For changes that would break what a client may still
    /// reclaim: REMOVE, RENAME, I/O of version 3 where it obeys share reservations.
    ///
    /// # Errors
    /// `Grace`.
    pub fn check_grace(&self, now: Uptime) -> Result<(), LockError> {
        if self.is_in_grace(now) { Err(LockError::Grace) } else { Ok(()) }
    }

    /// Checks whether a client may make new state, or reclaim state.
    fn check_claim(
        &self,
        client: &ClientState,
        claim: Claim,
        now: Uptime,
    ) -> Result<(), LockError> {
        match (claim, self.is_in_grace(now)) {
            //= RFC 8881 8.4.2.1: in a grace period, requests for new state get GRACE
            (Claim::New, true) => Err(LockError::Grace),
            (Claim::New, false) => client.check_may_begin(),
            (Claim::Reclaim, true) => client.check_may_reclaim(),
            //= RFC 8881 9.11: without a grace period, reclaims get NO_GRACE
            (Claim::Reclaim, false) => Err(LockError::NoGrace),
        }
    }

    /// Ends the grace period if it is over.
    fn end_grace(&mut self, now: Uptime) {
        if let Some(grace) = self.grace.take_if(|grace| grace.is_over(now)) {
            self.events.push(Event::GraceEnded { absent: grace.absent() });
        }
    }

    /// A client.
    fn client(&self, id: ClientId) -> Result<&ClientState, LockError> {
        self.clients.get(&id).ok_or(LockError::StaleClientid)
    }

    /// Whether the lease of a client has expired, or the client is gone.
    pub fn is_expired(&self, id: ClientId, now: Uptime) -> bool {
        let lease = self.settings.lease;
        self.clients.get(&id).is_none_or(|client| client.is_expired(lease, now))
    }
}
