//! I/O by a stateid, and without one.

use super::*;
use LockError::{BadStateid, Locked, OpenMode};

//= test RFC 8881 9.1.2
#[test]
fn io_needs_an_open_with_its_access() {
    let mut world = World::new();
    let open = world.open(A, READ).unwrap();
    assert_eq!(world.io(A, open, Access::READ), Ok(IoGrant::Open));
    assert_eq!(world.io(A, open, Access::WRITE), Err(OpenMode));
    assert_eq!(world.io(A, open, Access::BOTH), Err(OpenMode));
    let open = world.open(A, WRITE).unwrap();
    assert_eq!(world.io(A, open.latest(), Access::BOTH), Ok(IoGrant::Open));
    assert_eq!(world.io(B, open, Access::READ), Err(BadStateid));
}

#[test]
fn an_open_for_writing_may_read_unless_others_deny_it() {
    let mut world = World::new();
    let open = world.open(A, (2, 1)).unwrap();
    assert_eq!(world.io(A, open, Access::READ), Ok(IoGrant::Open), "its own denial is none");
    let open = world.table.downgrade(A, open, FILE, share((2, 1))).unwrap();
    let other = world.open(B, (2, 1)).unwrap();
    assert_eq!(world.io(A, open, Access::READ), Err(Locked));
    world.close(B, other).unwrap();
    assert_eq!(world.io(A, open, Access::READ), Ok(IoGrant::Open));
}

//= test RFC 8881 8.2.5
#[test]
fn a_lock_state_has_the_access_of_its_open() {
    let mut world = World::new();
    let open = world.open(A, READ).unwrap();
    let lock = world.lock(A, open, "l", bytes(0, 1), LockKind::Read).unwrap();
    assert_eq!(world.io(A, lock, Access::READ), Ok(IoGrant::Open));
    assert_eq!(world.io(A, lock, Access::WRITE), Err(OpenMode));
    let newer = world.unlock(A, lock, bytes(0, 1)).unwrap();
    assert_eq!(world.io(A, lock, Access::READ), Err(LockError::OldStateid));
    assert_eq!(world.io(A, newer, Access::READ), Ok(IoGrant::Open));
    // The open advances on its own.
    let open = world.open(A, WRITE).unwrap();
    assert_eq!(open.seqid, 2);
    assert_eq!(world.io(A, newer, Access::WRITE), Ok(IoGrant::Open));
}

#[test]
fn io_without_an_open_obeys_denials() {
    let mut world = World::new();
    let check = |world: &mut World, stateid, access, expected| {
        assert_eq!(world.io(B, stateid, access), expected, "{stateid:?} {access:?}");
    };
    let (anonymous, bypass) = (Stateid::ANONYMOUS, Stateid::READ_BYPASS);
    let granted = Ok(IoGrant::Anonymous);
    check(&mut world, anonymous, Access::BOTH, granted.clone());
    world.open(A, (1, 2)).unwrap();
    check(&mut world, anonymous, Access::READ, granted.clone());
    check(&mut world, anonymous, Access::WRITE, Err(Locked));
    check(&mut world, bypass, Access::WRITE, Err(Locked));
    world.open_as(A, "other", FILE, (2, 0)).unwrap_err();
    let open = world.open(B, (1, 2)).unwrap();
    world.close(B, open).unwrap();
    assert_eq!(world.table.check_deny(FILE, Access::WRITE, world.now), Err(Locked));
    assert_eq!(world.table.check_deny(FILE, Access::READ, world.now), Ok(()));
    assert_eq!(world.table.check_deny(&2, Access::BOTH, world.now), Ok(()));

    let mut world = World::new();
    world.open(A, (2, 1)).unwrap();
    check(&mut world, anonymous, Access::READ, Err(Locked));
    check(&mut world, bypass, Access::READ, granted.clone());
    check(&mut world, bypass, Access::WRITE, granted);
    check(&mut world, Stateid::CURRENT, Access::READ, Err(BadStateid));
    check(&mut world, Stateid::INVALID, Access::READ, Err(BadStateid));
}

#[test]
fn a_denial_of_a_silent_client_does_not_last() {
    let mut world = World::new();
    let open = world.open(A, (3, 3)).unwrap();
    world.pass(LEASE, &[B]);
    assert_eq!(world.io(B, Stateid::ANONYMOUS, Access::READ), Err(Locked));
    world.pass(Duration::from_secs(1), &[B]);
    assert_eq!(world.io(B, Stateid::ANONYMOUS, Access::READ), Ok(IoGrant::Anonymous));
    assert_eq!(world.test(A, open), Err(LockError::Expired));
}
