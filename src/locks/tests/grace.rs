//! The grace period, reclaims, and RECLAIM_COMPLETE.

use super::*;
use LockError::{CompleteAlready, Grace, NoGrace, ReclaimBad, ReclaimConflict};

const SECOND: Duration = Duration::from_secs(1);

fn reclaim(world: &mut World, client: ClientId, modes: (u32, u32)) -> Result<Stateid, LockError> {
    world.open_claim(client, "o", FILE, modes, Claim::Reclaim).map(|opened| opened.stateid)
}

fn reclaim_lock(
    world: &mut World,
    client: ClientId,
    open: Stateid,
    range: ByteRange,
) -> Result<Stateid, LockError> {
    let locker = Locker::New { open, owner: b"l" };
    world.lock_claim(client, locker, range, LockKind::Write, Claim::Reclaim)
}

fn absent(names: &[&str]) -> Vec<Event<u8>> {
    vec![Event::GraceEnded { absent: names.iter().map(|name| name.as_bytes().into()).collect() }]
}

//= test RFC 8881 8.4.2.1
#[test]
fn grace_ends_when_all_have_reclaimed() {
    let mut world = World::restarted(LockLimits::default(), &["a", "b"]);
    assert!(world.add(A, "a"));
    assert!(world.add(B, "b"));
    assert!(!world.add(C, "c"));
    let a = reclaim(&mut world, A, BOTH).unwrap();
    reclaim_lock(&mut world, A, a, bytes(0, 10)).unwrap();
    assert_eq!(reclaim(&mut world, C, BOTH), Err(ReclaimBad));
    assert_eq!(world.open(C, BOTH), Err(Grace));
    assert_eq!(world.io(C, Stateid::ANONYMOUS, ShareAccess::READ), Err(Grace));
    assert_eq!(world.io(C, Stateid::READ_BYPASS, ShareAccess::READ), Ok(IoGrant::Anonymous));
    assert_eq!(world.io(A, a, ShareAccess::WRITE), Ok(IoGrant::Open));
    assert_eq!(world.table.check_grace(world.now), Err(Grace));
    assert_eq!(world.lock(A, a, "l", bytes(50, 1), LockKind::Read), Err(Grace));
    world.complete(C).unwrap();
    world.complete(A).unwrap();
    assert_eq!(world.open(A, BOTH), Err(Grace), "B has not reclaimed");
    assert!(world.table.is_in_grace(world.now) && !world.table.has_events());
    world.complete(B).unwrap();
    assert!(!world.table.is_in_grace(world.now));
    assert_eq!(world.table.take_events(), absent(&[]));
    world.open(C, BOTH).unwrap();
    assert_eq!(world.table.check_grace(world.now), Ok(()));
    world.table.check();
}

#[test]
fn grace_ends_at_its_deadline_without_those_that_are_absent() {
    let mut world = World::restarted(LockLimits::default(), &["a", "b"]);
    world.add(A, "a");
    world.add(C, "c");
    world.complete(C).unwrap();
    world.pass(LEASE - SECOND, &[A, C]);
    assert_eq!(world.open(C, BOTH), Err(Grace));
    world.pass(SECOND, &[A, C]);
    world.open(C, BOTH).unwrap();
    assert_eq!(world.table.take_events(), absent(&["b"]));
    assert_eq!(reclaim(&mut world, A, BOTH), Err(NoGrace));
    assert_eq!(world.open(A, BOTH), Err(Grace), "before its RECLAIM_COMPLETE");
    world.complete(A).unwrap();
    world.open(A, BOTH).unwrap();
    assert!(!world.add(B, "b"), "too late");
}

#[test]
fn a_sweep_ends_grace_as_well() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    world.pass(LEASE, &[]);
    world.table.sweep(world.now);
    assert_eq!(world.table.take_events(), absent(&["a"]));
}

#[test]
fn there_is_no_grace_without_records() {
    let mut world = World::restarted(LockLimits::default(), &[]);
    assert!(!world.table.is_in_grace(world.now));
    world.add(A, "a");
    assert_eq!(reclaim(&mut world, A, BOTH), Err(NoGrace));
    world.complete(A).unwrap();
    world.open(A, BOTH).unwrap();
    assert!(!world.table.has_events());
}

//= test RFC 8881 18.51.3
#[test]
fn a_client_opens_nothing_new_before_reclaim_complete_and_reclaims_nothing_after() {
    let mut world = World::restarted(LockLimits::default(), &["a", "b"]);
    world.add(A, "a");
    world.add(B, "b");
    let open = reclaim(&mut world, A, BOTH).unwrap();
    world.complete(A).unwrap();
    assert_eq!(world.complete(A), Err(CompleteAlready));
    assert_eq!(reclaim(&mut world, A, BOTH), Err(NoGrace));
    assert_eq!(reclaim_lock(&mut world, A, open, bytes(0, 1)), Err(NoGrace));

    let mut world = World::restarted(LockLimits::default(), &[]);
    world.add(A, "a");
    assert_eq!(world.open(A, BOTH), Err(Grace));
    world.complete(A).unwrap();
    world.open(A, BOTH).unwrap();
}

//= test RFC 8881 9.11
#[test]
fn reclaims_that_conflict_are_refused() {
    let mut world = World::restarted(LockLimits::default(), &["a", "b"]);
    world.add(A, "a");
    world.add(B, "b");
    let a = reclaim(&mut world, A, (3, 0)).unwrap();
    assert_eq!(reclaim(&mut world, B, (1, 2)), Err(ReclaimConflict));
    let b = reclaim(&mut world, B, (3, 0)).unwrap();
    reclaim_lock(&mut world, A, a, bytes(0, 10)).unwrap();
    assert_eq!(reclaim_lock(&mut world, B, b, bytes(5, 10)), Err(ReclaimConflict));
    reclaim_lock(&mut world, B, b, bytes(10, 10)).unwrap();
    world.complete(A).unwrap();
    world.complete(B).unwrap();
    let locker = Locker::New { open: a, owner: b"l" };
    let late = world.lock_claim(A, locker, bytes(50, 1), LockKind::Write, Claim::Reclaim);
    assert_eq!(late, Err(NoGrace));
}

//= test RFC 8881 18.11.3
#[test]
fn locks_are_not_tested_during_grace() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    world.add(A, "a");
    assert_eq!(world.lock_test(A, "l", bytes(0, 1), LockKind::Read), Err(Grace));
    world.complete(A).unwrap();
    assert_eq!(world.lock_test(A, "l", bytes(0, 1), LockKind::Read), Ok(()));
}

//= test RFC 8881 2.4
#[test]
fn a_client_that_restarted_too_has_nothing_to_reclaim_and_is_not_waited_for() {
    let mut world = World::restarted(LockLimits::default(), &["a", "b"]);
    let again = RecordedClient { verifier: [2; 8], ..record("a") };
    assert!(!world.table.add_client(A, &again, world.now).unwrap().may_reclaim);
    assert_eq!(reclaim(&mut world, A, BOTH), Err(ReclaimBad));
    world.add(B, "b");
    world.complete(B).unwrap();
    assert_eq!(world.table.take_events(), absent(&["a"]), "the record of the earlier instance");
    world.complete(A).unwrap();
    assert!(world.open_claim(A, "o", FILE, BOTH, Claim::New).unwrap().must_record);
}

#[test]
fn grace_ends_at_once_if_its_only_client_has_restarted() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    let again = RecordedClient { verifier: [2; 8], ..record("a") };
    world.table.add_client(A, &again, world.now).unwrap();
    assert!(!world.table.is_in_grace(world.now));
    assert_eq!(world.table.take_events(), absent(&["a"]));
}

//= test RFC 8881 2.10.8.3
#[test]
fn another_principal_does_not_reclaim_or_end_the_grace_of_a_client() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    let other = RecordedClient { principal: (*b"other").into(), ..record("a") };
    assert!(!world.table.add_client(B, &other, world.now).unwrap().may_reclaim);
    let other = RecordedClient { verifier: [2; 8], ..other };
    assert!(!world.table.add_client(C, &other, world.now).unwrap().may_reclaim);
    world.complete(B).unwrap();
    assert!(world.table.is_in_grace(world.now));
    assert!(world.add(A, "a"));
    reclaim(&mut world, A, BOTH).unwrap();
}

#[test]
fn a_client_with_its_record_need_not_be_recorded_again() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    world.add(A, "a");
    let opened = world.open_claim(A, "o", FILE, BOTH, Claim::Reclaim).unwrap();
    assert!(!opened.must_record);
    let view = world.table.clients(world.now).next().unwrap();
    assert!(view.is_recorded && view.is_reclaiming);
    assert_eq!((view.name, view.opens), (&b"a"[..], 1));
}

#[test]
fn a_client_that_was_removed_and_comes_back_during_grace_may_reclaim() {
    let mut world = World::restarted(LockLimits::default(), &["a"]);
    world.add(A, "a");
    reclaim(&mut world, A, BOTH).unwrap();
    world.table.remove_client(A);
    assert!(world.add(B, "a"));
    reclaim(&mut world, B, BOTH).unwrap();
    world.complete(B).unwrap();
    assert!(!world.table.is_in_grace(world.now));
}
