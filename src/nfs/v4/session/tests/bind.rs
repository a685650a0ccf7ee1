//! Connections of sessions.

use super::*;

fn bind(world: &mut World, session: SessionId, wire: u32) -> Result<BoundDirection, SessionError> {
    let direction = DirectionRequest::from_wire(wire).unwrap();
    world.table.bind_connection(BindRequest { session, direction }, world.caller.connection)
}

#[test]
fn directions_without_a_back_channel() {
    //= test RFC 8881 18.34.3
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    assert_eq!(bind(&mut world, session, 1), Ok(BoundDirection::Fore));
    assert_eq!(bind(&mut world, session, 3), Ok(BoundDirection::Fore));
    for wire in [2, 7] {
        assert_eq!(bind(&mut world, session, wire), Err(SessionError::Inval));
    }
    assert_eq!(bind(&mut world, SessionId([0; 16]), 1), Err(SessionError::Badsession));
    for wire in [0, 4, 5, 6, 8, u32::MAX] {
        assert_eq!(DirectionRequest::from_wire(wire), None);
    }
}

#[test]
fn directions_with_a_back_channel() {
    let backchannel = Backchannel::Available;
    let mut world = World::with(SessionSettings { backchannel, ..settings() });
    let (_, session) = world.client(b"a");
    let expected = [
        (1, BoundDirection::Fore),
        (2, BoundDirection::Back),
        (3, BoundDirection::Both),
        (7, BoundDirection::Both),
    ];
    for (wire, bound) in expected {
        assert_eq!(bind(&mut world, session, wire), Ok(bound));
    }
}

#[test]
fn sequence_binds_its_connection() {
    //= test RFC 8881 2.10.3.1
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    world.caller.connection = ConnectionId(2);
    assert!(!world.table.bindings.is_bound(session, ConnectionId(2)));
    assert_eq!(world.refused(&request(session, 9)), SessionError::SeqMisordered);
    assert!(!world.table.bindings.is_bound(session, ConnectionId(2)));
    world.begin(&request(session, 1)).complete(b"");
    assert!(world.table.bindings.is_bound(session, ConnectionId(2)));
    assert!(world.table.bindings.is_bound(session, ConnectionId(1)));
    assert_eq!(world.table.clients().next().unwrap().connections, 2);
}

#[test]
fn a_repeated_create_session_binds_its_connection() {
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    world.table.connection_lost(ConnectionId(1));
    world.caller.connection = ConnectionId(2);
    world.create(&create(id, 1)).unwrap();
    world.table.destroy_session(session, ConnectionId(2), None).unwrap();
    world.create(&create(id, 1)).unwrap();
    assert_eq!(world.table.bindings.connections(), 0, "the session is gone");
}

#[test]
fn a_session_outlives_its_connections() {
    //= test RFC 8881 2.10.3
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    world.begin(&cached(session, 1)).complete(b"reply");
    world.table.connection_lost(ConnectionId(1));
    world.table.connection_lost(ConnectionId(1));
    assert_eq!(world.table.bindings.connections(), 0);
    let gone = world.table.destroy_session(session, ConnectionId(1), None);
    assert_eq!(gone, Err(SessionError::ConnNotBoundToSession));
    world.caller.connection = ConnectionId(2);
    assert_eq!(world.replay(&cached(session, 1)), b"reply");
    world.table.destroy_session(session, ConnectionId(2), None).unwrap();
    assert_eq!(world.table.bindings.connections(), 0);
}

#[test]
fn connections_are_bounded_and_the_oldest_binding_goes() {
    let mut world = World::new();
    let (_, session) = world.client(b"a");
    let max = world.table.settings.limits.connections_of_session;
    for n in 0..10_000 {
        world.caller.connection = ConnectionId(n);
        bind(&mut world, session, 1).unwrap();
        assert!(world.table.bindings.of(session).len() <= max);
        assert!(world.table.bindings.connections() <= max);
    }
    world.table.destroy_session(session, ConnectionId(9_999), None).unwrap();
}
