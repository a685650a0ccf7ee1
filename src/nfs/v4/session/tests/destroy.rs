//! DESTROY_SESSION, DESTROY_CLIENTID, and clients that are removed.

use super::*;

const CONNECTION: ConnectionId = ConnectionId(1);

#[test]
fn a_destroyed_session_is_unknown() {
    //= test RFC 8881 18.37.3
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    world.table.destroy_session(session, CONNECTION, None).unwrap();
    let gone = world.table.destroy_session(session, CONNECTION, None);
    assert_eq!(gone, Err(SessionError::Badsession));
    assert_eq!(world.refused(&request(session, 1)), SessionError::Badsession);
    assert_eq!(world.table.counts(), SessionCounts { clients: 1, ..SessionCounts::default() });
    world.create(&create(id, 2)).unwrap();
}

#[test]
fn a_session_is_destroyed_over_its_connections_only() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let rogue = ConnectionId(2);
    let refused = world.table.destroy_session(session, rogue, None);
    assert_eq!(refused, Err(SessionError::ConnNotBoundToSession));
    world.caller.connection = rogue;
    world.begin(&request(session, 1)).complete(b"");
    world.table.destroy_session(session, rogue, None).unwrap();
}

#[test]
fn a_session_with_running_requests_is_not_destroyed() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let own = world.begin(&request(session, 1));
    world.table.destroy_session(session, CONNECTION, None).unwrap_err();
    let in_other_slot = SequenceRequest { slot: 1, highest_slot: 1, ..request(session, 1) };
    let other = world.begin(&in_other_slot);
    let refused = world.table.destroy_session(session, CONNECTION, Some(&own));
    assert_eq!(refused, Err(SessionError::Delay));
    other.complete(b"");
    world.table.destroy_session(session, CONNECTION, Some(&own)).unwrap();
    own.complete(b"its session is gone");
    assert_eq!(world.table.counts().bytes, 0);
}

#[test]
fn a_request_of_one_session_destroys_another() {
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    let other = world.create(&create(id, 2)).unwrap().session;
    let own = world.begin(&request(session, 1));
    world.table.destroy_session(other, CONNECTION, Some(&own)).unwrap();
    own.complete(b"");
}

#[test]
fn a_client_with_sessions_or_state_is_busy() {
    //= test RFC 8881 18.50.3
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    let destroy = |world: &mut World, held| world.table.destroy_client(id, |_| held);
    for held in [HeldState::Nothing, HeldState::Live, HeldState::Expired] {
        assert_eq!(destroy(&mut world, held), Err(SessionError::ClientidBusy));
    }
    world.table.destroy_session(session, CONNECTION, None).unwrap();
    assert_eq!(destroy(&mut world, HeldState::Live), Err(SessionError::ClientidBusy));
    let removed = destroy(&mut world, HeldState::Nothing).unwrap();
    assert!(removed.was_confirmed);
    assert_eq!(&*removed.record.owner, b"a");
    assert_eq!(destroy(&mut world, HeldState::Nothing), Err(SessionError::StaleClientid));
    assert_eq!(world.table.counts(), SessionCounts::default());
}

#[test]
fn an_unconfirmed_client_is_destroyed_without_further_ado() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let removed = world.table.destroy_client(id, |_| panic!("it holds nothing")).unwrap();
    assert!(!removed.was_confirmed);
    assert_eq!(world.create(&create(id, 1)), Err(SessionError::StaleClientid));
}

#[test]
fn a_removed_client_takes_its_sessions_along() {
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    let running = world.begin(&cached(session, 1));
    assert!(world.table.remove_client(id).is_some());
    assert!(world.table.remove_client(id).is_none());
    assert_eq!(world.refused(&request(session, 1)), SessionError::Badsession);
    assert_ne!(world.table.counts().bytes, 0, "a request is running");
    running.complete(b"reply");
    assert_eq!(world.table.counts(), SessionCounts::default());
    assert_eq!(world.table.addresses.len(), 0);
    assert_eq!(world.exchange(&owner(b"a")).unwrap().flags, NON_PNFS);
}
