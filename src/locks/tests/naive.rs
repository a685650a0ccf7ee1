//! What the table should do, in the simplest form: lists that are searched from end to end, and a
//! map of bytes. States are numbered in the order of their making.

mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::{COURTESY, LEASE};

/// The bytes of a file: the last one stands for all from there to the end.
pub(super) const CELLS: usize = 8;

/// The range from one byte to another one.
pub(super) fn cells(first: usize, last: usize) -> ByteRange {
    let length = if last == CELLS - 1 { u64::MAX } else { (last - first + 1) as u64 };
    ByteRange::new(first as u64, length).unwrap()
}

pub(super) type Refusal = Result<u32, Refused>;

/// Why the model refuses a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Error(LockError),
    /// A conflict with any of these.
    Denied(Vec<LockConflict>),
}

impl From<LockError> for Refused {
    fn from(error: LockError) -> Self {
        Self::Error(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Open,
    Lock { open: usize },
    Revoked(bool),
    Gone,
}

/// A state, also one that is gone.
#[derive(Clone, Debug)]
pub(super) struct NaiveState {
    pub(super) what: What,
    pub(super) client: u64,
    pub(super) owner: u8,
    pub(super) file: u8,
    pub(super) seqid: u32,
    accesses: BTreeSet<u32>,
    denies: BTreeSet<u32>,
}

impl NaiveState {
    fn access(&self) -> u32 {
        self.accesses.iter().fold(0, |all, mode| all | mode)
    }

    fn deny(&self) -> u32 {
        self.denies.iter().fold(0, |all, mode| all | mode)
    }
}

#[derive(Clone, Debug)]
pub(super) struct NaiveClient {
    pub(super) name: u8,
    renewed: Duration,
    pub(super) recorded: bool,
    /// `None` after RECLAIM_COMPLETE.
    may_reclaim: Option<bool>,
}

/// A reference to a state in a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference {
    pub(super) client: u64,
    pub(super) state: usize,
    pub(super) seqid: u32,
    pub(super) file: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) limits: LockLimits,
    pub(super) now: Duration,
    pub(super) clients: BTreeMap<u64, NaiveClient>,
    pub(super) states: Vec<NaiveState>,
    /// By file, client and owner.
    pub(super) bytes: BTreeMap<(u8, u64, u8), [Option<LockKind>; CELLS]>,
    /// Deadline; names, and whether they have come back; names of those that restarted.
    pub(super) grace: Option<(Duration, BTreeMap<u8, bool>, Vec<u8>)>,
    pub(super) events: Vec<Event<u8>>,
}

/// The runs of one kind in a file.
fn runs(bytes: &[Option<LockKind>; CELLS]) -> Vec<LockedRange> {
    let (mut runs, mut first) = (Vec::new(), 0);
    while first < CELLS {
        let same = bytes[first..].iter().take_while(|kind| **kind == bytes[first]).count();
        if let Some(kind) = bytes[first] {
            runs.push(LockedRange { range: cells(first, first + same - 1), kind });
        }
        first += same;
    }
    runs
}

impl Naive {
    fn check(&self, holds: bool, error: LockError) -> Result<(), LockError> {
        if holds { Ok(()) } else { Err(error) }
    }

    fn is_expired(&self, client: u64) -> bool {
        self.now - self.clients[&client].renewed > LEASE
    }

    pub(super) fn is_in_grace(&self) -> bool {
        let over = |(deadline, pending, _): &(Duration, BTreeMap<u8, bool>, Vec<u8>)| {
            self.now >= *deadline || pending.is_empty()
        };
        self.grace.as_ref().is_some_and(|grace| !over(grace))
    }

    fn end_grace(&mut self) {
        if self.grace.is_some() && !self.is_in_grace() {
            let (_, pending, restarted) = self.grace.take().unwrap();
            let absent = pending.into_iter().filter(|(_, returned)| !returned);
            let absent = absent.map(|(name, _)| name).chain(restarted);
            let absent = absent.map(|name| [name].as_slice().into()).collect();
            self.events.push(Event::GraceEnded { absent });
        }
    }

    fn check_claim(&self, client: u64, claim: Claim) -> Result<(), LockError> {
        let may_reclaim = self.clients[&client].may_reclaim;
        match (claim, self.is_in_grace(), may_reclaim) {
            (Claim::New, true, _) | (Claim::New, false, Some(_)) => Err(LockError::Grace),
            (Claim::Reclaim, false, _) | (Claim::Reclaim, true, None) => Err(LockError::NoGrace),
            (Claim::Reclaim, true, Some(false)) => Err(LockError::ReclaimBad),
            (Claim::New, false, None) | (Claim::Reclaim, true, Some(true)) => Ok(()),
        }
    }

    /// The states of a kind, with their numbers.
    fn all(&self, is: impl Fn(What) -> bool) -> Vec<(usize, &NaiveState)> {
        self.states.iter().enumerate().filter(|(_, state)| is(state.what)).collect()
    }

    pub(super) fn opens(&self) -> Vec<(usize, &NaiveState)> {
        self.all(|what| what == What::Open)
    }

    pub(super) fn locks(&self) -> Vec<(usize, &NaiveState)> {
        self.all(|what| matches!(what, What::Lock { .. }))
    }

    pub(super) fn revoked(&self) -> Vec<(usize, &NaiveState)> {
        self.all(|what| matches!(what, What::Revoked(_)))
    }

    pub(super) fn owners(&self) -> BTreeSet<(bool, u64, u8)> {
        let opens = self.opens().into_iter().map(|(_, state)| (true, state.client, state.owner));
        let locks = self.locks().into_iter().map(|(_, state)| (false, state.client, state.owner));
        opens.chain(locks).collect()
    }

    fn states_of(&self, client: u64) -> Vec<usize> {
        let all = self.all(|what| what != What::Gone).into_iter();
        all.filter(|(_, state)| state.client == client).map(|(number, _)| number).collect()
    }

    pub(super) fn ranges_of(&self, client: Option<u64>) -> usize {
        let mine = |of: u64| client.is_none_or(|client| of == client);
        let sets = self.bytes.iter().filter(|((_, of, _), _)| mine(*of));
        sets.map(|(_, bytes)| runs(bytes).len()).sum()
    }

    /// Finds a state: its own status, and then whether it is the one that is needed.
    fn find(&self, at: Reference, is: impl Fn(What) -> bool) -> Result<&NaiveState, LockError> {
        let state = &self.states[at.state];
        if state.client != at.client || state.what == What::Gone {
            return Err(LockError::BadStateid);
        }
        if let What::Revoked(by_admin) = state.what {
            return Err(if by_admin { LockError::AdminRevoked } else { LockError::Expired });
        }
        self.check(is(state.what) && state.file == at.file, LockError::BadStateid)?;
        self.check_seqid(at)?;
        Ok(state)
    }

    fn check_seqid(&self, at: Reference) -> Result<(), LockError> {
        let latest = self.states[at.state].seqid;
        self.check(at.seqid == 0 || at.seqid >= latest, LockError::OldStateid)?;
        self.check(at.seqid <= latest, LockError::BadStateid)
    }

    pub(super) fn add_client(&mut self, id: u64, name: u8, same_verifier: bool) -> Refusal {
        self.end_grace();
        while self.clients.len() >= self.limits.clients {
            self.evict(id, LimitKind::Clients)?;
        }
        let mut may_reclaim = false;
        if let Some((_, pending, restarted)) = &mut self.grace
            && let Some(returned) = pending.get_mut(&name)
        {
            if same_verifier {
                (may_reclaim, *returned) = (true, true);
            } else {
                pending.remove(&name);
                restarted.push(name);
            }
        }
        let (renewed, recorded) = (self.now, may_reclaim);
        let client = NaiveClient { name, renewed, recorded, may_reclaim: Some(may_reclaim) };
        self.clients.insert(id, client);
        self.end_grace();
        Ok(u32::from(may_reclaim))
    }

    pub(super) fn complete(&mut self, id: u64) -> Refusal {
        let client = self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?;
        match client.may_reclaim.take() {
            None => return Err(LockError::CompleteAlready.into()),
            Some(true) => {
                let name = client.name;
                if let Some((_, pending, _)) = &mut self.grace {
                    pending.remove(&name);
                }
            }
            Some(false) => {}
        }
        self.end_grace();
        Ok(0)
    }

    pub(super) fn renew(&mut self, id: u64) -> Refusal {
        let now = self.now;
        self.clients.get_mut(&id).ok_or(LockError::StaleClientid)?.renewed = now;
        let of: Vec<_> = self.states_of(id).into_iter().map(|n| self.states[n].what).collect();
        let has_live = of.iter().any(|what| !matches!(what, What::Revoked(_)));
        let expired = if has_live { 0x10 } else { 0x08 };
        let expired = if of.contains(&What::Revoked(false)) { expired } else { 0 };
        Ok(expired | if of.contains(&What::Revoked(true)) { 0x20 } else { 0 })
    }

    /// Ends a state in one of three ways, an open with its locks.
    fn end(&mut self, number: usize, what: What) {
        let state = self.states[number].clone();
        self.states[number].what = what;
        if state.what == What::Open {
            let locks = self
                .locks()
                .into_iter()
                .filter(|(_, lock)| lock.what == What::Lock { open: number });
            for lock in locks.map(|(lock, _)| lock).collect::<Vec<_>>() {
                self.end(lock, what);
            }
            if !self.opens().iter().any(|(_, open)| open.file == state.file) {
                self.events.push(Event::Unopened(state.file));
            }
        }
        let same = |lock: &NaiveState| {
            (lock.file, lock.client, lock.owner) == (state.file, state.client, state.owner)
        };
        if matches!(state.what, What::Lock { .. })
            && !self.locks().iter().any(|(_, lock)| same(lock))
        {
            self.bytes.remove(&(state.file, state.client, state.owner));
        }
    }

    pub(super) fn remove_client(&mut self, id: u64) {
        for number in self.states_of(id) {
            self.end(number, What::Gone);
        }
        self.clients.remove(&id);
    }

    fn evict(&mut self, except: u64, kind: LimitKind) -> Result<(), LockError> {
        let expired = self.clients.iter().filter(|(id, _)| **id != except);
        let expired = expired.filter(|(id, _)| self.is_expired(**id));
        let oldest = expired.map(|(id, client)| (client.renewed, *id)).min();
        let (_, id) = oldest.ok_or(LockError::TooMany(kind))?;
        self.remove_client(id);
        self.events.push(Event::Removed(ClientId(id)));
        Ok(())
    }

    pub(super) fn revoke_client(&mut self, id: u64, by_admin: bool) {
        for number in self.states_of(id) {
            if matches!(self.states[number].what, What::Open | What::Lock { .. }) {
                self.end(number, What::Revoked(by_admin));
            }
        }
        if let Some(client) = self.clients.get_mut(&id)
            && std::mem::take(&mut client.recorded)
        {
            self.events.push(Event::Forget(ClientId(id)));
        }
    }

    pub(super) fn revoke_file(&mut self, file: u8) -> u32 {
        let before = self.revoked().len();
        let opens = self.opens().into_iter().filter(|(_, open)| open.file == file);
        for number in opens.map(|(number, _)| number).collect::<Vec<_>>() {
            self.end(number, What::Revoked(true));
        }
        u32::try_from(self.revoked().len() - before).unwrap()
    }

    pub(super) fn sweep(&mut self) {
        self.end_grace();
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let silent = self.now - self.clients[&id].renewed;
            if silent > LEASE && (self.states_of(id).is_empty() || silent > LEASE + COURTESY) {
                self.remove_client(id);
                self.events.push(Event::Removed(ClientId(id)));
            }
        }
    }

    /// Of clients that are in the way: `None` if one of them has a lease, otherwise each once.
    /// The client of the request itself is there.
    fn all_expired(
        &self,
        clients: impl Iterator<Item = u64>,
        requester: Option<u64>,
    ) -> Option<BTreeSet<u64>> {
        let clients: BTreeSet<_> = clients.collect();
        let is_gone = |id: &u64| Some(*id) != requester && self.is_expired(*id);
        clients.iter().all(is_gone).then_some(clients)
    }

    fn room(&mut self, id: u64, owner: Option<(bool, u64, u8)>) -> Result<(), LockError> {
        let (limits, full) = (self.limits, LockError::TooMany);
        let new = owner.is_some_and(|owner| !self.owners().contains(&owner));
        self.check(self.states_of(id).len() < limits.states.client, full(LimitKind::States))?;
        let of_client = self.owners().iter().filter(|(_, client, _)| *client == id).count();
        self.check(!new || of_client < limits.owners.client, full(LimitKind::Owners))?;
        while self.all(|what| what != What::Gone).len() >= limits.states.total {
            self.evict(id, LimitKind::States)?;
        }
        while new && self.owners().len() >= limits.owners.total {
            self.evict(id, LimitKind::Owners)?;
        }
        Ok(())
    }
}
