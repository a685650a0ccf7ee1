//! LOCK, LOCKT and LOCKU.

use std::hash::Hash;

use super::state::State;
use super::{Claim, LockTable};
use crate::locks::owner::OwnerId;
use crate::locks::range::RangeEdit;
use crate::locks::share::ShareAccess;
use crate::locks::stateid::StateKey;
use crate::locks::{
    ByteRange, ClientId, LimitKind, LockConflict, LockError, LockKind, LockedRange, RangeTable,
    Stateid, Uptime,
};

/// The lock owner of a LOCK.
#[derive(Clone, Copy, Debug)]
pub enum Locker<'a> {
    /// A lock owner by name: `new_lock_owner` is true. It may have a lock state of the open
    /// already.
    New {
        /// Stateid of the open.
        open: Stateid,
        /// Name of the lock owner.
        owner: &'a [u8],
    },
    /// The lock owner of a lock state.
    Existing(Stateid),
}

/// Arguments of LOCK.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest<'a, K> {
    /// Client of the session.
    pub client: ClientId,
    /// Current file.
    pub file: &'a K,
    /// Lock owner.
    pub locker: Locker<'a>,
    /// Range to lock.
    pub range: ByteRange,
    /// Kind of the lock. One that would wait is the same: it is denied, and the client polls.
    pub kind: LockKind,
    /// Whether the lock is new.
    pub claim: Claim,
}

/// Arguments of LOCKT.
#[derive(Clone, Copy, Debug)]
pub struct LockTestRequest<'a, K> {
    /// Client of the session.
    pub client: ClientId,
    /// Current file.
    pub file: &'a K,
    /// Name of the lock owner. It need not exist.
    pub owner: &'a [u8],
    /// Range to test.
    pub range: ByteRange,
    /// Kind of the lock.
    pub kind: LockKind,
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// LOCK: locks a range, or changes the kind of a lock. Replaces what the owner has locked
    /// there. Revokes the state of clients that are in the way and whose lease has expired.
    ///
    /// # Errors
    /// `StaleClientid`, `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`, `OpenMode`, `Grace`,
    /// `NoGrace`, `ReclaimBad`, `ReclaimConflict`, `Denied`, `TooMany`.
    pub fn lock(&mut self, request: LockRequest<'_, K>, now: Uptime) -> Result<Stateid, LockError> {
        self.end_grace(now);
        let LockRequest { client: id, file, locker, range, kind, claim } = request;
        let client = self.client(id)?;
        let (open, owner) = match locker {
            Locker::New { open, owner } => {
                let (key, _) = self.open_state(id, open, file)?;
                (key, client.lock_owners.get(owner).copied())
            }
            Locker::Existing(lock) => {
                let (_, lock, _) = self.lock_state(id, lock, file)?;
                (lock.open, Some(lock.owner))
            }
        };
        self.check_lock_mode(open, kind)?;
        self.check_claim(client, claim, now)?;
        let in_the_way = self.range_conflicts(id, file, owner, range, kind, now).map_err(
            |held| match claim {
                Claim::New => held,
                Claim::Reclaim => LockError::ReclaimConflict,
            },
        )?;
        let is_new = self.lock_of(open, owner).is_none();
        if is_new {
            self.make_room(id, owner.is_some(), now)?;
        }
        let growth = self.plan(file, owner, range, Some(kind)).growth();
        self.make_room_for_ranges(id, growth, now)?;
        self.expire_all(&in_the_way);
        let (key, owner) = match (locker, self.lock_of(open, owner).zip(owner)) {
            (_, Some(existing)) => existing,
            (Locker::New { owner, .. }, None) => self.attach_lock(id, owner, open)?,
            (Locker::Existing(_), None) => return Err(LockError::BadStateid),
        };
        self.edit(id, file, owner, range, Some(kind));
        Ok(self.changed(key, true))
    }

    /// LOCKT: tests whether a lock would be granted. Nothing changes; locks of clients whose lease
    /// has expired would not prevent it.
    ///
    /// # Errors
    /// `StaleClientid`, `Grace`, `Denied`.
    pub fn lock_test(&self, request: LockTestRequest<'_, K>, now: Uptime) -> Result<(), LockError> {
        let LockTestRequest { client: id, file, owner, range, kind } = request;
        let owner = self.client(id)?.lock_owners.get(owner).copied();
        //= RFC 8881 18.11.3: in a grace period, not all locks are known yet: GRACE
        self.check_grace(now)?;
        self.range_conflicts(id, file, owner, range, kind, now)?;
        Ok(())
    }

    /// LOCKU: unlocks a range, locked or not.
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`, `LockRange`.
    pub fn unlock(
        &mut self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
        range: ByteRange,
    ) -> Result<Stateid, LockError> {
        let (key, lock, _) = self.lock_state(client, stateid, file)?;
        let owner = lock.owner;
        // A split needs room. Without a limit here, one lock of everything and many unlocks would
        // make any number of ranges.
        let growth = self.plan(file, Some(owner), range, None).growth();
        self.check_ranges(client, growth).map_err(|_| LockError::LockRange)?;
        //= RFC 8881 18.12.3: to unlock what is not locked, in part or at all, is no error
        self.edit(client, file, owner, range, None);
        Ok(self.changed(key, true))
    }

    /// Checks that an open has the access that a lock needs.
    fn check_lock_mode(&self, open: StateKey, kind: LockKind) -> Result<(), LockError> {
        let needed = match kind {
            LockKind::Read => ShareAccess::READ,
            LockKind::Write => ShareAccess::WRITE,
        };
        //= RFC 8881 18.10.3: a lock needs an open with the same access, otherwise OPENMODE
        match self.share_of(open) {
            Some((_, share)) if share.access.includes(needed) => Ok(()),
            _ => Err(LockError::OpenMode),
        }
    }

    /// Clients whose locks conflict with such a lock, and whose lease has expired.
    ///
    /// # Errors
    /// `Denied` with the first conflict of any other client.
    fn range_conflicts(
        &self,
        id: ClientId,
        file: &K,
        owner: Option<OwnerId>,
        range: ByteRange,
        kind: LockKind,
        now: Uptime,
    ) -> Result<Vec<ClientId>, LockError> {
        let Some(open) = self.files.get(file) else { return Ok(Vec::new()) };
        let mut in_the_way = Vec::new();
        for (other, locked) in open.ranges.conflicts(owner, range, kind) {
            match self.owners.client(other) {
                Some(client) if client != id && self.is_expired(client, now) => {
                    in_the_way.push(client);
                }
                Some(_) => return Err(self.denied(other, locked)),
                None => {}
            }
        }
        in_the_way.sort_unstable();
        in_the_way.dedup();
        Ok(in_the_way)
    }

    fn denied(&self, owner: OwnerId, locked: LockedRange) -> LockError {
        //= RFC 8881 18.10.3: DENIED has the owner, the range and the kind of a lock in the way
        match self.owners.get(owner) {
            Some(owner) => LockError::Denied(Box::new(LockConflict {
                client: owner.client,
                owner: owner.name.clone(),
                range: locked.range,
                kind: locked.kind,
            })),
            None => LockError::BadStateid,
        }
    }

    /// The lock state of an owner in an open.
    fn lock_of(&self, open: StateKey, owner: Option<OwnerId>) -> Option<StateKey> {
        match self.states.get(&open) {
            Some(State::Open(open)) => open.lock_of(owner?),
            _ => None,
        }
    }

    /// How the ranges of an owner change with a lock, or an unlock without a kind.
    fn plan(
        &self,
        file: &K,
        owner: Option<OwnerId>,
        range: ByteRange,
        kind: Option<LockKind>,
    ) -> RangeEdit {
        match self.files.get(file) {
            Some(file) => file.ranges.plan(owner, range, kind),
            None => RangeTable::default().plan(owner, range, kind),
        }
    }

    fn edit(
        &mut self,
        client: ClientId,
        file: &K,
        owner: OwnerId,
        range: ByteRange,
        kind: Option<LockKind>,
    ) {
        if let Some(open) = self.files.get_mut(file) {
            let edit = open.ranges.plan(Some(owner), range, kind);
            open.ranges.apply(owner, edit);
            self.count_ranges(client, edit.growth());
        }
    }

    /// Checks that a client may have more ranges.
    fn check_ranges(&self, id: ClientId, growth: isize) -> Result<(), LockError> {
        let (limit, ranges) = (self.settings.limits.ranges, self.client(id)?.ranges);
        let grown = |ranges: usize| ranges.saturating_add_signed(growth);
        let fits = grown(ranges) <= limit.client && grown(self.totals.ranges) <= limit.total;
        if fits { Ok(()) } else { Err(LockError::TooMany(LimitKind::Ranges)) }
    }

    /// Makes room for more ranges of a client.
    fn make_room_for_ranges(
        &mut self,
        id: ClientId,
        growth: isize,
        now: Uptime,
    ) -> Result<(), LockError> {
        while let Err(full) = self.check_ranges(id, growth) {
            let limit = self.settings.limits.ranges.client;
            let is_own = self.client(id)?.ranges.saturating_add_signed(growth) > limit;
            if is_own || self.remove_expired(id, now).is_none() {
                return Err(full);
            }
        }
        Ok(())
    }
}
