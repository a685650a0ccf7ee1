//! OPEN, OPEN_DOWNGRADE and CLOSE.

use super::*;
use LockError::{BadStateid, InvalidShare, ShareDenied, StaleClientid};

/// Deny bits of a mode.
fn denying((access, _): (u32, u32), deny: u32) -> (u32, u32) {
    (access, deny)
}

#[test]
fn opens_of_two_clients_conflict_until_one_closes() {
    let mut world = World::new();
    let open = world.open(A, denying(BOTH, 2)).unwrap();
    world.open(B, READ).unwrap();
    assert_eq!(world.open(B, WRITE), Err(ShareDenied));
    assert_eq!(world.open(C, denying(READ, 1)), Err(ShareDenied));
    assert_eq!(world.open_as(C, "o", &2, WRITE).unwrap().seqid, 1);
    world.close(A, open).unwrap();
    assert_eq!(world.open(B, WRITE).unwrap().seqid, 2);
    world.table.check();
}

#[test]
fn opens_of_one_owner_conflict_as_those_of_others_do() {
    let mut world = World::new();
    world.open(A, denying(READ, 2)).unwrap();
    assert_eq!(world.open(A, WRITE), Err(ShareDenied));
    assert_eq!(world.open_as(A, "other", FILE, BOTH), Err(ShareDenied));
    let mut world = World::new();
    world.open(A, BOTH).unwrap();
    assert_eq!(world.open(A, denying(READ, 2)), Err(ShareDenied));
}

//= test RFC 8881 9.9
#[test]
fn opens_of_one_owner_are_one_open_with_the_union_of_their_modes() {
    let mut world = World::new();
    let first = world.open_claim(A, "o", FILE, READ, Claim::New).unwrap();
    let second = world.open_claim(A, "o", FILE, WRITE, Claim::New).unwrap();
    assert!(!first.is_upgrade() && second.is_upgrade());
    assert_eq!(second.stateid.other, first.stateid.other);
    assert_eq!(second.stateid.seqid, 2);
    let views: Vec<_> = world.table.opens_of(FILE).collect();
    assert_eq!(views, [OpenView { client: A, owner: b"o", share: share(BOTH) }]);
    let other = world.open_as(A, "other", FILE, READ).unwrap();
    assert_ne!(other.other, first.stateid.other);
    assert_eq!((world.table.counts().opens, world.table.counts().owners), (2, 2));
    world.close(A, second.stateid).unwrap();
    world.close(A, other).unwrap();
    assert_eq!(world.table.take_events(), [Event::Unopened(*FILE)]);
    assert!(!world.table.is_open(FILE));
    world.table.check();
}

#[test]
fn owners_with_the_same_name_of_two_clients_are_two() {
    let mut world = World::new();
    let [one, other] = [A, B].map(|client| world.open(client, BOTH).unwrap());
    assert_ne!(one.other, other.other);
}

#[test]
fn a_downgrade_gives_up_access_and_denial() {
    let mut world = World::new();
    world.open(A, denying(READ, 0)).unwrap();
    let open = world.open(A, denying(READ, 2)).unwrap();
    assert_eq!(world.open(B, WRITE), Err(ShareDenied));
    assert_eq!(world.table.downgrade(A, open, FILE, share(WRITE)), Err(InvalidShare));
    assert_eq!(world.table.downgrade(B, open, FILE, share(READ)), Err(BadStateid));
    let down = world.table.downgrade(A, open, FILE, share(READ)).unwrap();
    assert_eq!(down.seqid, 3);
    world.open(B, WRITE).unwrap();
    // The denial is given up: it is nothing to go back to.
    assert_eq!(world.table.downgrade(A, down, FILE, share((1, 2))), Err(InvalidShare));
    world.table.check();
}

#[test]
fn an_open_that_failed_later_is_undone() {
    let mut world = World::new();
    let opened = world.open_claim(A, "o", FILE, (3, 2), Claim::New).unwrap();
    world.table.undo_open(A, FILE, &opened);
    assert_eq!(world.test(A, opened.stateid), Err(BadStateid));
    assert_eq!(world.table.take_events(), [Event::Unopened(*FILE)]);
    assert_eq!(world.table.counts().opens + world.table.counts().owners, 0);

    // An upgrade: what was there before remains, with its modes.
    world.open(A, READ).unwrap();
    let upgrade = world.open_claim(A, "o", FILE, BOTH, Claim::New).unwrap();
    world.table.undo_open(A, FILE, &upgrade);
    assert_eq!(world.open(B, (1, 2)).unwrap().seqid, 1);
    let open = upgrade.stateid.latest();
    assert_eq!(world.table.downgrade(A, open, FILE, share(BOTH)), Err(InvalidShare));

    // The owner has opened the file again since, and knows the stateid.
    let first = world.open_claim(C, "o", FILE, READ, Claim::New).unwrap();
    let second = world.open(C, READ).unwrap();
    world.table.undo_open(C, FILE, &first);
    assert_eq!(world.test(C, second), Ok(()));
    world.table.check();
}

//= test RFC 8881 18.2.3
#[test]
fn close_unlocks_what_was_locked_through_the_open() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 10), LockKind::Write).unwrap();
    world.open(B, READ).unwrap();
    assert!(world.lock_test(B, "l", bytes(0, 1), LockKind::Read).is_err());
    world.close(A, open).unwrap();
    assert_eq!(world.lock_test(B, "l", bytes(0, 1), LockKind::Write), Ok(()));
    assert_eq!(world.unlock(A, lock, bytes(0, 1)), Err(BadStateid));
    assert_eq!(world.locked(), []);
    assert!(!world.table.has_events(), "B has the file open");
    world.table.check();
}

#[test]
fn close_leaves_what_its_lock_owner_has_through_another_open() {
    let mut world = World::new();
    let (one, first) = world.open_and_lock(A, bytes(0, 10), LockKind::Write).unwrap();
    let other = world.open_as(A, "other", FILE, BOTH).unwrap();
    let second = world.lock(A, other, "l", bytes(5, 10), LockKind::Read).unwrap();
    assert_ne!(first.other, second.other);
    assert_eq!(world.locked(), [(A, 0, 5, true), (A, 5, 10, false)]);
    world.close(A, one).unwrap();
    assert_eq!(world.locked(), [(A, 0, 5, true), (A, 5, 10, false)]);
    world.table.check();
    world.close(A, other).unwrap();
    assert_eq!(world.locked(), []);
    world.table.check();
}

#[test]
fn a_file_that_is_open_again_is_not_reported_as_unopened() {
    let mut world = World::new();
    let open = world.open(A, BOTH).unwrap();
    world.close(A, open).unwrap();
    assert!(world.table.has_events());
    world.open(B, BOTH).unwrap();
    assert_eq!(world.table.take_events(), []);
}

#[test]
fn an_unknown_client_is_stale() {
    let mut world = World::new();
    let nobody = ClientId(99);
    assert_eq!(world.open(nobody, READ), Err(StaleClientid));
    assert_eq!(world.renew(nobody), Err(StaleClientid));
    assert_eq!(world.complete(nobody), Err(StaleClientid));
    assert_eq!(world.lock_test(nobody, "l", bytes(0, 1), LockKind::Read), Err(StaleClientid));
    assert!(!world.table.remove_client(nobody));
    assert!(!world.table.has_state(nobody));
}

#[test]
fn a_client_is_recorded_before_its_first_open_is_answered() {
    let mut world = World::new();
    let must_record =
        |world: &mut World| world.open_claim(A, "o", FILE, READ, Claim::New).unwrap().must_record;
    assert!(must_record(&mut world));
    assert!(must_record(&mut world), "not done yet");
    world.table.set_recorded(A);
    assert!(!must_record(&mut world));
    // All of its state is revoked: the record goes, and comes back with the next open.
    world.table.revoke_client(A);
    assert_eq!(world.table.take_events(), [Event::Unopened(*FILE), Event::Forget(A)]);
    world.table.revoke_client(A);
    assert_eq!(world.table.take_events(), []);
    assert!(must_record(&mut world));
}
