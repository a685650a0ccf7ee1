//! EXCHANGE_ID: all combinations of what is there, verifier, principal, and update.

use super::*;

/// The same owner with another verifier.
fn restarted(name: &[u8]) -> ExchangeId<'_> {
    ExchangeId { verifier: [2; 8], ..owner(name) }
}

fn update(request: ExchangeId<'_>) -> ExchangeId<'_> {
    ExchangeId { flags: UPDATE, ..request }
}

#[test]
fn a_new_owner_gets_an_unconfirmed_client() {
    let mut world = World::new();
    let first = world.exchange(&owner(b"a")).unwrap();
    assert_eq!((first.flags, first.sequence, &first.removed), (NON_PNFS, 1, &None));
    let second = world.exchange(&owner(b"b")).unwrap();
    assert_ne!(first.client, second.client);
    assert_eq!(world.table.record(first.client), None);
    assert_eq!(world.table.counts().unconfirmed, 2);
}

#[test]
fn an_unconfirmed_client_is_replaced_whatever_comes() {
    //= test RFC 8881 18.35.4
    for (principal, request) in [
        (ROOT, owner(b"a")),
        (OTHER, owner(b"a")),
        (ROOT, restarted(b"a")),
        (OTHER, restarted(b"a")),
    ] {
        let mut world = World::new();
        world.held = HeldState::Live;
        let old = world.exchange(&owner(b"a")).unwrap();
        let new = world.exchange_as(principal, &request).unwrap();
        assert_ne!(old.client, new.client);
        assert_eq!((new.flags, new.removed), (NON_PNFS, None));
        assert_eq!(world.create(&create(old.client, 1)), Err(SessionError::StaleClientid));
        assert_eq!(world.table.counts().unconfirmed, 1);
    }
}

#[test]
fn a_confirmed_client_is_found_again() {
    let mut world = World::new();
    let (id, session) = world.client(b"a");
    world.held = HeldState::Live;
    let again = world.exchange(&owner(b"a")).unwrap();
    assert_eq!((again.client, again.flags), (id, NON_PNFS | CONFIRMED));
    assert_eq!(again.sequence, 2, "the next CREATE_SESSION");
    world.begin(&request(session, 1)).complete(b"");
    assert_eq!(world.table.counts().unconfirmed, 0);
}

#[test]
fn a_restarted_client_replaces_itself_when_it_is_confirmed() {
    let mut world = World::new();
    let (old, session) = world.client(b"a");
    world.held = HeldState::Live;
    let new = world.exchange(&restarted(b"a")).unwrap();
    assert_ne!(old, new.client);
    assert_eq!((new.flags, &new.removed), (NON_PNFS, &None));
    world.begin(&request(session, 1)).complete(b"");
    assert_eq!(world.create(&create(new.client, 2)), Err(SessionError::SeqMisordered));
    world.begin(&request(session, 2)).complete(b"");
    // Still unconfirmed: another attempt replaces the first.
    let newer = world.exchange(&restarted(b"a")).unwrap();
    assert_ne!(new.client, newer.client);
    let created = world.create(&create(newer.client, 1)).unwrap();
    assert_eq!(world.confirmed, [(old, None), (newer.client, Some(old))]);
    assert_eq!(world.refused(&request(session, 3)), SessionError::Badsession);
    assert_eq!(world.create(&create(old, 2)), Err(SessionError::StaleClientid));
    world.begin(&request(created.session, 1)).complete(b"");
    let again = world.exchange(&restarted(b"a")).unwrap();
    assert_eq!((again.client, again.flags), (newer.client, NON_PNFS | CONFIRMED));
    assert_eq!(world.table.record(newer.client).unwrap().verifier, [2; 8]);
}

#[test]
fn a_confirmed_client_is_still_found_beside_its_restarted_one() {
    let mut world = World::new();
    let (old, _) = world.client(b"a");
    world.exchange(&restarted(b"a")).unwrap();
    assert_eq!(world.exchange(&owner(b"a")).unwrap().client, old);
}

#[test]
fn another_principal_is_refused_while_the_client_is_in_use() {
    for request in [owner(b"a"), restarted(b"a")] {
        let mut world = World::new();
        let (old, session) = world.client(b"a");
        let refused = |world: &mut World| {
            let exchanged = world.exchange_as(OTHER, &request);
            assert_eq!(exchanged, Err(SessionError::ClidInuse));
        };
        refused(&mut world); // it has a session
        world.held = HeldState::Live;
        refused(&mut world);
        world.begin(&super::request(session, 1)).complete(b"");
        world.table.destroy_session(session, world.caller.connection, None).unwrap();
        refused(&mut world); // it has state
        world.held = HeldState::Nothing;
        let new = world.exchange_as(OTHER, &request).unwrap();
        let removed = new.removed.unwrap();
        assert_eq!(
            (removed.client, &*removed.record.owner, removed.was_confirmed),
            (old, &b"a"[..], true)
        );
        assert_ne!(new.client, old);
        assert_eq!(world.create(&create(old, 2)), Err(SessionError::StaleClientid));
    }
}

#[test]
fn another_principal_takes_over_after_the_lease() {
    let mut world = World::new();
    let (old, session) = world.client(b"a");
    world.held = HeldState::Expired;
    let new = world.exchange_as(OTHER, &owner(b"a")).unwrap();
    assert_eq!(new.removed.unwrap().client, old);
    assert_eq!(world.refused(&request(session, 1)), SessionError::Badsession);
    world.caller.principal = OTHER;
    world.create(&create(new.client, 1)).unwrap();
    assert_eq!(world.confirmed.last(), Some(&(new.client, None)));
}

#[test]
fn an_update_needs_a_confirmed_client() {
    let mut world = World::new();
    assert_eq!(world.exchange(&update(owner(b"a"))), Err(SessionError::Noent));
    world.exchange(&owner(b"a")).unwrap();
    for (principal, request) in [
        (ROOT, owner(b"a")),
        (OTHER, owner(b"a")),
        (ROOT, restarted(b"a")),
        (OTHER, restarted(b"a")),
    ] {
        assert_eq!(world.exchange_as(principal, &update(request)), Err(SessionError::Noent));
    }
}

#[test]
fn an_update_needs_the_same_verifier_and_principal() {
    let mut world = World::new();
    let (id, _) = world.client(b"a");
    for (principal, request, expected) in [
        (ROOT, restarted(b"a"), SessionError::NotSame),
        (OTHER, restarted(b"a"), SessionError::NotSame),
        (OTHER, owner(b"a"), SessionError::Perm),
    ] {
        assert_eq!(world.exchange_as(principal, &update(request)), Err(expected));
    }
    let renamed = ExchangeId { implementation: b"Linux 6.12", minor_version: 2, ..owner(b"a") };
    let updated = world.exchange(&update(renamed)).unwrap();
    assert_eq!((updated.client, updated.flags), (id, NON_PNFS | CONFIRMED));
    let view = world.table.clients().next().unwrap();
    assert_eq!((view.implementation, view.minor_version), (&b"Linux 6.12"[..], 2));
}

#[test]
fn flags_that_are_not_defined_are_refused() {
    //= test RFC 8881 18.35.3
    let mut world = World::new();
    let mut with = |flags, minor_version| {
        world.exchange(&ExchangeId { flags, minor_version, ..owner(b"a") }).map(|e| e.flags)
    };
    for bit in 0..32 {
        let flags = 1_u32 << bit;
        let expected = match flags {
            UPDATE => Err(SessionError::Noent),
            1 | 2 | 0x100 | 0x1_0000 | 0x2_0000 | 0x4_0000 => Ok(NON_PNFS),
            _ => Err(SessionError::Inval),
        };
        assert_eq!(with(flags, 1), expected, "{flags:#x}");
    }
    assert_eq!(with(4, 2), Ok(NON_PNFS), "SUPP_FENCE_OPS");
}

#[test]
fn state_protection_is_refused() {
    let mut world = World::new();
    for (protection, expected) in [
        (StateProtection::MachCred, SessionError::Inval),
        (StateProtection::Ssv, SessionError::EncrAlgUnsupp),
    ] {
        let exchanged = world.exchange(&ExchangeId { protection, ..owner(b"a") });
        assert_eq!(exchanged, Err(expected));
    }
    assert_eq!(world.table.counts(), SessionCounts::default());
}

#[test]
fn an_unconfirmed_client_is_forgotten_after_a_lease() {
    let mut world = World::new();
    let id = world.exchange(&owner(b"a")).unwrap().client;
    let other = world.exchange(&owner(b"b")).unwrap().client;
    world.now += LEASE;
    world.create(&create(id, 1)).unwrap();
    world.now += Duration::from_secs(1);
    assert_eq!(world.create(&create(other, 1)), Err(SessionError::StaleClientid));
    world.now += LEASE * 100;
    world.table.expire_unconfirmed(world.now);
    assert_eq!(world.table.counts().clients, 1, "the lease of a confirmed one is kept elsewhere");
}
