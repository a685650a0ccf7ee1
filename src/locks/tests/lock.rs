//! LOCK, LOCKT, LOCKU and FREE_STATEID.

use super::*;
use LockError::{BadStateid, LocksHeld, OpenMode};
use LockKind::{Read, Write};

fn denied(client: ClientId, owner: &str, range: ByteRange, kind: LockKind) -> LockError {
    LockError::Denied(Box::new(LockConflict {
        client,
        owner: owner.as_bytes().into(),
        range,
        kind,
    }))
}

//= test RFC 8881 18.10.3
#[test]
fn a_conflict_is_denied_with_the_lock_in_the_way() {
    let mut world = World::new();
    world.open_and_lock(A, bytes(10, 10), Write).unwrap();
    let open = world.open(B, BOTH).unwrap();
    let expected = Err(denied(A, "l", bytes(10, 10), Write));
    assert_eq!(world.lock(B, open, "l", bytes(19, 5), Read), expected);
    assert_eq!(world.table.counts().locks, 1, "no lock state was made");
    assert_eq!(world.table.counts().owners, 3, "and no owner");
    let lock = world.lock(B, open, "l", bytes(20, u64::MAX), Write).unwrap();
    assert_eq!(world.lock_more(B, lock, bytes(0, u64::MAX), Read), expected);
    assert_eq!(world.lock_test(C, "l", bytes(25, 1), Read), {
        Err(denied(B, "l", bytes(20, u64::MAX), Write))
    });
    world.table.check();
}

#[test]
fn locks_of_one_owner_do_not_conflict_and_those_of_its_client_do() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    world.lock_more(A, lock, bytes(5, 10), Read).unwrap();
    assert_eq!(world.lock_test(A, "l", bytes(0, 10), Write), Ok(()));
    let expected = denied(A, "l", bytes(0, 5), Write);
    assert_eq!(world.lock(A, open, "other", bytes(0, 1), Read), Err(expected.clone()));
    assert_eq!(world.lock_test(A, "other", bytes(0, 1), Read), Err(expected));
    assert_eq!(world.locked(), [(A, 0, 5, true), (A, 5, 10, false)]);
}

#[test]
fn a_lock_changes_its_kind_if_no_other_is_in_the_way() {
    let mut world = World::new();
    let (_, lock) = world.open_and_lock(A, bytes(0, 10), Read).unwrap();
    let (_, other) = world.open_and_lock(B, bytes(0, 10), Read).unwrap();
    let expected = Err(denied(B, "l", bytes(0, 10), Read));
    assert_eq!(world.lock_more(A, lock, bytes(0, 10), Write), expected);
    assert_eq!(world.locked(), [(A, 0, 10, false), (B, 0, 10, false)]);
    world.unlock(B, other, bytes(0, 5)).unwrap();
    let lock = world.lock_more(A, lock, bytes(0, 5), Write).unwrap();
    assert_eq!(world.locked(), [(A, 0, 5, true), (A, 5, 5, false), (B, 5, 5, false)]);
    world.lock_more(A, lock, bytes(0, 5), Read).unwrap();
    assert_eq!(world.locked(), [(A, 0, 10, false), (B, 5, 5, false)]);
    world.table.check();
}

#[test]
fn a_lock_needs_an_open_with_its_access() {
    let mut world = World::new();
    let check = |world: &mut World, modes, kind, expected: bool| {
        let open = world.open(A, modes).unwrap();
        let locked = world.lock(A, open, "l", bytes(0, 1), kind).map(|_| ());
        assert_eq!(locked, if expected { Ok(()) } else { Err(OpenMode) }, "{modes:?} {kind:?}");
        world.close(A, open.latest()).unwrap();
    };
    for (modes, kind, expected) in [
        (READ, Read, true),
        (READ, Write, false),
        (WRITE, Read, false),
        (WRITE, Write, true),
        (BOTH, Read, true),
        (BOTH, Write, true),
    ] {
        check(&mut world, modes, kind, expected);
    }
}

#[test]
fn a_new_lock_owner_that_exists_goes_on_with_its_lock_state() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 1), Read).unwrap();
    let again = world.lock(A, open, "l", bytes(5, 1), Read).unwrap();
    assert_eq!((again.other, again.seqid), (lock.other, 2));
    assert_eq!(world.table.counts().locks, 1);
}

//= test RFC 8881 18.12.3
#[test]
fn unlocking_what_is_not_locked_is_no_error() {
    let mut world = World::new();
    let (_, lock) = world.open_and_lock(A, bytes(10, 10), Write).unwrap();
    let lock = world.unlock(A, lock, bytes(100, 10)).unwrap();
    let lock = world.unlock(A, lock, bytes(12, 3)).unwrap();
    assert_eq!(world.locked(), [(A, 10, 2, true), (A, 15, 5, true)]);
    let lock = world.unlock(A, lock, bytes(0, u64::MAX)).unwrap();
    assert_eq!(world.locked(), []);
    assert_eq!(lock.seqid, 4);
    assert_eq!(world.table.counts().ranges, 0);
    assert_eq!(world.table.counts().locks, 1, "the lock state stays until it is freed");
}

//= test RFC 8881 18.38.3
#[test]
fn a_lock_state_is_freed_once_it_has_no_locks() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    assert_eq!(world.free(A, open), Err(LocksHeld));
    assert_eq!(world.free(A, lock), Err(LocksHeld));
    let unlocked = world.unlock(A, lock, bytes(0, 10)).unwrap();
    assert_eq!(world.free(A, lock), Err(LockError::OldStateid));
    assert_eq!(world.free(B, unlocked), Err(BadStateid));
    assert_eq!(world.free(A, unlocked), Ok(()));
    assert_eq!(world.free(A, unlocked), Err(BadStateid));
    assert_eq!((world.table.counts().locks, world.table.counts().owners), (0, 1));
    world.close(A, open).unwrap();
    world.table.check();
}

//= test RFC 8881 18.48.3
#[test]
fn the_status_of_stateids() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), Write).unwrap();
    assert_eq!([world.test(A, open), world.test(A, lock)], [Ok(()), Ok(())]);
    let newer = world.unlock(A, lock, bytes(0, 1)).unwrap();
    assert_eq!(world.test(A, lock), Err(LockError::OldStateid));
    assert_eq!(world.test(A, newer), Ok(()));
    assert_eq!(world.test(B, newer), Err(BadStateid));
    world.table.revoke_client(A);
    assert_eq!(world.test(A, newer), Err(LockError::AdminRevoked));
    assert_eq!(world.test(A, lock), Err(LockError::AdminRevoked));
    world.free(A, newer).unwrap();
    assert_eq!(world.test(A, newer), Err(BadStateid));
}

#[test]
fn a_test_of_a_file_that_nobody_has_open_finds_nothing() {
    let world = World::new();
    assert_eq!(world.lock_test(A, "l", bytes(0, 1), Write), Ok(()));
}
