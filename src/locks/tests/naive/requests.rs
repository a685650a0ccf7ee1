//! Requests of the naive table: opens, locks, I/O, and stateids.

use std::collections::BTreeSet;

use super::super::super::*;
use super::{Naive, NaiveState, Reference, Refusal, Refused, What, cells, runs};

impl Naive {
    /// Opens a file. Returns the number of the state, and whether the client must be recorded.
    pub(in super::super) fn open(
        &mut self,
        (client, owner, file): (u64, u8, u8),
        (access, deny): (u32, u32),
        claim: Claim,
    ) -> Result<(usize, bool), Refused> {
        self.end_grace();
        self.check(self.clients.contains_key(&client), LockError::StaleClientid)?;
        self.check_claim(client, claim)?;
        let opens = self.opens().into_iter().filter(|(_, open)| open.file == file);
        let conflicts =
            opens.filter(|(_, open)| open.access() & deny != 0 || open.deny() & access != 0);
        let conflicts = conflicts.map(|(_, open)| open.client);
        let in_the_way = self.all_expired(conflicts, Some(client)).ok_or({
            if claim == Claim::New { LockError::ShareDenied } else { LockError::ReclaimConflict }
        })?;
        let existing = self
            .opens()
            .into_iter()
            .find(|(_, open)| (open.client, open.owner, open.file) == (client, owner, file));
        let existing = existing.map(|(number, _)| number);
        if existing.is_none() {
            self.room(client, Some((true, client, owner)))?;
        }
        in_the_way.into_iter().for_each(|id| self.expire(id));
        let number = existing.unwrap_or_else(|| self.state(What::Open, client, owner, file));
        let state = &mut self.states[number];
        state.seqid += 1;
        state.accesses.insert(access);
        state.denies.insert(deny);
        Ok((number, !self.clients[&client].recorded))
    }

    fn expire(&mut self, id: u64) {
        if self.clients.contains_key(&id) {
            self.revoke_client(id, false);
        }
    }

    fn state(&mut self, what: What, client: u64, owner: u8, file: u8) -> usize {
        let (accesses, denies) = (BTreeSet::new(), BTreeSet::new());
        let state = NaiveState { what, client, owner, file, seqid: 0, accesses, denies };
        self.states.push(state);
        self.states.len() - 1
    }

    /// Takes back the latest open: of a new state, or with the modes of before.
    pub(in super::super) fn undo(&mut self, number: usize, before: Option<NaiveState>) {
        match before {
            None => self.end(number, What::Gone),
            Some(before) => {
                let state = &mut self.states[number];
                (state.accesses, state.denies) = (before.accesses, before.denies);
            }
        }
    }

    pub(in super::super) fn downgrade(
        &mut self,
        at: Reference,
        (access, deny): (u32, u32),
    ) -> Refusal {
        let state = self.find(at, |what| what == What::Open)?;
        let keep = |modes: &BTreeSet<u32>, to: u32| -> BTreeSet<u32> {
            modes.iter().copied().filter(|mode| mode & !to == 0).collect()
        };
        let (accesses, denies) = (keep(&state.accesses, access), keep(&state.denies, deny));
        let is = |modes: &BTreeSet<u32>, to| {
            !modes.is_empty() && modes.iter().fold(0, |all, mode| all | mode) == to
        };
        self.check(is(&accesses, access) && is(&denies, deny), LockError::InvalidShare)?;
        let state = &mut self.states[at.state];
        (state.accesses, state.denies) = (accesses, denies);
        state.seqid += 1;
        Ok(state.seqid)
    }

    pub(in super::super) fn close(&mut self, at: Reference) -> Refusal {
        self.find(at, |what| what == What::Open)?;
        self.end(at.state, What::Gone);
        Ok(0)
    }

    fn conflicts(
        &self,
        (client, owner, file): (u64, u8, u8),
        (first, last): (usize, usize),
        kind: LockKind,
    ) -> Result<BTreeSet<u64>, Refused> {
        let mut conflicts = Vec::new();
        for ((of, other, name), bytes) in &self.bytes {
            if *of == file && (*other, *name) != (client, owner) {
                let hit = runs(bytes).into_iter().find(|run| {
                    run.range.overlaps(cells(first, last)) && run.kind.conflicts_with(kind)
                });
                conflicts.extend(hit.map(|run| (*other, *name, run)));
            }
        }
        let live = conflicts.iter().filter(|(of, _, _)| *of == client || !self.is_expired(*of));
        let live: Vec<_> = live
            .map(|(client, name, run)| LockConflict {
                client: ClientId(*client),
                owner: [*name].as_slice().into(),
                range: run.range,
                kind: run.kind,
            })
            .collect();
        if live.is_empty() {
            Ok(conflicts.into_iter().map(|(client, _, _)| client).collect())
        } else {
            Err(Refused::Denied(live))
        }
    }

    /// The ranges that an owner gains with an edit.
    fn growth(
        &self,
        (client, owner, file): (u64, u8, u8),
        (first, last): (usize, usize),
        kind: Option<LockKind>,
    ) -> isize {
        let mut bytes = self.bytes.get(&(file, client, owner)).copied().unwrap_or_default();
        let before = runs(&bytes).len().cast_signed();
        bytes[first..=last].fill(kind);
        runs(&bytes).len().cast_signed() - before
    }

    fn exceeds(&self, ranges: usize, growth: isize, limit: usize) -> bool {
        growth > 0 && ranges.strict_add_signed(growth) > limit
    }

    fn edit(
        &mut self,
        (client, owner, file): (u64, u8, u8),
        (first, last): (usize, usize),
        kind: Option<LockKind>,
    ) {
        let bytes = self.bytes.entry((file, client, owner)).or_default();
        bytes[first..=last].fill(kind);
        if bytes.iter().all(Option::is_none) {
            self.bytes.remove(&(file, client, owner));
        }
    }

    /// Locks a range by an open and the name of a lock owner, or by a lock state. Returns the
    /// number of the lock state.
    pub(in super::super) fn lock(
        &mut self,
        at: Reference,
        owner: Option<u8>,
        range: (usize, usize),
        kind: LockKind,
        claim: Claim,
    ) -> Result<usize, Refused> {
        self.end_grace();
        self.check(self.clients.contains_key(&at.client), LockError::StaleClientid)?;
        let is_open = |what| what == What::Open;
        let is_lock = |what| matches!(what, What::Lock { .. });
        let (open, owner) = match owner {
            Some(owner) => {
                self.find(at, is_open)?;
                (at.state, owner)
            }
            None => {
                let state = self.find(at, is_lock)?;
                let What::Lock { open } = state.what else { panic!("no lock") };
                (open, state.owner)
            }
        };
        let needed = if kind == LockKind::Read { 1 } else { 2 };
        self.check(self.states[open].access() & needed != 0, LockError::OpenMode)?;
        self.check_claim(at.client, claim)?;
        let who = (at.client, owner, at.file);
        let in_the_way = self.conflicts(who, range, kind).map_err(|denied| match claim {
            Claim::New => denied,
            Claim::Reclaim => LockError::ReclaimConflict.into(),
        })?;
        let existing = self
            .locks()
            .into_iter()
            .find(|(_, lock)| lock.what == What::Lock { open } && lock.owner == owner);
        let existing = existing.map(|(number, _)| number);
        if existing.is_none() {
            self.room(at.client, Some((false, at.client, owner)))?;
        }
        let growth = self.growth(who, range, Some(kind));
        let limit = self.limits.ranges;
        let own = self.exceeds(self.ranges_of(Some(at.client)), growth, limit.client);
        self.check(!own, LockError::TooMany(LimitKind::Ranges))?;
        while self.exceeds(self.ranges_of(None), growth, limit.total) {
            self.evict(at.client, LimitKind::Ranges)?;
        }
        in_the_way.into_iter().for_each(|id| self.expire(id));
        let number =
            existing.unwrap_or_else(|| self.state(What::Lock { open }, at.client, owner, at.file));
        self.edit(who, range, Some(kind));
        self.states[number].seqid += 1;
        Ok(number)
    }

    pub(in super::super) fn lock_test(
        &self,
        who: (u64, u8, u8),
        range: (usize, usize),
        kind: LockKind,
    ) -> Refusal {
        self.check(self.clients.contains_key(&who.0), LockError::StaleClientid)?;
        self.check(!self.is_in_grace(), LockError::Grace)?;
        self.conflicts(who, range, kind)?;
        Ok(0)
    }

    pub(in super::super) fn unlock(&mut self, at: Reference, range: (usize, usize)) -> Refusal {
        let owner = self.find(at, |what| matches!(what, What::Lock { .. }))?.owner;
        let who = (at.client, owner, at.file);
        let (growth, limit) = (self.growth(who, range, None), self.limits.ranges);
        let over = self.exceeds(self.ranges_of(Some(at.client)), growth, limit.client)
            || self.exceeds(self.ranges_of(None), growth, limit.total);
        self.check(!over, LockError::LockRange)?;
        self.edit(who, range, None);
        self.states[at.state].seqid += 1;
        Ok(self.states[at.state].seqid)
    }

    /// I/O that opens may deny, but for one of them.
    pub(in super::super) fn check_deny(
        &mut self,
        file: u8,
        access: u32,
        by: Option<usize>,
    ) -> Refusal {
        self.end_grace();
        let opens = self.opens().into_iter().filter(|(number, open)| {
            open.file == file && open.deny() & access != 0 && Some(*number) != by
        });
        let denials = opens.map(|(_, open)| open.client);
        let requester = by.map(|open| self.states[open].client);
        let in_the_way = self.all_expired(denials, requester).ok_or(LockError::Locked)?;
        in_the_way.into_iter().for_each(|id| self.expire(id));
        Ok(0)
    }

    pub(in super::super) fn io(&mut self, at: Reference, access: u32) -> Refusal {
        self.end_grace();
        let is_any = |what| matches!(what, What::Open | What::Lock { .. });
        let open = match self.find(at, is_any)?.what {
            What::Lock { open } => open,
            _ => at.state,
        };
        if self.states[open].access() & access == access {
            return Ok(1);
        }
        self.check(access == 1, LockError::OpenMode)?;
        self.check_deny(at.file, access, Some(open))?;
        Ok(1)
    }

    pub(in super::super) fn test(&self, at: Reference) -> Refusal {
        self.find(Reference { file: self.states[at.state].file, ..at }, |_| true)?;
        Ok(0)
    }

    pub(in super::super) fn free(&mut self, at: Reference) -> Refusal {
        match self.test(at) {
            Err(Refused::Error(LockError::Expired | LockError::AdminRevoked)) => {}
            Err(refused) => return Err(refused),
            Ok(_) => {
                let state = &self.states[at.state];
                let held = self.bytes.contains_key(&(state.file, state.client, state.owner));
                self.check(state.what != What::Open && !held, LockError::LocksHeld)?;
            }
        }
        self.end(at.state, What::Gone);
        Ok(0)
    }
}
