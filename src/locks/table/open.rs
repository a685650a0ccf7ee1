//! OPEN, OPEN_DOWNGRADE and CLOSE.

use std::hash::Hash;

use super::state::{OpenState, State};
use super::{Claim, LockTable};
use crate::locks::share::ShareHistory;
use crate::locks::stateid::{StateKey, next_seqid};
use crate::locks::{ClientId, LimitKind, LockError, Share, ShareAccess, Stateid, Uptime};

/// Arguments of OPEN.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a, K> {
    /// Client of the session.
    pub client: ClientId,
    /// Name of the open owner.
    pub owner: &'a [u8],
    /// File to open.
    pub file: &'a K,
    /// Share reservation.
    pub share: Share,
    /// Whether the open is new.
    pub claim: Claim,
}

/// An OPEN that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the stateid goes into the reply, or the open is undone"]
pub struct Opened {
    /// Stateid of the open.
    pub stateid: Stateid,
    /// Whether the client has no record on the disk yet. It must have one before the reply goes
    /// out, and [`LockTable::set_recorded`] is called then.
    pub must_record: bool,
    /// What the owner had opened before.
    before: Option<ShareHistory>,
}

impl Opened {
    /// Whether the owner had the file open already: it is then the same open with more access.
    pub fn is_upgrade(&self) -> bool {
        self.before.is_some()
    }
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// Opens a file, or adds to what the owner has opened. Revokes the state of clients that are in
    /// the way and whose lease has expired.
    ///
    /// Call this once the file is known and may be opened, and before its content changes. If what
    /// follows fails, call [`Self::undo_open`].
    ///
    /// # Errors
    /// `StaleClientid`, `Grace`, `NoGrace`, `ReclaimBad`, `ReclaimConflict`, `ShareDenied`,
    /// `TooMany`.
    pub fn open(&mut self, request: OpenRequest<'_, K>, now: Uptime) -> Result<Opened, LockError> {
        self.end_grace(now);
        let OpenRequest { client: id, owner, file, share, claim } = request;
        let client = self.client(id)?;
        self.check_claim(client, claim, now)?;
        let must_record = !client.recorded;
        let in_the_way = self.share_conflicts(id, file, share, now).ok_or(match claim {
            Claim::New => LockError::ShareDenied,
            //= RFC 8881 9.11: a reclaim that conflicts with another client's gets RECLAIM_CONFLICT
            Claim::Reclaim => LockError::ReclaimConflict,
        })?;
        let before = self.open_of(id, owner, file).map(|(key, open)| (key, open.history));
        if before.is_none() {
            let is_known = client.open_owners.contains_key(owner);
            self.make_room(id, is_known, now)?;
        }
        self.expire_all(&in_the_way);
        let (key, before) = match before {
            Some((key, history)) => {
                self.set_history(key, history.with(share));
                (key, Some(history))
            }
            None => (self.attach_open(id, owner, file, share)?, None),
        };
        //= RFC 8881 9.9: each OPEN of an owner that has the file open gives the next seqid
        let stateid = self.changed(key, before.is_some());
        Ok(Opened { stateid, must_record, before })
    }

    /// Takes back an OPEN that was not answered. Without effect if the owner has opened the file
    /// again since: a stateid of the same open was answered then, and CLOSE ends it.
    pub fn undo_open(&mut self, client: ClientId, file: &K, opened: &Opened) {
        let Ok((key, open)) = self.open_state(client, opened.stateid.latest(), file) else {
            return;
        };
        if open.seqid != opened.stateid.seqid {
            return;
        }
        match opened.before {
            Some(history) => self.set_history(key, history),
            None => {
                self.remove_open(key);
            }
        }
    }

    /// OPEN_DOWNGRADE: gives up access or denial of an open.
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`, `InvalidShare`.
    pub fn downgrade(
        &mut self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
        share: Share,
    ) -> Result<Stateid, LockError> {
        let (key, open) = self.open_state(client, stateid, file)?;
        let history = open.history.downgraded(share)?;
        self.set_history(key, history);
        Ok(self.changed(key, true))
    }

    /// CLOSE: ends an open with its lock states, and unlocks what they have locked. The reply has
    /// [`Stateid::INVALID`].
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`.
    pub fn close(&mut self, client: ClientId, stateid: Stateid, file: &K) -> Result<(), LockError> {
        let (key, _) = self.open_state(client, stateid, file)?;
        //= RFC 8881 18.2.3: CLOSE releases the locks of its open, as a server may; none stay behind
        self.remove_open(key);
        Ok(())
    }

    /// The open of an owner in a file.
    pub(super) fn open_of(
        &self,
        client: ClientId,
        owner: &[u8],
        file: &K,
    ) -> Option<(StateKey, &OpenState<K>)> {
        let owner = *self.clients.get(&client)?.open_owners.get(owner)?;
        let key = self.files.get(file)?.opens.get(owner)?;
        match self.states.get(key) {
            Some(State::Open(open)) => Some((*key, open)),
            _ => None,
        }
    }

    /// Clients whose opens conflict with a share, and whose lease has expired. `None` if an open of
    /// any other client conflicts.
    ///
    /// Opens of the same owner count as well, as in the kernel's server: the rule of RFC 8881
    /// section 9.7 makes no exception.
    fn share_conflicts(
        &self,
        id: ClientId,
        file: &K,
        share: Share,
        now: Uptime,
    ) -> Option<Vec<ClientId>> {
        let Some(open) = self.files.get(file).filter(|file| file.shares.conflict_with(share))
        else {
            return Some(Vec::new());
        };
        let shares = open.opens.values().filter_map(|key| self.share_of(*key));
        let conflicts = shares.filter(|(_, other)| other.conflicts_with(share));
        self.all_expired(conflicts.map(|(client, _)| client), Some(id), now)
    }

    /// Clients whose opens deny some I/O, and whose lease has expired. `None` if an open of any
    /// other client denies it. `by` is the open that the I/O belongs to, and its client.
    pub(super) fn denials(
        &self,
        file: &K,
        access: ShareAccess,
        by: Option<(StateKey, ClientId)>,
        now: Uptime,
    ) -> Option<Vec<ClientId>> {
        let Some(open) = self.files.get(file).filter(|file| file.shares.deny(access)) else {
            return Some(Vec::new());
        };
        let others = open.opens.values().filter(|key| Some(**key) != by.map(|(key, _)| key));
        let shares = others.filter_map(|key| self.share_of(*key));
        let denials = shares.filter(|(_, other)| other.denies(access));
        self.all_expired(denials.map(|(client, _)| client), by.map(|(_, client)| client), now)
    }

    /// These clients, each once, if the leases of all have expired. The client of the request is
    /// there, whatever its lease.
    pub(super) fn all_expired(
        &self,
        clients: impl Iterator<Item = ClientId>,
        requester: Option<ClientId>,
        now: Uptime,
    ) -> Option<Vec<ClientId>> {
        let mut expired = Vec::new();
        for client in clients {
            if Some(client) == requester || !self.is_expired(client, now) {
                return None;
            }
            expired.push(client);
        }
        expired.sort_unstable();
        expired.dedup();
        Some(expired)
    }

    /// Makes room for one more state of a client, and for its owner unless that is known.
    pub(super) fn make_room(
        &mut self,
        id: ClientId,
        is_owner_known: bool,
        now: Uptime,
    ) -> Result<(), LockError> {
        let (limits, client) = (self.settings.limits, self.client(id)?);
        if client.states.len() >= limits.states.client {
            return Err(LockError::TooMany(LimitKind::States));
        }
        if !is_owner_known && client.owners() >= limits.owners.client {
            return Err(LockError::TooMany(LimitKind::Owners));
        }
        while self.states.len() >= limits.states.total {
            self.remove_expired(id, now).ok_or(LockError::TooMany(LimitKind::States))?;
        }
        while !is_owner_known && self.owners.len() >= limits.owners.total {
            self.remove_expired(id, now).ok_or(LockError::TooMany(LimitKind::Owners))?;
        }
        Ok(())
    }

    /// The stateid of a state, after its seqid was advanced if it has changed.
    pub(super) fn changed(&mut self, key: StateKey, has_changed: bool) -> Stateid {
        let seqid = match self.states.get_mut(&key) {
            Some(State::Open(open)) => &mut open.seqid,
            Some(State::Lock(lock)) => &mut lock.seqid,
            Some(State::Revoked(_)) | None => return Stateid::INVALID,
        };
        if has_changed {
            *seqid = next_seqid(*seqid);
        }
        key.stateid(self.settings.epoch, *seqid)
    }
}
