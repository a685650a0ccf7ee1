//! Limits of states, owners, ranges and clients.

use super::*;
use LockError::{LockRange, TooMany};
use LockKind::{Read, Write};

fn limits(edit: impl FnOnce(&mut LockLimits)) -> LockLimits {
    let mut limits = LockLimits::default();
    edit(&mut limits);
    limits
}

#[test]
fn a_client_has_a_limit_of_states() {
    let mut world = World::with(limits(|l| l.states.client = 3));
    let open = world.open(A, BOTH).unwrap();
    world.open_as(A, "o", &2, BOTH).unwrap();
    let lock = world.lock(A, open, "l", bytes(0, 1), Write).unwrap();
    assert_eq!(world.open_as(A, "o", &3, BOTH), Err(TooMany(LimitKind::States)));
    let more = world.lock(A, open, "m", bytes(9, 1), Write);
    assert_eq!(more, Err(TooMany(LimitKind::States)));
    // What exists goes on, and so do others.
    world.open(A, READ).unwrap();
    world.lock_more(A, lock, bytes(5, 1), Write).unwrap();
    world.open(B, BOTH).unwrap();
    // Revoked states count until they are freed.
    world.table.revoke_client(A);
    assert_eq!(world.open_as(A, "o", &3, BOTH), Err(TooMany(LimitKind::States)));
    world.free(A, open).unwrap();
    world.open_as(A, "o", &3, BOTH).unwrap();
    world.table.check();
}

#[test]
fn a_client_has_a_limit_of_owners() {
    let mut world = World::with(limits(|l| l.owners.client = 2));
    let open = world.open(A, BOTH).unwrap();
    world.lock(A, open, "l", bytes(0, 1), Write).unwrap();
    assert_eq!(world.open_as(A, "x", &2, BOTH), Err(TooMany(LimitKind::Owners)));
    let more = world.lock(A, open, "x", bytes(5, 1), Write);
    assert_eq!(more, Err(TooMany(LimitKind::Owners)));
    world.open_as(A, "o", &2, BOTH).unwrap();
    world.lock(A, open, "l", bytes(5, 1), Write).unwrap();
}

#[test]
fn a_client_has_a_limit_of_ranges() {
    let mut world = World::with(limits(|l| l.ranges.client = 3));
    let (_, mut lock) = world.open_and_lock(A, bytes(0, 1), Write).unwrap();
    for offset in [10, 20] {
        lock = world.lock_more(A, lock, bytes(offset, 1), Write).unwrap();
    }
    let full = Err(TooMany(LimitKind::Ranges));
    assert_eq!(world.lock_more(A, lock, bytes(30, 1), Write), full);
    // A lock that merges ranges needs no room, and neither does one that frees some.
    lock = world.lock_more(A, lock, bytes(0, 30), Write).unwrap();
    assert_eq!(world.locked(), [(A, 0, 30, true)]);
    lock = world.lock_more(A, lock, bytes(10, 5), Read).unwrap();
    assert_eq!(world.lock_more(A, lock, bytes(12, 1), Write), full);
    // An unlock that splits a range needs room.
    assert_eq!(world.unlock(A, lock, bytes(2, 1)), Err(LockRange));
    lock = world.unlock(A, lock, bytes(0, 10)).unwrap();
    world.unlock(A, lock, bytes(12, 1)).unwrap();
    assert_eq!(world.locked(), [(A, 10, 2, false), (A, 13, 2, false), (A, 15, 15, true)]);
    world.open_and_lock(B, bytes(100, 1), Write).unwrap();
    world.table.check();
}

#[test]
fn totals_are_limited_and_silent_clients_make_room() {
    let full = |kind| Err(TooMany(kind));
    let mut world = World::with(limits(|l| {
        l.states.total = 2;
        l.clients = 3;
    }));
    let a = world.open(A, BOTH).unwrap();
    world.open(B, BOTH).unwrap();
    assert_eq!(world.open(C, BOTH), full(LimitKind::States));
    let added = world.table.add_client(ClientId(1), &record("d"), world.now);
    assert_eq!(added, Err(TooMany(LimitKind::Clients)));
    world.pass(Duration::from_secs(1), &[B, C]);
    world.pass(LEASE, &[C]);
    assert_eq!(world.open(C, BOTH).unwrap().seqid, 1, "A is the longest silent");
    assert_eq!(world.table.take_events(), [Event::Removed(A)]);
    assert_eq!(world.test(A, a), Err(LockError::BadStateid));
    world.add(ClientId(1), "d");
    world.pass(LEASE, &[C]);
    world.add(ClientId(2), "e");
    assert_eq!(world.table.take_events(), [Event::Removed(B)]);
    world.table.check();
}

#[test]
fn totals_of_owners_and_ranges_are_limited() {
    let mut world = World::with(limits(|l| l.owners.total = 3));
    world.open_and_lock(A, bytes(0, 1), Write).unwrap();
    let open = world.open(B, BOTH).unwrap();
    assert_eq!(world.open(C, BOTH), Err(TooMany(LimitKind::Owners)));
    let lock = world.lock(B, open, "l", bytes(9, 1), Write);
    assert_eq!(lock, Err(TooMany(LimitKind::Owners)));
    world.pass(LEASE + Duration::from_secs(1), &[B]);
    world.lock(B, open, "l", bytes(9, 1), Write).unwrap();
    assert_eq!(world.table.take_events(), [Event::Removed(A)]);
    world.table.check();
}

#[test]
fn a_total_of_ranges_is_limited() {
    let mut world = World::with(limits(|l| l.ranges.total = 2));
    world.open_and_lock(A, bytes(0, 1), Write).unwrap();
    let (_, lock) = world.open_and_lock(B, bytes(10, 1), Write).unwrap();
    let more = world.lock_more(B, lock, bytes(20, 1), Write);
    assert_eq!(more, Err(TooMany(LimitKind::Ranges)));
    world.pass(LEASE + Duration::from_secs(1), &[B, C]);
    world.lock_more(B, lock, bytes(20, 1), Write).unwrap();
    assert_eq!(world.table.take_events(), [Event::Removed(A)]);
    world.table.check();
}

#[test]
fn a_client_at_its_own_limit_of_ranges_takes_nothing_from_others() {
    let mut world = World::with(limits(|l| l.ranges = Limit { client: 1, total: 2 }));
    world.open_and_lock(A, bytes(0, 1), Write).unwrap();
    let (_, lock) = world.open_and_lock(B, bytes(10, 1), Write).unwrap();
    world.pass(LEASE + Duration::from_secs(1), &[B]);
    let more = world.lock_more(B, lock, bytes(20, 1), Write);
    assert_eq!(more, Err(TooMany(LimitKind::Ranges)));
    assert!(!world.table.has_events());
}

#[test]
fn many_ranges_and_many_owners_of_one_file_stay_quick() {
    let mut world = World::new();
    let open = world.open(A, BOTH).unwrap();
    let mut lock = world.lock(A, open, "l", bytes(0, 1), Write).unwrap();
    for n in 1..5000 {
        lock = world.lock_more(A, lock, bytes(n * 2, 1), Write).unwrap();
    }
    for n in 0..500 {
        world.lock(A, open, &format!("{n}"), bytes(n * 2 + 1, 1), Write).unwrap();
    }
    assert_eq!(world.table.counts().ranges, 5500);
    world.close(A, open).unwrap();
    assert_eq!(world.table.counts().ranges, 0);
}
