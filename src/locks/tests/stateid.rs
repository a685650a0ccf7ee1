//! Stateids: special ones, seqids, and those that are refused.

use super::super::stateid::{StateKey, check_seqid, next_seqid};
use super::*;
use LockError::{BadStateid, OldStateid};

//= test RFC 8881 8.2.3
#[test]
fn special_stateids_are_known_and_others_like_them_are_not() {
    let check = |seqid, fill, expected| {
        assert_eq!(Stateid { seqid, other: [fill; 12] }.special(), expected, "{seqid} {fill}");
    };
    check(0, 0, Some(SpecialStateid::Anonymous));
    check(1, 0, Some(SpecialStateid::Current));
    check(u32::MAX, 0, Some(SpecialStateid::Invalid));
    check(u32::MAX, 0xff, Some(SpecialStateid::ReadBypass));
    check(2, 0, None);
    check(0, 0xff, None);
    check(1, 0xff, None);
    for epoch in [0, 7, u32::MAX] {
        for stateid in [Stateid::ANONYMOUS, Stateid::READ_BYPASS, Stateid::INVALID] {
            assert_eq!(StateKey::of(stateid, epoch), Err(BadStateid));
        }
    }
    let mut world = World::new();
    world.open(A, BOTH).unwrap();
    for (seqid, fill) in [(0, 0), (1, 0), (2, 0), (0, 0xff), (u32::MAX, 0), (u32::MAX, 0xff)] {
        let stateid = Stateid { seqid, other: [fill; 12] };
        assert_eq!(world.close(A, stateid), Err(BadStateid));
        assert_eq!(world.free(A, stateid), Err(BadStateid));
        assert_eq!(world.test(A, stateid), Err(BadStateid));
    }
}

//= test RFC 8881 8.2.2
#[test]
fn seqids_count_from_one_and_never_are_zero() {
    assert_eq!(next_seqid(0), 1);
    assert_eq!(next_seqid(41), 42);
    assert_eq!(next_seqid(u32::MAX), 1);
    assert_eq!(check_seqid(0, 5), Ok(()));
    assert_eq!(check_seqid(5, 5), Ok(()));
}

//= test RFC 8881 8.2.4
#[test]
fn earlier_seqids_are_old_and_later_ones_are_bad() {
    let check = |seqid, latest, expected| {
        assert_eq!(check_seqid(seqid, latest), Err(expected), "{seqid} of {latest}");
    };
    check(4, 5, OldStateid);
    check(1, 5, OldStateid);
    check(6, 5, BadStateid);
    check(u32::MAX / 2, 5, BadStateid);
    check(u32::MAX, 5, OldStateid);
    check(u32::MAX, 1, OldStateid);
    check(1, u32::MAX, BadStateid);
    check(u32::MAX - 1, u32::MAX, OldStateid);
}

#[test]
fn seqids_advance_with_each_change_and_old_ones_are_refused() {
    let mut world = World::new();
    let first = world.open(A, READ).unwrap();
    let second = world.open(A, WRITE).unwrap();
    assert_eq!((first.seqid, second.seqid, first.other), (1, 2, second.other));
    assert_eq!(world.close(A, first), Err(OldStateid));
    assert_eq!(world.close(A, Stateid { seqid: 3, ..first }), Err(BadStateid));
    assert_eq!(world.test(A, first), Err(OldStateid));
    assert_eq!(world.test(A, first.latest()), Ok(()));
    let third = world.table.downgrade(A, second, FILE, share(READ)).unwrap();
    assert_eq!(third.seqid, 3);
    let lock = world.lock(A, third, "l", bytes(0, 1), LockKind::Read).unwrap();
    assert_eq!(lock.seqid, 1);
    let more = world.lock_more(A, lock, bytes(5, 1), LockKind::Read).unwrap();
    assert_eq!((more.seqid, more.other), (2, lock.other));
    assert_eq!(world.lock_more(A, lock, bytes(7, 1), LockKind::Read), Err(OldStateid));
    assert_eq!(world.unlock(A, lock, bytes(7, 1)), Err(OldStateid));
    assert_eq!(world.unlock(A, more, bytes(7, 1)).unwrap().seqid, 3);
    assert_eq!(world.close(A, third.latest()), Ok(()));
}

#[test]
fn stateids_of_others_of_other_files_of_earlier_starts_and_freed_ones_are_bad() {
    let mut world = World::new();
    let (open, lock) = world.open_and_lock(A, bytes(0, 1), LockKind::Write).unwrap();
    // Another client.
    assert_eq!(world.close(B, open), Err(BadStateid));
    assert_eq!(world.test(B, open), Err(BadStateid));
    assert_eq!(world.free(B, lock), Err(BadStateid));
    assert_eq!(world.io(B, lock, ShareAccess::READ), Err(BadStateid));
    assert_eq!(world.lock_more(B, lock, bytes(9, 1), LockKind::Read), Err(BadStateid));
    // Another file.
    assert_eq!(world.table.close(A, open, &2), Err(BadStateid));
    assert_eq!(world.table.unlock(A, lock, &2, bytes(0, 1)), Err(BadStateid));
    let io = world.table.check_io(A, open, &2, ShareAccess::READ, world.now);
    assert_eq!(io, Err(BadStateid));
    let io = world.table.check_io(A, lock, &2, ShareAccess::READ, world.now);
    assert_eq!(io, Err(BadStateid));
    // Another kind.
    assert_eq!(world.close(A, lock), Err(BadStateid));
    assert_eq!(world.unlock(A, open, bytes(0, 1)), Err(BadStateid));
    assert_eq!(world.lock_more(A, open, bytes(0, 1), LockKind::Read), Err(BadStateid));
    assert_eq!(world.lock(A, lock, "x", bytes(9, 1), LockKind::Read), Err(BadStateid));
    // An earlier start.
    let mut earlier = open;
    earlier.other[3] = u8::try_from(EPOCH - 1).unwrap();
    assert_eq!(world.close(A, earlier), Err(BadStateid));
    assert_eq!(world.test(A, earlier), Err(BadStateid));
    // Never issued.
    let mut unknown = open;
    unknown.other[11] += 100;
    assert_eq!(world.close(A, unknown), Err(BadStateid));
    // Freed.
    world.close(A, open).unwrap();
    assert_eq!(world.close(A, open), Err(BadStateid));
    assert_eq!(world.test(A, lock), Err(BadStateid));
    let again = world.open(A, BOTH).unwrap();
    assert_ne!(again.other, open.other);
    assert_eq!(world.close(A, open), Err(BadStateid));
}
