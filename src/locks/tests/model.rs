//! The whole table against the naive one: the same requests, and after each the same answer, the
//! same events, the same counts, and the same files, opens and ranges.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::naive::{CELLS, Naive, Reference, Refused, What, cells};
use super::{EPOCH, LEASE, settings};

/// Clients at a time, each with a name of its own.
const CLIENTS: u8 = 4;

/// A state that a request refers to.
#[derive(Clone, Copy, Debug)]
struct Target {
    state: Index,
    /// Whether it is one that is live; otherwise any that there ever was.
    is_live: bool,
    seqid: Seqid,
    /// The client, if it is not that of the state.
    client: Option<u8>,
    /// The file, if it is not that of the state.
    file: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Seqid {
    Zero,
    Latest,
    Earlier,
    Later,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add { client: u8, same_verifier: bool },
    Remove(u8),
    Renew(u8),
    Complete(u8),
    Recorded(u8),
    Open { client: u8, owner: u8, file: u8, modes: (u32, u32), claim: Claim, is_undone: bool },
    Downgrade(Target, (u32, u32)),
    Close(Target),
    Lock { target: Target, owner: u8, range: (usize, usize), kind: LockKind, claim: Claim },
    LockMore { target: Target, range: (usize, usize), kind: LockKind, claim: Claim },
    LockTest { client: u8, owner: u8, file: u8, range: (usize, usize), kind: LockKind },
    Unlock(Target, (usize, usize)),
    Io(Target, u32),
    ShareDeny(u8, u32),
    Test(Target),
    Free(Target),
    Pass(u64),
    Sweep,
    RevokeClient(u8),
    RevokeFile(u8),
}

fn modes() -> impl Strategy<Value = (u32, u32)> {
    (1_u32..4, prop_oneof![4 => Just(0_u32), 1 => 0_u32..4])
}

fn claims() -> impl Strategy<Value = Claim> {
    prop_oneof![6 => Just(Claim::New), 1 => Just(Claim::Reclaim)]
}

fn targets() -> impl Strategy<Value = Target> {
    let seqid = prop_oneof![
        4 => Just(Seqid::Zero),
        8 => Just(Seqid::Latest),
        1 => Just(Seqid::Earlier),
        1 => Just(Seqid::Later),
    ];
    let other = |max| prop::option::weighted(0.03, 0..max);
    let parts = (any::<Index>(), prop::bool::weighted(0.9), seqid, other(CLIENTS), other(3_u8));
    parts.prop_map(|(state, is_live, seqid, client, file)| Target {
        state,
        is_live,
        seqid,
        client,
        file,
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let (client, owner, file) = (|| 0..CLIENTS, || 0_u8..3, || 0_u8..3);
    let range = || (0..CELLS, 0..CELLS).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let kind = || prop_oneof![Just(LockKind::Read), Just(LockKind::Write)];
    let small = prop_oneof![8 => 0_u64..30, 3 => 30_u64..120, 1 => 2000_u64..4000];
    prop_oneof![
        3 => (client(), any::<bool>())
            .prop_map(|(client, same_verifier)| Step::Add { client, same_verifier }),
        1 => client().prop_map(Step::Remove),
        12 => client().prop_map(Step::Renew),
        6 => client().prop_map(Step::Complete),
        4 => client().prop_map(Step::Recorded),
        24 => (client(), owner(), file(), modes(), claims(), prop::bool::weighted(0.1)).prop_map(
            |(client, owner, file, modes, claim, is_undone)| {
                Step::Open { client, owner, file, modes, claim, is_undone }
            }
        ),
        4 => (targets(), modes()).prop_map(|(target, modes)| Step::Downgrade(target, modes)),
        6 => targets().prop_map(Step::Close),
        20 => (targets(), owner(), range(), kind(), claims()).prop_map(
            |(target, owner, range, kind, claim)| Step::Lock { target, owner, range, kind, claim }
        ),
        14 => (targets(), range(), kind(), claims()).prop_map(
            |(target, range, kind, claim)| Step::LockMore { target, range, kind, claim }
        ),
        5 => (client(), owner(), file(), range(), kind()).prop_map(
            |(client, owner, file, range, kind)| {
                Step::LockTest { client, owner, file, range, kind }
            }
        ),
        14 => (targets(), range()).prop_map(|(target, range)| Step::Unlock(target, range)),
        6 => (targets(), 1_u32..4).prop_map(|(target, access)| Step::Io(target, access)),
        3 => (file(), 1_u32..4).prop_map(|(file, access)| Step::ShareDeny(file, access)),
        4 => targets().prop_map(Step::Test),
        6 => targets().prop_map(Step::Free),
        12 => small.prop_map(Step::Pass),
        2 => Just(Step::Sweep),
        1 => client().prop_map(Step::RevokeClient),
        1 => file().prop_map(Step::RevokeFile),
    ]
}

/// Limits that are reached often, or never.
fn limits() -> impl Strategy<Value = LockLimits> {
    let limit = |client, total| (client, total).prop_map(|(client, total)| Limit { client, total });
    let small = (2_usize..6, limit(3_usize..9, 6_usize..16), limit(2_usize..5, 4_usize..9), {
        limit(1_usize..5, 2_usize..9)
    });
    let small = small.prop_map(|(clients, states, owners, ranges)| LockLimits {
        clients,
        states,
        owners,
        ranges,
    });
    prop_oneof![2 => Just(LockLimits::default()), 1 => small]
}

/// Both tables, and what connects them.
struct Pair {
    table: LockTable<u8>,
    naive: Naive,
    /// The `other` of the stateid of each state of the model.
    others: Vec<[u8; 12]>,
    /// The id of each client by its name, and the last one that was given out.
    ids: [u64; CLIENTS as usize],
    issued: u64,
}

fn record(name: u8, same_verifier: bool) -> RecordedClient {
    let verifier = [u8::from(same_verifier); 8];
    RecordedClient { name: [name].as_slice().into(), principal: [0].as_slice().into(), verifier }
}

impl Pair {
    fn new(limits: LockLimits, recorded: &[u8]) -> Self {
        let now = Duration::from_secs(1000);
        let records = recorded.iter().map(|name| record(*name, true));
        let pending = recorded.iter().map(|name| (*name, false)).collect();
        let grace = (!recorded.is_empty()).then_some((now + LEASE, pending, Vec::new()));
        let naive = Naive {
            limits,
            now,
            clients: Default::default(),
            states: Vec::new(),
            bytes: Default::default(),
            grace,
            events: Vec::new(),
        };
        let table = LockTable::new(settings(limits), records, now);
        let ids = [0; CLIENTS as usize];
        Self { table, naive, others: Vec::new(), ids, issued: 0 }
    }

    fn id(&self, client: u8) -> u64 {
        self.ids[usize::from(client)]
    }

    /// The state that a request refers to, in both tables. `None` if there is none yet.
    fn refer(&self, target: Target) -> Option<(Reference, Stateid)> {
        let is_live = |what| matches!(what, What::Open | What::Lock { .. });
        let all = self.naive.states.iter().enumerate();
        let some = all.filter(|(_, state)| !target.is_live || is_live(state.what));
        let some: Vec<_> = some.map(|(number, _)| number).collect();
        let number = *some.get(target.state.index(some.len().max(1)))?;
        let state = &self.naive.states[number];
        let seqid = match target.seqid {
            Seqid::Zero => 0,
            Seqid::Latest => state.seqid,
            Seqid::Earlier => state.seqid - 1,
            Seqid::Later => state.seqid + 1,
        };
        let client = target.client.map_or(state.client, |client| self.id(client));
        let file = target.file.unwrap_or(state.file);
        let at = Reference { client, state: number, seqid, file };
        Some((at, Stateid { seqid, other: self.others[number] }))
    }

    /// The stateid that both tables return for a state of the model.
    fn same_state(&mut self, number: usize, stateid: Stateid) -> u32 {
        assert_eq!(stateid.other[..4], EPOCH.to_be_bytes());
        if number == self.others.len() {
            assert!(!self.others.contains(&stateid.other), "a stateid is issued again");
            self.others.push(stateid.other);
        }
        assert_eq!(self.others[number], stateid.other);
        assert_eq!(self.naive.states[number].seqid, stateid.seqid);
        stateid.seqid
    }

    fn open(&mut self, who: (u64, u8, u8), modes: (u32, u32), claim: Claim, is_undone: bool) {
        let (client, owner, file) = who;
        let mine = |state: &super::naive::NaiveState| {
            let is_mine = (state.client, state.owner, state.file) == who;
            is_mine && state.what == What::Open
        };
        let before = self.naive.states.iter().find(|state| mine(state)).cloned();
        let (name, share) = ([owner], super::share(modes));
        let request =
            OpenRequest { client: ClientId(client), owner: &name, file: &file, share, claim };
        let got = self.table.open(request, self.naive.now);
        match (got, self.naive.open(who, modes, claim)) {
            (Ok(opened), Ok((number, must_record))) => {
                self.same_state(number, opened.stateid);
                assert_eq!(opened.must_record, must_record);
                assert_eq!(opened.is_upgrade(), before.is_some());
                if is_undone {
                    self.table.undo_open(ClientId(client), &file, &opened);
                    self.naive.undo(number, before);
                }
            }
            (Err(got), Err(expected)) => same_error(got, expected),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    fn lock(
        &mut self,
        (at, stateid): (Reference, Stateid),
        owner: Option<u8>,
        range: (usize, usize),
        kind: LockKind,
        claim: Claim,
    ) {
        let name = [owner.unwrap_or(0)];
        let locker = match owner {
            Some(_) => Locker::New { open: stateid, owner: &name },
            None => Locker::Existing(stateid),
        };
        let (client, range_cells) = (ClientId(at.client), cells(range.0, range.1));
        let request =
            LockRequest { client, file: &at.file, locker, range: range_cells, kind, claim };
        let got = self.table.lock(request, self.naive.now);
        match (got, self.naive.lock(at, owner, range, kind, claim)) {
            (Ok(stateid), Ok(number)) => {
                self.same_state(number, stateid);
            }
            (Err(got), Err(expected)) => same_error(got, expected),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    /// A client of this name: what was there before is replaced.
    fn add(&mut self, name: u8, same_verifier: bool) {
        let old = self.id(name);
        assert_eq!(self.table.remove_client(ClientId(old)), self.naive.clients.contains_key(&old));
        self.naive.remove_client(old);
        self.issued += 1;
        self.ids[usize::from(name)] = self.issued;
        let id = ClientId(self.issued);
        let got = self.table.add_client(id, &record(name, same_verifier), self.naive.now);
        let got = got.map(|added| u32::from(added.may_reclaim));
        same(got, self.naive.add_client(self.issued, name, same_verifier));
    }

    fn of_target(&mut self, step: Step, (at, stateid): (Reference, Stateid)) {
        let (client, file, now) = (ClientId(at.client), &at.file, self.naive.now);
        let (got, expected) = match step {
            Step::Downgrade(_, modes) => {
                let got = self.table.downgrade(client, stateid, file, super::share(modes));
                (got.map(|stateid| stateid.seqid), self.naive.downgrade(at, modes))
            }
            Step::Close(_) => {
                (self.table.close(client, stateid, file).map(|()| 0), self.naive.close(at))
            }
            Step::Unlock(_, range) => {
                let got = self.table.unlock(client, stateid, file, cells(range.0, range.1));
                (got.map(|stateid| stateid.seqid), self.naive.unlock(at, range))
            }
            Step::Io(_, access) => {
                let wanted = super::share((access, 0)).access;
                let got = self.table.check_io(client, stateid, file, wanted, now);
                (got.map(|grant| u32::from(grant == IoGrant::Open)), self.naive.io(at, access))
            }
            Step::Test(_) => {
                (self.table.test_stateid(client, stateid).map(|()| 0), self.naive.test(at))
            }
            Step::Free(_) => {
                (self.table.free_stateid(client, stateid).map(|()| 0), self.naive.free(at))
            }
            step => panic!("{step:?} has no target"),
        };
        same(got, expected);
    }

    fn step(&mut self, step: Step) {
        let now = self.naive.now;
        match step {
            Step::Add { client, same_verifier } => self.add(client, same_verifier),
            Step::Remove(client) => {
                self.table.remove_client(ClientId(self.id(client)));
                self.naive.remove_client(self.id(client));
            }
            Step::Renew(client) => {
                let got = self.table.renew(ClientId(self.id(client)), now);
                same(got.map(SequenceFlags::bits), self.naive.renew(self.id(client)));
            }
            Step::Complete(client) => {
                let got = self.table.reclaim_complete(ClientId(self.id(client)), now);
                same(got.map(|()| 0), self.naive.complete(self.id(client)));
            }
            Step::Recorded(client) => {
                self.table.set_recorded(ClientId(self.id(client)));
                if let Some(client) = self.naive.clients.get_mut(&self.ids[usize::from(client)]) {
                    client.recorded = true;
                }
            }
            Step::Open { client, owner, file, modes, claim, is_undone } => {
                self.open((self.id(client), owner, file), modes, claim, is_undone);
            }
            Step::Lock { target, owner, range, kind, claim } => {
                if let Some(at) = self.refer(target) {
                    self.lock(at, Some(owner), range, kind, claim);
                }
            }
            Step::LockMore { target, range, kind, claim } => {
                if let Some(at) = self.refer(target) {
                    self.lock(at, None, range, kind, claim);
                }
            }
            Step::LockTest { client, owner, file, range, kind } => {
                let (id, name, bytes) = (self.id(client), [owner], cells(range.0, range.1));
                let request = LockTestRequest {
                    client: ClientId(id),
                    file: &file,
                    owner: &name,
                    range: bytes,
                    kind,
                };
                let got = self.table.lock_test(request, now).map(|()| 0);
                same(got, self.naive.lock_test((id, owner, file), range, kind));
            }
            Step::Downgrade(target, _)
            | Step::Close(target)
            | Step::Unlock(target, _)
            | Step::Io(target, _)
            | Step::Test(target)
            | Step::Free(target) => {
                if let Some(at) = self.refer(target) {
                    self.of_target(step, at);
                }
            }
            Step::ShareDeny(file, access) => {
                let got = self.table.check_deny(&file, super::share((access, 0)).access, now);
                same(got.map(|()| 0), self.naive.check_deny(file, access, None));
            }
            Step::Pass(seconds) => self.naive.now += Duration::from_secs(seconds),
            Step::Sweep => {
                self.table.sweep(now);
                self.naive.sweep();
            }
            Step::RevokeClient(client) => {
                self.table.revoke_client(ClientId(self.id(client)));
                self.naive.revoke_client(self.id(client), true);
            }
            Step::RevokeFile(file) => {
                let got = self.table.revoke_files(|other| *other == file);
                assert_eq!(got, self.naive.revoke_file(file) as usize);
            }
        }
    }

    /// Compares what both tables have.
    fn compare(&mut self) {
        let (now, naive) = (self.naive.now, &self.naive);
        let opens = naive.opens();
        let is_open = |file: &u8| opens.iter().any(|(_, open)| open.file == *file);
        let expected = LockCounts {
            clients: naive.clients.len(),
            files: (0..3).filter(is_open).count(),
            opens: opens.len(),
            locks: naive.locks().len(),
            ranges: naive.ranges_of(None),
            owners: naive.owners().len(),
            revoked: naive.revoked().len(),
        };
        assert_eq!(self.table.counts(), expected);
        assert_eq!(self.table.is_in_grace(now), naive.is_in_grace());
        for file in 0..3 {
            assert_eq!(self.table.is_open(&file), is_open(&file));
            let of_file = opens.iter().filter(|(_, open)| open.file == file);
            assert_eq!(self.table.opens_of(&file).count(), of_file.count());
            let mut bytes = std::collections::BTreeMap::new();
            for view in self.table.ranges_of(&file) {
                let of = bytes.entry((file, view.client.0, view.owner[0]));
                let of = of.or_insert([None; CELLS]);
                let from = usize::try_from(view.locked.range.offset()).unwrap();
                let length = view.locked.range.length();
                let to = usize::try_from(length).map_or(CELLS, |l| from.saturating_add(l));
                of[from..to.min(CELLS)].fill(Some(view.locked.kind));
            }
            let of_file = naive.bytes.iter().filter(|((of, _, _), _)| *of == file);
            let expected: std::collections::BTreeMap<_, _> =
                of_file.map(|(k, v)| (*k, *v)).collect();
            assert_eq!(bytes, expected);
        }
        let sorted = |events: Vec<Event<u8>>| {
            let mut events: Vec<_> = events
                .into_iter()
                .map(|event| match event {
                    Event::GraceEnded { mut absent } => {
                        absent.sort_unstable();
                        format!("{absent:?}")
                    }
                    event => format!("{event:?}"),
                })
                .collect();
            events.sort_unstable();
            events
        };
        let mut events = std::mem::take(&mut self.naive.events);
        events.retain(|event| !matches!(event, Event::Unopened(file) if self.table.is_open(file)));
        assert_eq!(sorted(self.table.take_events()), sorted(events));
        self.table.check();
    }
}

fn same(got: Result<u32, LockError>, expected: Result<u32, Refused>) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => assert_eq!(got, expected),
        (Err(got), Err(expected)) => same_error(got, expected),
        (got, expected) => panic!("{got:?} instead of {expected:?}"),
    }
}

fn same_error(got: LockError, expected: Refused) {
    match (got, expected) {
        (LockError::Denied(conflict), Refused::Denied(conflicts)) => {
            assert!(conflicts.contains(&conflict), "{conflict:?} is none of {conflicts:?}");
        }
        (got, expected) => assert_eq!(Refused::Error(got), expected),
    }
}

/// Fewer runs than other tests have, because each is long.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases / 4, ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_table_does_what_the_naive_one_does(
        limits in limits(),
        recorded in prop::sample::subsequence((0..CLIENTS).collect::<Vec<_>>(), 0..4),
        prefix in prop::bool::weighted(0.8),
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        let mut pair = Pair::new(limits, &recorded);
        // Most runs begin with clients that may open files at once.
        for client in (0..CLIENTS).filter(|_| prefix) {
            pair.step(Step::Add { client, same_verifier: true });
            pair.step(Step::Complete(client));
            pair.compare();
        }
        for step in steps {
            pair.step(step);
            pair.compare();
        }
        for client in 0..CLIENTS {
            pair.step(Step::Remove(client));
        }
        pair.compare();
        assert_eq!(pair.table.counts(), LockCounts::default());
    }
}
