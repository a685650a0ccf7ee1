//! I/O by a stateid, and without one.

use super::*;
use LockError::{BadStateid, Locked, OpenMode};

//= test RFC 8881 9.1.2
#[test]
fn io_needs_an_open_with_its_access() {
    let mut world = World::new();
    let open = world.open(A, READ).unwrap();
    assert_eq!(world.io(A, open, ShareAccess::READ), Ok(IoGrant::Open));
    assert_eq!(world.io(A, open, ShareAccess::WRITE), Err(OpenMode));
    assert_eq!(world.io(A, open, ShareAccess::BOTH), Err(OpenMode));
    let open = world.open(A, WRITE).unwrap();
    assert_eq!(world.io(A, open.latest(), ShareAccess::BOTH), Ok(IoGrant::Open));
    assert_eq!(world.io(B, open, ShareAccess::READ), Err(BadStateid));
}

#[test]
fn an_open_for_writing_may_read_unless_others_deny_it() {
    let mut world = World::new();
    let open = world.open(A, (2, 1)).unwrap();
    assert_eq!(world.io(A, open, ShareAccess::READ), Ok(IoGrant::Open), "its own denial is none");
    let open = world.table.downgrade(A, open, FILE, share((2, 1))).unwrap();
    let other = world.open(B, (2, 1)).unwrap();
    assert_eq!(world.io(A, open, ShareAccess::READ), Err(Locked));
    world.close(B, other).unwrap();
    assert_eq!(world.io(A, open, ShareAccess::READ), Ok(IoGrant::Open));
}

//= test RFC 8881 8.2.5
#[test]
fn a_lock_state_has_the_access_of_its_open() {
    let mut world = World::new();
    let open = world.open(A, READ).unwrap();
    let lock = world.lock(A, open, "l", bytes(0, 1), LockKind::Read).unwrap();
    assert_eq!(world.io(A, lock, ShareAccess::READ), Ok(IoGrant::Open));
    assert_eq!(world.io(A, lock, ShareAccess::WRITE), Err(OpenMode));
    let newer = world.unlock(A, lock, bytes(0, 1)).unwrap();
    assert_eq!(world.io(A, lock, ShareAccess::READ), Err(LockError::OldStateid));
    assert_eq!(world.io(A, newer, ShareAccess::READ), Ok(IoGrant::Open));
    // The open advances on its own.
    let open = world.open(A, WRITE).unwrap();
    assert_eq!(open.seqid, 2);
    assert_eq!(world.io(A, newer, ShareAccess::WRITE), Ok(IoGrant::Open));
}

#[test]
fn io_without_an_open_obeys_denials() {
    let mut world = World::new();
    let check = |world: &mut World, stateid, access, expected| {
        assert_eq!(world.io(B, stateid, access), expected, "{stateid:?} {access:?}");
    };
    let (anonymous, bypass) = (Stateid::ANONYMOUS, Stateid::READ_BYPASS);
    let granted = Ok(IoGrant::Anonymous);
    check(&mut world, anonymous, ShareAccess::BOTH, granted.clone());
    world.open(A, (1, 2)).unwrap();
    check(&mut world, anonymous, ShareAccess::READ, granted.clone());
    check(&mut world, anonymous, ShareAccess::WRITE, Err(Locked));
    check(&mut world, bypass, ShareAccess::WRITE, Err(Locked));
    world.open_as(A, "other", FILE, (2, 0)).unwrap_err();
    let open = world.open(B, (1, 2)).unwrap();
    world.close(B, open).unwrap();
    assert_eq!(world.table.check_deny(FILE, ShareAccess::WRITE, world.now), Err(Locked));
    assert_eq!(world.table.check_deny(FILE, ShareAccess::READ, world.now), Ok(()));
    assert_eq!(world.table.check_deny(&2, ShareAccess::BOTH, world.now), Ok(()));

    let mut world = World::new();
    world.open(A, (2, 1)).unwrap();
    check(&mut world, anonymous, ShareAccess::READ, Err(Locked));
    check(&mut world, bypass, ShareAccess::READ, granted.clone());
    check(&mut world, bypass, ShareAccess::WRITE, granted);
    check(&mut world, Stateid::CURRENT, ShareAccess::READ, Err(BadStateid));
    check(&mut world, Stateid::INVALID, ShareAccess::READ, Err(BadStateid));
}

#[test]
fn a_denial_of_a_silent_client_does_not_last() {
    let mut world = World::new();
    let open = world.open(A, (3, 3)).unwrap();
    world.pass(LEASE, &[B]);
    assert_eq!(world.io(B, Stateid::ANONYMOUS, ShareAccess::READ), Err(Locked));
    world.pass(Duration::from_secs(1), &[B]);
    assert_eq!(world.io(B, Stateid::ANONYMOUS, ShareAccess::READ), Ok(IoGrant::Anonymous));
    assert_eq!(world.test(A, open), Err(LockError::Expired));
}
