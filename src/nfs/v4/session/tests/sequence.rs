//! SEQUENCE, and how requests end.

use super::*;

#[test]
fn requests_of_a_slot_follow_each_other() {
    //= test RFC 8881 18.46.3
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    for sequence in [0, 2, u32::MAX] {
        let refused = world.refused(&request(session, sequence));
        assert_eq!(refused, SessionError::SeqMisordered, "{sequence}");
    }
    let running = world.begin(&request(session, 1));
    let reply = *running.reply();
    assert_eq!((reply.session, reply.sequence, reply.slot), (session, 1, 0));
    assert_eq!((running.session().client(), running.session().id()), (id, session));
    running.complete(b"one");
    for sequence in [0, 3, u32::MAX] {
        let refused = world.refused(&request(session, sequence));
        assert_eq!(refused, SessionError::SeqMisordered, "{sequence}");
    }
    world.begin(&request(session, 2)).complete(b"two");
    let in_other_slot = SequenceRequest { slot: 2, highest_slot: 3, ..request(session, 1) };
    world.begin(&in_other_slot).complete(b"");
    assert_eq!(world.refused(&request(SessionId([1; 16]), 3)), SessionError::Badsession);
}

#[test]
fn slots_beyond_those_of_the_session_are_refused() {
    //= test RFC 8881 15.1.11
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    for slot in [64, 65, u32::MAX] {
        let request = SequenceRequest { slot, highest_slot: slot, ..request(session, 1) };
        assert_eq!(world.refused(&request), SessionError::Badslot);
        let request = SequenceRequest { slot: 0, ..request };
        assert_eq!(world.refused(&request), SessionError::BadHighSlot);
    }
    let last = SequenceRequest { slot: 63, highest_slot: 63, ..request(session, 1) };
    assert_eq!(world.begin(&last).reply().highest_slot, 63);
}

#[test]
fn a_kept_reply_is_sent_again() {
    //= test RFC 8881 2.10.6.1.3
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let reply = [7; 3000];
    world.begin(&cached(session, 1)).complete(&reply);
    for _ in 0..3 {
        assert_eq!(world.replay(&cached(session, 1)), reply);
        assert_eq!(world.replay(&request(session, 1)), reply, "whatever it asks for now");
    }
    world.begin(&request(session, 2)).complete(b"small");
    assert_eq!(world.replay(&request(session, 2)), b"small");
}

#[test]
fn a_reply_that_was_not_kept_is_refused() {
    //= test RFC 8881 15.1.3
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    world.begin(&request(session, 1)).complete(&[7; 3000]);
    for _ in 0..3 {
        assert_eq!(world.refused(&request(session, 1)), SessionError::RetryUncachedRep);
    }
    world.begin(&cached(session, 2)).complete(&[7; 5000]);
    assert_eq!(world.refused(&request(session, 2)), SessionError::RetryUncachedRep);
    world.begin(&request(session, 3)).complete(b"");
}

#[test]
fn another_request_under_the_last_number_is_told_apart() {
    //= test RFC 8881 2.10.6.1.3.1
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let other = |sequence| SequenceRequest { checksum: 43, ..cached(session, sequence) };
    world.begin(&cached(session, 1)).complete(b"kept");
    assert_eq!(world.refused(&other(1)), SessionError::SeqFalseRetry);
    world.begin(&request(session, 2)).complete(&[7; 3000]);
    assert_eq!(world.refused(&other(2)), SessionError::SeqFalseRetry);
    world.begin(&other(3)).complete(b"kept");
    assert_eq!(world.replay(&other(3)), b"kept");
}

#[test]
fn a_running_request_is_not_run_again() {
    //= test RFC 8881 2.10.6.2
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    world.begin(&cached(session, 1)).complete(b"one");
    let running = world.begin(&cached(session, 2));
    let other = SequenceRequest { checksum: 43, ..cached(session, 2) };
    for _ in 0..3 {
        assert_eq!(world.refused(&cached(session, 2)), SessionError::Delay);
        assert_eq!(world.refused(&other), SessionError::Delay);
        for sequence in [0, 1, 3] {
            assert_eq!(world.refused(&cached(session, sequence)), SessionError::SeqMisordered);
        }
    }
    running.complete(b"two");
    assert_eq!(world.replay(&cached(session, 2)), b"two");
}

#[test]
fn a_suspended_request_goes_on_when_it_comes_again() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let other = SequenceRequest { checksum: 43, ..cached(session, 1) };
    let mut running = world.begin(&cached(session, 1));
    for step in 0..3_u32 {
        running.suspend(Suspension(Box::new(step)));
        assert_eq!(world.refused(&other), SessionError::SeqFalseRetry);
        assert_eq!(world.refused(&cached(session, 2)), SessionError::SeqMisordered);
        let Ok(SequenceOutcome::Resumed(again, Suspension(left))) =
            world.sequence(&cached(session, 1))
        else {
            panic!("it is not resumed")
        };
        assert_eq!(left.downcast_ref(), Some(&step));
        assert_eq!(world.refused(&cached(session, 1)), SessionError::Delay, "it runs");
        running = again;
    }
    running.complete(b"one");
    assert_eq!(world.replay(&cached(session, 1)), b"one");
}

#[test]
fn a_suspended_request_does_not_keep_its_session() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let running = world.begin(&cached(session, 1));
    let connection = world.caller.connection;
    assert_eq!(world.table.destroy_session(session, connection, None), Err(SessionError::Delay));
    running.suspend(Suspension(Box::new(())));
    assert_eq!(world.table.destroy_session(session, connection, None), Ok(()));
    assert_eq!(world.table.counts().bytes, 0, "its memory is given back");
}

#[test]
fn an_abandoned_request_leaves_its_slot_as_it_was() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    world.begin(&cached(session, 1)).abandon();
    assert_eq!(world.refused(&cached(session, 0)), SessionError::SeqMisordered);
    world.begin(&cached(session, 1)).complete(b"one");
    world.begin(&request(session, 2)).abandon();
    assert_eq!(world.replay(&cached(session, 1)), b"one");
    world.begin(&cached(session, 2)).complete(b"two");
    assert_eq!(world.replay(&cached(session, 2)), b"two");
}

#[test]
fn a_dropped_request_may_have_happened() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    drop(world.begin(&cached(session, 1)));
    assert_eq!(world.refused(&cached(session, 1)), SessionError::RetryUncachedRep);
    world.begin(&cached(session, 2)).complete(b"two");
}

#[test]
fn sequence_numbers_wrap() {
    //= test RFC 8881 2.10.6.1
    let mut slots = slots::SessionSlots::new(1, 4096, charge(1 << 20)).unwrap();
    slots.set_sequence(0, u32::MAX - 2);
    for (n, sequence) in [u32::MAX - 1, u32::MAX, 0, 1].into_iter().enumerate() {
        let mut begin =
            |sequence| slots.begin(0, sequence, n as u64, slots::ReplyCaching::Requested);
        assert_eq!(begin(sequence.wrapping_add(1)), Err(SessionError::SeqMisordered));
        assert_eq!(begin(sequence), Ok(slots::Begun::New));
        slots.complete(0, Some(&[1, 2]));
        let again = slots.begin(0, sequence, n as u64, slots::ReplyCaching::Requested);
        assert_eq!(again, Ok(slots::Begun::Replay([1, 2].into())));
    }
}

#[test]
fn requests_beyond_the_limits_of_the_session_are_refused() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let first = request(session, 1);
    let many = SequenceRequest { operations: 9, ..first };
    assert_eq!(world.refused(&many), SessionError::TooManyOps);
    let long = SequenceRequest { length: 1_049_621, ..first };
    assert_eq!(world.refused(&long), SessionError::ReqTooBig);
    let most = SequenceRequest { operations: 8, length: 1_049_620, ..first };
    world.begin(&most).complete(b"");
}

#[test]
fn sizes_of_replies_are_known_before() {
    //= test RFC 8881 2.10.6.4
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    let running = world.begin(&request(session, 1));
    assert_eq!((running.reply_max(), running.size_error()), (1_049_480, SessionError::RepTooBig));
    running.complete(b"");
    let running = world.begin(&cached(session, 2));
    let expected = (4096, SessionError::RepTooBigToCache);
    assert_eq!((running.reply_max(), running.size_error()), expected);
    running.complete(b"");

    let fore = ChannelAttrs { max_cached_reply: 10, ..ATTRS };
    let small = world.create(&CreateSession { fore, ..create(id, 2) }).unwrap().session;
    assert_eq!(world.refused(&cached(small, 1)), SessionError::RepTooBigToCache);
    world.begin(&request(small, 1)).complete(b"0123456789");
    assert_eq!(world.replay(&request(small, 1)), b"0123456789");
    world.begin(&request(small, 2)).complete(b"01234567890");
    assert_eq!(world.refused(&request(small, 2)), SessionError::RetryUncachedRep);
}
