//! CREATE_SESSION: order, replay, confirmation, and channels.

use super::*;

#[test]
fn the_first_session_confirms_the_client() {
    let mut world = World::new();
    let exchanged = world.exchange(&owner(b"a")).unwrap();
    let created = world.create(&create(exchanged.client, 1)).unwrap();
    assert_eq!((created.sequence, created.flags), (1, 0));
    assert_eq!(world.confirmed, [(exchanged.client, None)]);
    let record = world.table.record(exchanged.client).unwrap();
    assert_eq!((&*record.owner, record.principal), (&b"a"[..], ROOT));
    let second = world.create(&create(exchanged.client, 2)).unwrap();
    assert_ne!(created.session, second.session);
    assert_eq!(world.confirmed.len(), 1, "a client is confirmed once");
    assert_eq!(world.table.counts().sessions, 2);
}

#[test]
fn a_repetition_gets_the_same_reply() {
    //= test RFC 8881 18.36.4
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let misordered = Err(SessionError::SeqMisordered);
    for sequence in [0, 2, u32::MAX] {
        assert_eq!(world.create(&create(id, sequence)), misordered, "{sequence}");
    }
    let created = world.create(&create(id, 1)).unwrap();
    assert_eq!(world.create(&create(id, 1)), Ok(created));
    for sequence in [0, 3, u32::MAX] {
        assert_eq!(world.create(&create(id, sequence)), misordered, "{sequence}");
    }
    world.caller.principal = OTHER;
    assert_eq!(world.create(&create(id, 1)), Ok(created), "it changes nothing");
    assert_eq!(world.table.counts().sessions, 1);
    world.table.destroy_session(created.session, world.caller.connection, None).unwrap();
    assert_eq!(world.create(&create(id, 1)), Ok(created), "the reply is kept by the client");
}

#[test]
fn an_unknown_client_and_one_of_another_epoch_are_stale() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    for id in [0, 1, u64::MAX, id.0 ^ 1 << 32] {
        assert_eq!(world.create(&create(ClientId(id), 1)), Err(SessionError::StaleClientid));
    }
}

#[test]
fn only_its_principal_confirms_a_client() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    world.caller.principal = OTHER;
    for _ in 0..2 {
        assert_eq!(world.create(&create(id, 1)), Err(SessionError::ClidInuse));
    }
    world.caller.principal = ROOT;
    world.create(&create(id, 1)).unwrap();
    world.caller.principal = OTHER;
    world.create(&create(id, 2)).unwrap();
}

#[test]
fn a_confirmation_that_fails_changes_nothing() {
    let mut world = World::new();
    let (old, session) = world.client(b"a");
    let restarted = ExchangeId { verifier: [2; 8], ..owner(b"a") };
    let new = world.exchange(&restarted).unwrap().client;
    let before = world.table.counts();
    let refused = world.table.create_session(&create(new, 1), world.caller, world.now, |it| {
        let (replaced, record) = it.replaces.unwrap();
        assert_eq!((it.client, it.record.verifier), (new, [2; 8]));
        assert_eq!((replaced, record.verifier), (old, [1; 8]));
        Err(SessionError::Delay)
    });
    assert_eq!(refused, Err(SessionError::Delay));
    assert_eq!(world.table.counts(), before);
    world.begin(&request(session, 1)).complete(b"");
    world.create(&create(new, 1)).unwrap();
    assert_eq!(world.refused(&request(session, 2)), SessionError::Badsession);
}

#[test]
fn channels_are_lowered_and_never_raised() {
    //= test RFC 8881 18.36.3
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let linux = world.create(&create(id, 1)).unwrap();
    let expected = ChannelAttrs { max_cached_reply: 4096, ..ATTRS };
    assert_eq!(linux.fore, ChannelAttrs { max_request: 1_049_620, ..expected });
    assert_eq!(linux.back, create(id, 1).back);
    let all = ChannelAttrs {
        header_pad: 9,
        max_request: u32::MAX,
        max_reply: u32::MAX,
        max_cached_reply: u32::MAX,
        max_operations: u32::MAX,
        max_requests: u32::MAX,
    };
    let large = world.create(&CreateSession { fore: all, back: all, ..create(id, 2) }).unwrap();
    let limits = SessionLimits::default();
    assert_eq!(
        large.fore,
        ChannelAttrs {
            header_pad: 0,
            max_request: limits.message,
            max_reply: limits.message,
            max_cached_reply: limits.cached_reply,
            max_operations: limits.operations,
            max_requests: limits.slots,
        }
    );
    assert_eq!(large.back, ChannelAttrs { header_pad: 0, ..all });
    let small = ChannelAttrs {
        max_request: 88,
        max_reply: 80,
        max_cached_reply: 4096,
        max_operations: 1,
        max_requests: 1,
        ..ATTRS
    };
    let created = world.create(&CreateSession { fore: small, ..create(id, 3) }).unwrap();
    assert_eq!(created.fore, ChannelAttrs { max_cached_reply: 80, ..small });
}

#[test]
fn channels_that_carry_nothing_are_refused() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let good = create(id, 1);
    for fore in [
        ChannelAttrs { max_request: 87, ..ATTRS },
        ChannelAttrs { max_reply: 79, ..ATTRS },
        ChannelAttrs { max_operations: 0, ..ATTRS },
        ChannelAttrs { max_requests: 0, ..ATTRS },
    ] {
        assert_eq!(world.create(&CreateSession { fore, ..good }), Err(SessionError::Toosmall));
    }
    for back in [
        ChannelAttrs { max_request: 10, ..good.back },
        ChannelAttrs { max_reply: 10, ..good.back },
        ChannelAttrs { max_operations: 1, ..good.back },
    ] {
        let request = CreateSession { back, flags: 0, ..good };
        assert_eq!(world.create(&request), Err(SessionError::Toosmall));
    }
    assert!(world.create(&good).is_ok(), "the sequence number was not used");
}

#[test]
fn flags_are_checked_and_granted() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    for flags in [8, 0xf, u32::MAX] {
        let request = CreateSession { flags, ..create(id, 1) };
        assert_eq!(world.create(&request), Err(SessionError::Inval));
    }
    let created = world.create(&CreateSession { flags: 7, ..create(id, 1) }).unwrap();
    assert_eq!(created.flags, 0);

    let backchannel = Backchannel::Available;
    let mut world = World::with(SessionSettings { backchannel, ..settings() });
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let created = world.create(&CreateSession { flags: 7, ..create(id, 1) }).unwrap();
    assert_eq!(created.flags, 2);
    let session = world.table.session(created.session).unwrap();
    assert_eq!(session.callback_program(), Some(0x4000_0000));
    let created = world.create(&CreateSession { flags: 1, ..create(id, 2) }).unwrap();
    assert_eq!(created.flags, 0);
}
