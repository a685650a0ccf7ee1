//! Leases, courtesy, and revocation.

use super::*;
use LockError::{AdminRevoked, BadStateid, Denied, Expired, ShareDenied};
use LockKind::{Read, Write};

const SECOND: Duration = Duration::from_secs(1);

//= test RFC 8881 8.3
#[test]
fn a_lease_lasts_for_its_time_after_the_last_renewal() {
    let mut world = World::new();
    world.open(A, (3, 3)).unwrap();
    world.pass(LEASE, &[A, B]);
    world.pass(LEASE, &[B]);
    assert_eq!(world.open(B, READ), Err(ShareDenied));
    let view =
        |world: &World| world.table.clients(world.now).find(|c| c.id == A).unwrap().is_expired;
    assert!(!view(&world));
    world.pass(SECOND, &[B]);
    assert!(view(&world));
    world.open(B, READ).unwrap();
}

//= test RFC 8881 8.4.3
#[test]
fn a_conflict_revokes_all_state_of_a_silent_client() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    let elsewhere = world.open_as(A, "o", &2, BOTH).unwrap();
    world.table.set_recorded(A);
    world.pass(LEASE + SECOND, &[B]);
    let (_, other) = world.open_and_lock(B, bytes(5, 1), Read).unwrap();
    assert_eq!(world.table.take_events(), [Event::Unopened(2), Event::Forget(A)]);
    assert_eq!(world.locked(), [(B, 5, 1, false)]);
    world.table.check();

    // A comes back: all of its stateids are told apart from those that never were.
    let flags = world.renew(A).unwrap();
    assert_eq!(flags, SequenceFlags::EXPIRED_ALL);
    for stateid in [open, lock, elsewhere] {
        assert_eq!(world.test(A, stateid), Err(Expired));
        assert_eq!(world.test(B, stateid), Err(BadStateid));
    }
    assert_eq!(world.io(A, open, ShareAccess::READ), Err(Expired));
    assert_eq!(world.close(A, open), Err(Expired));
    assert_eq!(world.unlock(A, lock, bytes(0, 1)), Err(Expired));
    assert_eq!(world.lock_more(A, lock, bytes(50, 1), Read), Err(Expired));
    assert_eq!(world.lock(A, open, "l", bytes(50, 1), Read), Err(Expired));
    assert_eq!(world.table.downgrade(A, open, FILE, share(BOTH)), Err(Expired));
    assert!(!world.table.has_state(A));
    assert_eq!(world.test(B, other), Ok(()));
}

//= test RFC 8881 18.46.3
#[test]
fn flags_stay_until_all_that_was_revoked_is_freed() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0);
    world.pass(LEASE + SECOND, &[B]);
    world.open(B, (1, 2)).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0x08);
    let again = world.open_as(A, "o", &2, BOTH).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0x10, "not all any more");
    world.free(A, open).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0x10);
    assert_eq!(world.table.revoke_files(|file| *file == 2), 1);
    let flags = world.renew(A).unwrap();
    assert!(flags.contains(SequenceFlags::ADMIN_REVOKED));
    assert_eq!(flags.bits(), 0x28);
    world.free(A, again).unwrap();
    world.free(A, lock).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0);
    assert_eq!(world.table.counts().revoked, 0);
    world.table.check();
}

#[test]
fn a_silent_client_keeps_what_nobody_needs_gone() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    world.pass(LEASE * 10, &[B]);
    world.table.sweep(world.now);
    // Neither of these conflicts.
    let other = world.open(B, BOTH).unwrap();
    world.lock(B, other, "l", bytes(10, 10), Write).unwrap();
    assert_eq!(world.renew(A).unwrap().bits(), 0);
    assert_eq!([world.test(A, open), world.test(A, lock)], [Ok(()), Ok(())]);
    let result = world.lock(B, other, "l", bytes(0, 1), Write);
    assert!(matches!(result, Err(Denied(_))), "A has a lease again");
}

#[test]
fn a_request_that_fails_revokes_nothing() {
    let mut world = World::new();
    let [a, b] = [A, B].map(|client| world.open(client, BOTH).unwrap());
    let lock = world.lock(A, a, "l", bytes(0, 10), Read).unwrap();
    world.lock(B, b, "l", bytes(0, 10), Read).unwrap();
    world.pass(LEASE + SECOND, &[B, C]);
    // A is silent, B is not: both are in the way.
    let c = world.open(C, BOTH).unwrap();
    let Err(Denied(conflict)) = world.lock(C, c, "l", bytes(0, 1), Write) else { panic!() };
    assert_eq!(conflict.client, B);
    assert_eq!(world.open_as(C, "x", FILE, (1, 2)), Err(ShareDenied));
    assert_eq!(world.test(A, lock), Ok(()));
    // LOCKT would succeed and changes nothing.
    world.pass(LEASE + SECOND, &[C]);
    assert_eq!(world.lock_test(C, "l", bytes(0, 1), Write), Ok(()));
    assert_eq!(world.test(A, lock), Ok(()));
    world.lock(C, c, "l", bytes(0, 1), Write).unwrap();
    assert_eq!(world.test(A, lock), Err(Expired));
    assert_eq!(world.test(B, b), Err(Expired));
    world.table.check();
}

#[test]
fn a_sweep_removes_silent_clients_without_state_and_others_after_the_courtesy_time() {
    let mut world = World::new();
    let open = world.open(A, BOTH).unwrap();
    world.pass(LEASE, &[]);
    world.table.sweep(world.now);
    assert_eq!(world.table.take_events(), []);
    world.pass(SECOND, &[C]);
    world.table.sweep(world.now);
    assert_eq!(world.table.take_events(), [Event::Removed(B)]);
    world.pass(COURTESY - SECOND, &[C]);
    world.table.sweep(world.now);
    assert_eq!(world.table.take_events(), []);
    world.pass(SECOND, &[C]);
    world.table.sweep(world.now);
    assert_eq!(world.table.take_events(), [Event::Unopened(*FILE), Event::Removed(A)]);
    assert_eq!(world.test(A, open), Err(BadStateid));
    assert_eq!(world.table.counts().clients, 1);
    world.table.check();
}

//= test RFC 8881 8.5
#[test]
fn a_volume_that_goes_revokes_the_state_of_its_files() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    let other = world.open(B, BOTH).unwrap();
    let elsewhere = world.open_as(A, "o", &2, BOTH).unwrap();
    world.table.set_recorded(A);
    assert_eq!(world.table.revoke_files(|file| file == FILE), 3);
    assert_eq!(world.table.take_events(), [Event::Unopened(*FILE)]);
    assert_eq!(world.renew(A).unwrap(), SequenceFlags::ADMIN_REVOKED);
    assert_eq!([world.test(A, open), world.test(A, lock)], [Err(AdminRevoked), Err(AdminRevoked)]);
    assert_eq!(world.io(B, other, ShareAccess::READ), Err(AdminRevoked));
    assert_eq!(world.test(A, elsewhere), Ok(()));
    assert_eq!(world.table.revoke_files(|file| file == FILE), 0);
    world.table.check();
}

#[test]
fn an_administrator_ends_the_state_of_a_client() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    world.table.revoke_client(A);
    assert_eq!([world.test(A, open), world.test(A, lock)], [Err(AdminRevoked), Err(AdminRevoked)]);
    world.open_and_lock(B, bytes(0, 10), Write).unwrap();
    // The client goes on.
    world.open_as(A, "o", &2, BOTH).unwrap();
    world.table.check();
}

//= test RFC 8881 18.50.3
#[test]
fn a_client_with_state_is_busy() {
    let mut world = World::new();
    assert!(!world.table.has_state(A));
    let open = world.open(A, BOTH).unwrap();
    assert!(world.table.has_state(A));
    world.table.revoke_client(A);
    assert!(!world.table.has_state(A));
    assert!(world.table.remove_client(A));
    assert_eq!(world.table.test_stateid(A, open), Err(BadStateid));
    world.table.check();
}

#[test]
fn a_clock_that_goes_back_takes_no_lease_away() {
    let mut world = World::new();
    world.now += LEASE;
    world.renew(A).unwrap();
    world.now -= LEASE;
    world.renew(A).unwrap();
    world.open(A, (3, 3)).unwrap();
    world.now += LEASE + SECOND;
    world.renew(B).unwrap();
    assert_eq!(world.open(B, READ), Err(ShareDenied));
}

#[test]
fn a_request_of_a_client_does_not_revoke_its_own_state() {
    let mut world = World::new();
    let (open, _) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    let writer = world.open_as(A, "writer", &2, (2, 1)).unwrap();
    // The requests of a compound may go on after the lease that its SEQUENCE renewed.
    world.pass(LEASE * 2, &[]);
    assert_eq!(world.open_as(A, "other", FILE, (1, 2)), Err(ShareDenied));
    assert!(matches!(world.lock(A, open, "other", bytes(0, 1), Read), Err(Denied(_))));
    let io = world.table.check_io(A, writer, &2, ShareAccess::READ, world.now);
    assert_eq!(io, Ok(IoGrant::Open));
    assert_eq!(world.renew(A).unwrap().bits(), 0);
}
