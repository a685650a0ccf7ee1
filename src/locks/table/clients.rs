//! How clients begin, renew their lease, reclaim, and lose what they hold.

use std::hash::Hash;

use super::LockTable;
use super::state::State;
use crate::locks::client::{ClientState, ReclaimState, RevokeReason};
use crate::locks::serial::shrink;
use crate::locks::stateid::StateKey;
use crate::locks::{ClientId, Event, LimitKind, LockError, RecordedClient, SequenceFlags, Uptime};

/// A client that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedClient {
    /// Whether the client has its record from before the restart, and may reclaim.
    pub may_reclaim: bool,
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// Adds a client once it is confirmed. The caller removes a client that this one replaces
    /// first; one with the same id is removed here.
    ///
    /// # Errors
    /// `TooMany`.
    pub fn add_client(
        &mut self,
        id: ClientId,
        record: &RecordedClient,
        now: Uptime,
    ) -> Result<AddedClient, LockError> {
        self.end_grace(now);
        self.remove_client(id);
        while self.clients.len() >= self.settings.limits.clients {
            self.remove_expired(id, now).ok_or(LockError::TooMany(LimitKind::Clients))?;
        }
        let grace = self.grace.as_mut();
        let may_reclaim = grace.is_some_and(|grace| grace.client_returned(record));
        let reclaim = if may_reclaim { ReclaimState::Recorded } else { ReclaimState::New };
        self.clients.insert(id, ClientState::new(record.name.clone(), reclaim, now));
        // The last client that was waited for may have come back without anything to reclaim.
        self.end_grace(now);
        Ok(AddedClient { may_reclaim })
    }

    /// Renews the lease of a client, as each SEQUENCE does. Returns the flags of the reply. A
    /// client whose lease had expired keeps the state that no request has conflicted with.
    ///
    /// # Errors
    /// `StaleClientid`.
    pub fn renew(&mut self, id: ClientId, now: Uptime) -> Result<SequenceFlags, LockError> {
        //= RFC 8881 8.3: each SEQUENCE of a client renews the lease of all of its state
        let client = self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?;
        client.renewed = client.renewed.max(now);
        Ok(client.flags())
    }

    /// Removes a client with all of its state: it is destroyed, or replaced by another instance.
    /// Its record on the disk is up to the caller. Returns whether there was one.
    pub fn remove_client(&mut self, id: ClientId) -> bool {
        for key in self.keys_of(id) {
            match self.states.get(&key) {
                Some(State::Open(_)) => {
                    self.remove_open(key);
                }
                Some(State::Revoked(_)) => self.remove_revoked(key),
                // Lock states go with their open.
                Some(State::Lock(_)) | None => {}
            }
        }
        let removed = self.clients.remove(&id).is_some();
        shrink(&mut self.clients);
        removed
    }

    /// Whether a client has opens or locks. DESTROY_CLIENTID is then refused.
    pub fn has_state(&self, id: ClientId) -> bool {
        //= RFC 8881 18.50.3: a client that holds opens or locks is busy; revoked ones do not count
        self.clients.get(&id).is_some_and(|client| client.counts.live() > 0)
    }

    /// Notes that the record of a client is on the disk.
    pub fn set_recorded(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.recorded = true;
        }
    }

    /// RECLAIM_COMPLETE for all file systems. Ends the grace period after the last client.
    ///
    /// # Errors
    /// `StaleClientid`, `CompleteAlready`.
    pub fn reclaim_complete(&mut self, id: ClientId, now: Uptime) -> Result<(), LockError> {
        let client = self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?;
        match client.reclaim {
            //= RFC 8881 18.51.3: a second RECLAIM_COMPLETE of a client gets COMPLETE_ALREADY
            ReclaimState::Complete => return Err(LockError::CompleteAlready),
            ReclaimState::Recorded => {
                if let Some(grace) = &mut self.grace {
                    grace.client_complete(&client.name);
                }
            }
            ReclaimState::New => {}
        }
        client.reclaim = ReclaimState::Complete;
        self.end_grace(now);
        Ok(())
    }

    /// Revokes all state of a client, for an administrator. The client stays.
    pub fn revoke_client(&mut self, id: ClientId) {
        self.revoke_all(id, RevokeReason::Admin);
    }

    /// Revokes all state of some files, whose volume is gone or was recycled. Returns how many open
    /// states and lock states that were.
    pub fn revoke_files(&mut self, is_revoked: impl Fn(&K) -> bool) -> usize {
        let files = self.files.iter().filter(|(file, _)| is_revoked(file));
        let opens: Vec<_> = files.flat_map(|(_, file)| file.opens.values().copied()).collect();
        let before = self.totals.revoked;
        for key in opens {
            //= RFC 8881 8.5: state that the server revokes gets ADMIN_REVOKED
            self.revoke_open(key, RevokeReason::Admin);
        }
        self.totals.revoked - before
    }

    /// Ends a grace period that is over, and removes clients whose lease has expired and that have
    /// no state, or that were silent for the courtesy time too. Call it every few seconds.
    pub fn sweep(&mut self, now: Uptime) {
        self.end_grace(now);
        let (lease, courtesy) = (self.settings.lease, self.settings.courtesy);
        let is_gone = |client: &ClientState| {
            client.is_expired(lease, now)
                && (client.states.is_empty() || client.is_expired(lease + courtesy, now))
        };
        let gone = self.clients.iter().filter(|(_, client)| is_gone(client));
        let gone: Vec<_> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.remove_client(id);
            self.events.push(Event::Removed(id));
        }
    }

    /// Revokes all state of clients whose lease has expired, because a request needs it gone.
    pub(super) fn expire_all(&mut self, clients: &[ClientId]) {
        for id in clients {
            //= RFC 8881 8.4.3: after its lease, a client's locks may be revoked: then all of them
            self.revoke_all(*id, RevokeReason::Expired);
        }
    }

    /// Removes the client that is silent for the longest time since its lease expired, to make
    /// room. `None` if there is none but `except`.
    pub(super) fn remove_expired(&mut self, except: ClientId, now: Uptime) -> Option<()> {
        let lease = self.settings.lease;
        let others = self.clients.iter().filter(|(id, _)| **id != except);
        let expired = others.filter(|(_, client)| client.is_expired(lease, now));
        let (_, id) = expired.map(|(id, client)| (client.renewed, *id)).min()?;
        self.remove_client(id);
        self.events.push(Event::Removed(id));
        Some(())
    }

    fn revoke_all(&mut self, id: ClientId, reason: RevokeReason) {
        for key in self.keys_of(id) {
            self.revoke_open(key, reason);
        }
        if let Some(client) = self.clients.get_mut(&id)
            && client.recorded
        {
            //= RFC 8881 8.4.3: what was revoked must not be reclaimed after a restart
            client.recorded = false;
            self.events.push(Event::Forget(id));
        }
    }

    /// The keys of a client's states, live and revoked.
    fn keys_of(&self, id: ClientId) -> Vec<StateKey> {
        self.clients.get(&id).into_iter().flat_map(|client| &client.states).copied().collect()
    }
}
