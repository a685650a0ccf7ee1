//! Open states and lock states: how they are found, begin, end, and are revoked.

use std::hash::Hash;

use super::LockTable;
use crate::locks::client::RevokeReason;
use crate::locks::owner::{OwnerId, OwnerKind};
use crate::locks::serial::{SmallMap, shrink, shrink_set};
use crate::locks::share::ShareHistory;
use crate::locks::stateid::{StateKey, check_seqid};
use crate::locks::{ClientId, Event, LockError, Share, Stateid};

/// A state that a stateid stands for.
#[derive(Debug)]
pub(super) enum State<K> {
    Open(OpenState<K>),
    Lock(ByteRangeState),
    Revoked(RevokedState),
}

/// A file that an open owner has open.
#[derive(Debug)]
pub(super) struct OpenState<K> {
    pub(super) client: ClientId,
    pub(super) owner: OwnerId,
    pub(super) seqid: u32,
    pub(super) history: ShareHistory,
    pub(super) file: K,
    /// Lock states that came from this open: at most one for each lock owner.
    pub(super) locks: SmallMap<OwnerId, StateKey>,
}

impl<K> OpenState<K> {
    /// The lock state of a lock owner.
    pub(super) fn lock_of(&self, owner: OwnerId) -> Option<StateKey> {
        self.locks.get(owner).copied()
    }
}

/// The locks that a lock owner got through an open.
#[derive(Debug)]
pub(super) struct ByteRangeState {
    pub(super) client: ClientId,
    pub(super) owner: OwnerId,
    pub(super) seqid: u32,
    pub(super) open: StateKey,
}

/// A state that was revoked, and that the client has not freed.
#[derive(Debug)]
pub(super) struct RevokedState {
    pub(super) client: ClientId,
    pub(super) reason: RevokeReason,
}

impl<K> State<K> {
    pub(super) fn client(&self) -> ClientId {
        match self {
            Self::Open(open) => open.client,
            Self::Lock(lock) => lock.client,
            Self::Revoked(revoked) => revoked.client,
        }
    }

    /// Checks the seqid of a request. That of a revoked state is of no account.
    pub(super) fn check_seqid(&self, seqid: u32) -> Result<(), LockError> {
        match self {
            Self::Open(open) => check_seqid(seqid, open.seqid),
            Self::Lock(lock) => check_seqid(seqid, lock.seqid),
            Self::Revoked(_) => Ok(()),
        }
    }
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// The state of a stateid that a client has, live or revoked.
    pub(super) fn any_state(
        &self,
        client: ClientId,
        stateid: Stateid,
    ) -> Result<(StateKey, &State<K>), LockError> {
        let key = StateKey::of(stateid, self.settings.epoch)?;
        //= RFC 8881 8.2.4: an unknown or freed stateid, or another client's, is BAD_STATEID
        match self.states.get(&key) {
            Some(state) if state.client() == client => Ok((key, state)),
            _ => Err(LockError::BadStateid),
        }
    }

    /// The live state of a stateid.
    fn state(
        &self,
        client: ClientId,
        stateid: Stateid,
    ) -> Result<(StateKey, &State<K>), LockError> {
        match self.any_state(client, stateid)? {
            //= RFC 8881 8.2.4: a revoked stateid gets that status until it is freed
            (_, State::Revoked(revoked)) => Err(revoked.reason.error()),
            live => Ok(live),
        }
    }

    /// The open state of a stateid. A stateid of a lock state is refused.
    pub(super) fn open_state(
        &self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
    ) -> Result<(StateKey, &OpenState<K>), LockError> {
        //= RFC 8881 8.2.4: a stateid of another file, or of another kind, is BAD_STATEID
        match self.state(client, stateid)? {
            (key, State::Open(open)) if open.file == *file => {
                check_seqid(stateid.seqid, open.seqid)?;
                Ok((key, open))
            }
            _ => Err(LockError::BadStateid),
        }
    }

    /// The lock state of a stateid, and its open.
    pub(super) fn lock_state(
        &self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
    ) -> Result<(StateKey, &ByteRangeState, &OpenState<K>), LockError> {
        let (key, State::Lock(lock)) = self.state(client, stateid)? else {
            return Err(LockError::BadStateid);
        };
        match self.states.get(&lock.open) {
            Some(State::Open(open)) if open.file == *file => {
                check_seqid(stateid.seqid, lock.seqid)?;
                Ok((key, lock, open))
            }
            _ => Err(LockError::BadStateid),
        }
    }

    /// The open that a stateid gives access by: its own, or that of its lock state.
    pub(super) fn open_for_io(
        &self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
    ) -> Result<(StateKey, &OpenState<K>), LockError> {
        match self.state(client, stateid)? {
            (_, State::Lock(lock)) => {
                let open = lock.open;
                let (_, _, state) = self.lock_state(client, stateid, file)?;
                Ok((open, state))
            }
            _ => self.open_state(client, stateid, file),
        }
    }

    /// The client and the share of an open state.
    pub(super) fn share_of(&self, key: StateKey) -> Option<(ClientId, Share)> {
        match self.states.get(&key) {
            Some(State::Open(open)) => Some((open.client, open.history.share())),
            _ => None,
        }
    }

    /// A key that was never used.
    fn issue(&mut self) -> StateKey {
        self.issued += 1;
        StateKey(self.issued)
    }

    /// Begins an open state. The client is known, and the owner has not opened the file.
    pub(super) fn attach_open(
        &mut self,
        id: ClientId,
        owner: &[u8],
        file: &K,
        share: Share,
    ) -> Result<StateKey, LockError> {
        let key = self.issue();
        let client = self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?;
        let owner = self.owners.enter(id, client, OwnerKind::Open, owner);
        client.states.insert(key);
        client.counts.opens += 1;
        self.totals.opens += 1;
        let open = self.files.entry(file.clone()).or_default();
        open.shares.add(share);
        open.opens.insert(owner, key);
        let (history, file) = (ShareHistory::new(share), file.clone());
        let open =
            OpenState { client: id, owner, seqid: 1, history, file, locks: SmallMap::default() };
        self.states.insert(key, State::Open(open));
        Ok(key)
    }

    /// Begins a lock state of an open. The lock owner has none there.
    pub(super) fn attach_lock(
        &mut self,
        id: ClientId,
        owner: &[u8],
        open: StateKey,
    ) -> Result<(StateKey, OwnerId), LockError> {
        let key = self.issue();
        let client = self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?;
        let Some(State::Open(state)) = self.states.get_mut(&open) else {
            return Err(LockError::BadStateid);
        };
        let owner = self.owners.enter(id, client, OwnerKind::Lock, owner);
        client.states.insert(key);
        client.counts.locks += 1;
        self.totals.locks += 1;
        state.locks.insert(owner, key);
        // The first change of the state makes this 1.
        let lock = ByteRangeState { client: id, owner, seqid: 0, open };
        self.states.insert(key, State::Lock(lock));
        Ok((key, owner))
    }

    /// Replaces the history of an open state.
    pub(super) fn set_history(&mut self, key: StateKey, history: ShareHistory) {
        let Some(State::Open(open)) = self.states.get_mut(&key) else { return };
        if let Some(file) = self.files.get_mut(&open.file) {
            file.shares.remove(open.history.share());
            file.shares.add(history.share());
        }
        open.history = history;
    }

    /// Ends an open state and its lock states, with their byte ranges. Returns the keys of the lock
    /// states.
    pub(super) fn remove_open(&mut self, key: StateKey) -> Vec<StateKey> {
        let Some(State::Open(open)) = self.remove_key(key) else { return Vec::new() };
        if let Some(file) = self.files.get_mut(&open.file) {
            file.shares.remove(open.history.share());
            file.opens.remove(open.owner);
        }
        let locks: Vec<_> = open.locks.values().copied().collect();
        for lock in &locks {
            self.release_lock(*lock, &open.file);
        }
        if let Some(client) = self.clients.get_mut(&open.client) {
            client.counts.opens -= 1;
            self.owners.leave(client, open.owner);
        }
        self.totals.opens -= 1;
        if self.files.get(&open.file).is_some_and(|file| file.opens.is_empty()) {
            self.files.remove(&open.file);
            shrink(&mut self.files);
            self.events.push(Event::Unopened(open.file));
        }
        locks
    }

    /// Ends a lock state whose open stays.
    pub(super) fn remove_lock(&mut self, key: StateKey) {
        let Some(State::Lock(lock)) = self.states.get(&key) else { return };
        let (open, owner) = (lock.open, lock.owner);
        let Some(State::Open(open)) = self.states.get_mut(&open) else { return };
        open.locks.remove(owner);
        let file = open.file.clone();
        self.release_lock(key, &file);
    }

    /// Ends a lock state that its open does not list any more.
    fn release_lock(&mut self, key: StateKey, file: &K) {
        let Some(State::Lock(lock)) = self.remove_key(key) else { return };
        let Some(client) = self.clients.get_mut(&lock.client) else { return };
        client.counts.locks -= 1;
        self.totals.locks -= 1;
        let is_last = self.owners.leave(client, lock.owner) == 0;
        if (is_last || !self.has_lock_state(file, lock.owner))
            && let Some(file) = self.files.get_mut(file)
        {
            let removed = file.ranges.remove_owner(lock.owner);
            self.count_ranges(lock.client, -removed.cast_signed());
        }
    }

    /// Whether a lock owner has a lock state for a file, from any open.
    fn has_lock_state(&self, file: &K, owner: OwnerId) -> bool {
        let opens = self.files.get(file).into_iter().flat_map(|file| file.opens.values());
        let mut states = opens.filter_map(|key| self.states.get(key));
        states.any(|state| match state {
            State::Open(open) => open.lock_of(owner).is_some(),
            State::Lock(_) | State::Revoked(_) => false,
        })
    }

    /// Counts byte ranges that a client has gained or lost.
    pub(super) fn count_ranges(&mut self, client: ClientId, growth: isize) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.ranges = client.ranges.saturating_add_signed(growth);
        }
        self.totals.ranges = self.totals.ranges.saturating_add_signed(growth);
    }

    /// Revokes an open state and its lock states.
    pub(super) fn revoke_open(&mut self, key: StateKey, reason: RevokeReason) {
        let Some((id, _)) = self.share_of(key) else { return };
        let locks = self.remove_open(key);
        let Some(client) = self.clients.get_mut(&id) else { return };
        for key in locks.into_iter().chain([key]) {
            client.states.insert(key);
            *client.counts.revoked(reason) += 1;
            self.totals.revoked += 1;
            self.states.insert(key, State::Revoked(RevokedState { client: id, reason }));
        }
    }

    /// Forgets a revoked state.
    pub(super) fn remove_revoked(&mut self, key: StateKey) {
        let Some(State::Revoked(revoked)) = self.remove_key(key) else { return };
        self.totals.revoked -= 1;
        if let Some(client) = self.clients.get_mut(&revoked.client) {
            *client.counts.revoked(revoked.reason) -= 1;
        }
    }

    /// Takes a state out of the states of the table and of its client.
    fn remove_key(&mut self, key: StateKey) -> Option<State<K>> {
        let state = self.states.remove(&key)?;
        shrink(&mut self.states);
        if let Some(client) = self.clients.get_mut(&state.client()) {
            client.states.remove(&key);
            shrink_set(&mut client.states);
        }
        Some(state)
    }
}
