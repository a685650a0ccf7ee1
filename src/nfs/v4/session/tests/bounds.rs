//! What hostile clients can make the server keep.

use super::*;

#[test]
fn unconfirmed_clients_are_bounded() {
    let mut world = World::new();
    let limits = world.table.settings.limits;
    let (id, session) = world.client(b"confirmed");
    for n in 0..10_000_u32 {
        world.exchange(&owner(&n.to_be_bytes())).unwrap();
    }
    assert_eq!(world.table.counts().unconfirmed, limits.unconfirmed_of_address);
    assert_eq!(world.table.owners.len(), limits.unconfirmed_of_address + 1);
    for n in 0..50_000_u32 {
        let [_, _, high, low] = n.to_be_bytes();
        world.caller.address = IpAddr::from([10, 1, high, low]);
        world.exchange(&owner(&n.to_be_bytes())).unwrap();
    }
    assert_eq!(world.table.counts().unconfirmed, limits.unconfirmed);
    assert_eq!(world.table.clients.len(), limits.unconfirmed + 1);
    assert!(world.table.clients.contains_key(&id), "a confirmed client is not pushed out");
    world.begin(&request(session, 1)).complete(b"");
    world.now += LEASE * 2;
    world.table.expire_unconfirmed(world.now);
    assert_eq!((world.table.clients.len(), world.table.owners.len()), (1, 1));
    assert_eq!(world.table.unconfirmed.len(), 0);
}

#[test]
fn one_address_does_not_push_out_another() {
    let mut world = World::new();
    world.caller.address = address(2);
    let victim = world.exchange(&owner(b"victim")).unwrap().client;
    world.caller.address = address(1);
    for n in 0..10_000_u32 {
        world.exchange(&owner(&n.to_be_bytes())).unwrap();
    }
    world.caller.address = address(2);
    world.create(&create(victim, 1)).unwrap();
}

#[test]
fn the_oldest_unconfirmed_client_goes_first() {
    let limits = SessionLimits { unconfirmed_of_address: 2, ..SessionLimits::default() };
    let mut world = World::limited(limits);
    let ids = [b"a", b"b", b"c"].map(|name| world.exchange(&owner(name)).unwrap().client);
    assert_eq!(world.create(&create(ids[0], 1)), Err(SessionError::StaleClientid));
    world.create(&create(ids[1], 1)).unwrap();
    world.create(&create(ids[2], 1)).unwrap();
}

#[test]
fn confirmed_clients_are_shared_by_address() {
    let limits = SessionLimits { clients: 30, clients_of_address: 2, ..SessionLimits::default() };
    let mut world = World::limited(limits);
    let mut confirm = |n: u8, name: u32| {
        world.caller.address = address(n);
        let id = world.exchange(&owner(&name.to_be_bytes())).unwrap().client;
        world.create(&create(id, 1)).map(|_| id)
    };
    let of_first = (0..100).filter(|n| confirm(1, *n).is_ok()).count();
    assert_eq!(of_first, 20, "an address gets two thirds");
    let of_second = (100..200).filter(|n| confirm(2, *n).is_ok()).count();
    assert!((5..10).contains(&of_second), "{of_second}");
    (3..200).for_each(|n| assert!(confirm(n, u32::from(n) * 1000).is_ok(), "the least of {n}"));
}

#[test]
fn sessions_of_a_client_are_bounded() {
    let mut world = World::new();
    let max = u32::try_from(world.table.settings.limits.sessions_of_client).unwrap();
    let (id, first) = world.client(b"a");
    for n in 2..=max {
        world.create(&create(id, n)).unwrap();
    }
    assert_eq!(world.create(&create(id, max + 1)), Err(SessionError::Nospc));
    world.table.destroy_session(first, world.caller.connection, None).unwrap();
    world.create(&create(id, max + 1)).unwrap();
}

#[test]
fn memory_of_slots_is_bounded_and_given_back() {
    let memory = 60 << 10;
    let mut world = World::limited(SessionLimits { memory, ..SessionLimits::default() });
    let mut clients = Vec::new();
    for n in 0..200_u32 {
        let id = world.exchange(&owner(&n.to_be_bytes())).unwrap().client;
        if let Ok(created) = world.create(&create(id, 1)) {
            clients.push((id, created));
        }
        assert!(world.table.counts().bytes <= memory);
    }
    let slots: Vec<_> = clients.iter().map(|(_, created)| created.fore.max_requests).collect();
    assert_eq!(slots[0], 64);
    assert!((1..64).contains(slots.last().unwrap()), "fewer slots when memory is short: {slots:?}");
    assert!(clients.len() < 200);
    world.caller.address = address(2);
    let id = world.exchange(&owner(b"other")).unwrap().client;
    world.create(&create(id, 1)).expect("an address leaves room for another one");
    assert!(world.table.remove_client(id).is_some());
    clients.iter().for_each(|(id, _)| assert!(world.table.remove_client(*id).is_some()));
    assert_eq!(world.table.counts().bytes, 0);
    assert_eq!(world.table.addresses.len(), 0);
}

#[test]
fn replies_are_bounded_and_those_that_were_asked_for_are_kept() {
    let memory = 64 << 10;
    let mut world = World::limited(SessionLimits { memory, ..SessionLimits::default() });
    let (_, session) = world.client(b"a");
    let in_slot = |slot| SequenceRequest { slot, highest_slot: 63, ..cached(session, 1) };
    let running: Vec<_> = (0..64)
        .map_while(|slot| match world.sequence(&in_slot(slot)) {
            Ok(SequenceOutcome::New(running)) => Some(running),
            Ok(SequenceOutcome::Replay(_) | SequenceOutcome::Resumed(..)) => {
                panic!("there was no request")
            }
            Err(error) => {
                assert_eq!(error, SessionError::Delay);
                None
            }
        })
        .collect();
    assert!((5..20).contains(&running.len()), "{}", running.len());
    assert!(world.table.counts().bytes <= memory);
    let count = u32::try_from(running.len()).unwrap();
    running.into_iter().for_each(|running| running.complete(&[7; 500]));
    // What was reserved and not needed is free for others.
    world.begin(&in_slot(count)).complete(&[7; 500]);
    (0..=count).for_each(|slot| assert_eq!(world.replay(&in_slot(slot)), [7; 500]));
}

#[test]
fn clients_should_use_fewer_slots_while_memory_is_scarce() {
    let mut world = World::limited(SessionLimits { memory: 64 << 10, ..SessionLimits::default() });
    let (_, session) = world.client(b"a");
    let running = world.begin(&request(session, 1));
    let reply = *running.reply();
    assert_eq!((reply.highest_slot, reply.target_highest_slot), (63, 63));
    running.complete(b"");
    world.caller.address = address(2);
    let (_, other) = world.client(b"b");
    let in_slot = |session, slot| SequenceRequest { slot, ..cached(session, 1) };
    let mut held = Vec::new();
    for slot in 1..8 {
        let wide = |session| SequenceRequest { highest_slot: 63, ..in_slot(session, slot) };
        held.extend([session, other].map(|session| world.sequence(&wide(session))));
    }
    let reply = *world.begin(&request(session, 2)).reply();
    assert_eq!((reply.highest_slot, reply.target_highest_slot), (63, 7));
}
