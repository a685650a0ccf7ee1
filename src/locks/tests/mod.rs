//! Tests of the lock table: each rule by itself, and all of it against naive models.
//!
//! The models run some ten thousand steps each in an ordinary run. For millions:
//! `PROPTEST_CASES=100000 cargo test --release --lib -- locks::tests`.

mod grace;
mod io;
mod lease;
mod limits;
mod lock;
mod model;
mod naive;
mod open;
mod range;
mod rules;
mod share;
mod stateid;

use std::time::Duration;

use super::*;

/// Lease time of these tests.
const LEASE: Duration = Duration::from_secs(90);
/// Courtesy time of these tests.
const COURTESY: Duration = Duration::from_secs(3600);
/// The number of this start of the server.
const EPOCH: u32 = 7;

/// The file that most tests use.
const FILE: &u8 = &1;

const A: ClientId = ClientId(0xa);
const B: ClientId = ClientId(0xb);
const C: ClientId = ClientId(0xc);

const READ: (u32, u32) = (1, 0);
const WRITE: (u32, u32) = (2, 0);
const BOTH: (u32, u32) = (3, 0);

fn settings(limits: LockLimits) -> LockSettings {
    LockSettings { epoch: EPOCH, lease: LEASE, courtesy: COURTESY, grace: LEASE, limits }
}

fn record(name: &str) -> RecordedClient {
    let [name, principal] = [name, "root"].map(|text| text.as_bytes().into());
    RecordedClient { name, principal, verifier: [1; 8] }
}

fn share((access, deny): (u32, u32)) -> Share {
    Share::from_bits(access, deny).unwrap()
}

fn bytes(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

/// A table, its clock, and shorter calls.
struct World {
    table: LockTable<u8>,
    now: Uptime,
}

impl World {
    /// A table with the clients A, B and C, which have nothing to reclaim.
    fn new() -> Self {
        Self::with(LockLimits::default())
    }

    fn with(limits: LockLimits) -> Self {
        let mut world = Self::restarted(limits, &[]);
        for (id, name) in [(A, "a"), (B, "b"), (C, "c")] {
            world.add(id, name);
            world.complete(id).unwrap();
        }
        world
    }

    /// A table without clients, after a restart in which these had records.
    fn restarted(limits: LockLimits, recorded: &[&str]) -> Self {
        let now = Duration::from_secs(1000);
        let records = recorded.iter().map(|name| record(name));
        Self { table: LockTable::new(settings(limits), records, now), now }
    }

    fn add(&mut self, id: ClientId, name: &str) -> bool {
        self.table.add_client(id, &record(name), self.now).unwrap().may_reclaim
    }

    fn complete(&mut self, id: ClientId) -> Result<(), LockError> {
        self.table.reclaim_complete(id, self.now)
    }

    /// Opens the file as the owner "o".
    fn open(&mut self, client: ClientId, modes: (u32, u32)) -> Result<Stateid, LockError> {
        self.open_as(client, "o", FILE, modes)
    }

    fn open_as(
        &mut self,
        client: ClientId,
        owner: &str,
        file: &u8,
        modes: (u32, u32),
    ) -> Result<Stateid, LockError> {
        self.open_claim(client, owner, file, modes, Claim::New).map(|opened| opened.stateid)
    }

    fn open_claim(
        &mut self,
        client: ClientId,
        owner: &str,
        file: &u8,
        modes: (u32, u32),
        claim: Claim,
    ) -> Result<Opened, LockError> {
        let (owner, share) = (owner.as_bytes(), share(modes));
        self.table.open(OpenRequest { client, owner, file, share, claim }, self.now)
    }

    /// Opens the file for both, as the owner "o", and locks a range as the owner "l".
    fn open_and_lock(
        &mut self,
        client: ClientId,
        range: ByteRange,
        kind: LockKind,
    ) -> Result<(Stateid, Stateid), LockError> {
        let open = self.open(client, BOTH)?;
        Ok((open, self.lock(client, open, "l", range, kind)?))
    }

    fn lock(
        &mut self,
        client: ClientId,
        open: Stateid,
        owner: &str,
        range: ByteRange,
        kind: LockKind,
    ) -> Result<Stateid, LockError> {
        let locker = Locker::New { open, owner: owner.as_bytes() };
        self.lock_claim(client, locker, range, kind, Claim::New)
    }

    fn lock_more(
        &mut self,
        client: ClientId,
        lock: Stateid,
        range: ByteRange,
        kind: LockKind,
    ) -> Result<Stateid, LockError> {
        self.lock_claim(client, Locker::Existing(lock), range, kind, Claim::New)
    }

    fn lock_claim(
        &mut self,
        client: ClientId,
        locker: Locker<'_>,
        range: ByteRange,
        kind: LockKind,
        claim: Claim,
    ) -> Result<Stateid, LockError> {
        let request = LockRequest { client, file: FILE, locker, range, kind, claim };
        self.table.lock(request, self.now)
    }

    fn lock_test(
        &self,
        client: ClientId,
        owner: &str,
        range: ByteRange,
        kind: LockKind,
    ) -> Result<(), LockError> {
        let owner = owner.as_bytes();
        self.table.lock_test(LockTestRequest { client, file: FILE, owner, range, kind }, self.now)
    }

    fn unlock(
        &mut self,
        client: ClientId,
        lock: Stateid,
        range: ByteRange,
    ) -> Result<Stateid, LockError> {
        self.table.unlock(client, lock, FILE, range)
    }

    fn close(&mut self, client: ClientId, stateid: Stateid) -> Result<(), LockError> {
        self.table.close(client, stateid, FILE)
    }

    fn io(
        &mut self,
        client: ClientId,
        stateid: Stateid,
        access: ShareAccess,
    ) -> Result<IoGrant, LockError> {
        self.table.check_io(client, stateid, FILE, access, self.now)
    }

    fn test(&self, client: ClientId, stateid: Stateid) -> Result<(), LockError> {
        self.table.test_stateid(client, stateid)
    }

    fn free(&mut self, client: ClientId, stateid: Stateid) -> Result<(), LockError> {
        self.table.free_stateid(client, stateid)
    }

    fn renew(&mut self, client: ClientId) -> Result<SequenceFlags, LockError> {
        self.table.renew(client, self.now)
    }

    /// Lets time pass. The leases of these clients are renewed at the end.
    fn pass(&mut self, time: Duration, renewing: &[ClientId]) {
        self.now += time;
        for client in renewing {
            self.renew(*client).unwrap();
        }
    }

    /// The ranges that are locked in the file: client, offset, length, whether for writing.
    fn locked(&self) -> Vec<(ClientId, u64, u64, bool)> {
        let ranges = self.table.ranges_of(FILE).map(|view| {
            let LockedRange { range, kind } = view.locked;
            (view.client, range.offset(), range.length(), kind == LockKind::Write)
        });
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        ranges
    }
}

/// Removal leaves nothing behind, not even memory beyond a small rest.
#[test]
fn removal_leaves_nothing_behind() {
    let mut world = World::new();
    let files: Vec<u8> = (0..200).collect();
    for client in [A, B] {
        for file in &files {
            let open = world.open_as(client, &format!("o{file}"), file, BOTH).unwrap();
            let locker = Locker::New { open, owner: &file.to_be_bytes() };
            let (range, kind, claim) = (bytes(0, 10), LockKind::Read, Claim::New);
            let request = LockRequest { client, file, locker, range, kind, claim };
            let lock = world.table.lock(request, world.now).unwrap();
            match file % 3 {
                // Closed below, with its lock.
                0 => {}
                1 => {
                    let unlocked = world.table.unlock(client, lock, file, range).unwrap();
                    world.free(client, unlocked).unwrap();
                }
                _ => world.table.close(client, open, file).unwrap(),
            }
        }
    }
    assert!(world.table.counts().opens > 200);
    world.table.revoke_client(A);
    world.table.remove_client(A);
    world.table.remove_client(B);
    world.table.remove_client(C);
    assert_eq!(world.table.counts(), LockCounts::default());
    assert!(world.table.capacity() < 1000, "{}", world.table.capacity());
    world.table.check();
}

/// An idle client and an open file with a lock are small. Sizes of the parts, with what maps and
/// allocations add to them.
#[test]
fn memory_is_bounded_for_each_client_and_each_open() {
    let mut world = World::new();
    let before = world.table.footprint();
    world.add(ClientId(1), &"n".repeat(100));
    let client = world.table.footprint() - before;
    assert!(client < 1 << 10, "{client} bytes for an idle client");

    world.complete(ClientId(1)).unwrap();
    let before = world.table.footprint();
    let mut files = 0_usize;
    for file in 10..210 {
        let open = world.open_as(ClientId(1), "open id:        12345678", &file, BOTH).unwrap();
        let owner = format!("lock id:        {file:8}");
        let locker = Locker::New { open, owner: owner.as_bytes() };
        let (range, kind, claim) = (bytes(0, u64::MAX), LockKind::Write, Claim::New);
        let request = LockRequest { client: ClientId(1), file: &file, locker, range, kind, claim };
        world.table.lock(request, world.now).unwrap();
        files += 1;
    }
    let open = (world.table.footprint() - before) / files;
    assert!(open < 1 << 10, "{open} bytes for an open with a lock");
}
