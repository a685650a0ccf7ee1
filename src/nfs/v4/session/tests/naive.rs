//! Clients and sessions against a naive model: lists, searched from the beginning.

use proptest::prelude::*;

use super::*;

/// A client of the model.
#[derive(Clone, Debug)]
struct NaiveClient {
    id: ClientId,
    owner: u8,
    verifier: u8,
    principal: Principal,
    is_confirmed: bool,
    since: Uptime,
    /// Number of the last CREATE_SESSION.
    created: u32,
    reply: Option<SessionId>,
    sessions: Vec<SessionId>,
}

#[derive(Debug, Default)]
struct Naive {
    clients: Vec<NaiveClient>,
    /// All ids that were issued.
    ids: Vec<ClientId>,
    sessions: Vec<SessionId>,
}

#[derive(Clone, Debug)]
enum Step {
    Exchange {
        owner: u8,
        verifier: u8,
        principal: Principal,
        update: bool,
        held: HeldState,
    },
    /// A client by its place among all, and the difference to its next number.
    Create {
        client: prop::sample::Index,
        delta: i8,
        principal: Principal,
    },
    DestroySession(prop::sample::Index),
    DestroyClient(prop::sample::Index, HeldState),
    Sequence(prop::sample::Index),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let principal = prop_oneof![4 => Just(ROOT), 1 => Just(OTHER)];
    let held =
        prop_oneof![Just(HeldState::Nothing), Just(HeldState::Live), Just(HeldState::Expired)];
    let index = any::<prop::sample::Index>;
    let exchange = (0..3_u8, 0..2_u8, principal.clone(), prop::bool::weighted(0.2), held.clone());
    let delta = prop_oneof![6 => Just(0_i8), 2 => Just(-1), 1 => -3..3_i8];
    prop_oneof![
        4 => exchange.prop_map(|(owner, verifier, principal, update, held)| {
            Step::Exchange { owner, verifier, principal, update, held }
        }),
        4 => (index(), delta, principal)
            .prop_map(|(client, delta, principal)| Step::Create { client, delta, principal }),
        1 => index().prop_map(Step::DestroySession),
        1 => (index(), held).prop_map(|(client, held)| Step::DestroyClient(client, held)),
        1 => index().prop_map(Step::Sequence),
        1 => (0..60_u8).prop_map(Step::Wait),
    ]
}

impl Naive {
    fn expire(&mut self, now: Uptime) {
        self.clients.retain(|client| client.is_confirmed || now - client.since <= LEASE);
    }

    fn find(&self, owner: u8, is_confirmed: bool) -> Option<&NaiveClient> {
        let mut clients = self.clients.iter();
        clients.find(|client| (client.owner, client.is_confirmed) == (owner, is_confirmed))
    }

    fn get(&mut self, id: ClientId) -> Option<&mut NaiveClient> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    fn remove(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }

    /// The result of EXCHANGE_ID: a client that is there, or `None` for a new one; and a client
    /// that has to go.
    fn exchange(
        &self,
        step: (u8, u8, Principal, bool, HeldState),
    ) -> Result<(Option<ClientId>, Option<ClientId>), SessionError> {
        let (owner, verifier, principal, update, held) = step;
        let Some(found) = self.find(owner, true) else {
            return if update { Err(SessionError::Noent) } else { Ok((None, None)) };
        };
        let is_same = (found.verifier == verifier, found.principal == principal);
        match (update, is_same) {
            (_, (true, true)) => Ok((Some(found.id), None)),
            (true, (false, _)) => Err(SessionError::NotSame),
            (true, (true, false)) => Err(SessionError::Perm),
            (false, (false, true)) => Ok((None, None)),
            (false, (_, false)) => match held {
                HeldState::Live => Err(SessionError::ClidInuse),
                HeldState::Nothing if !found.sessions.is_empty() => Err(SessionError::ClidInuse),
                HeldState::Nothing | HeldState::Expired => Ok((None, Some(found.id))),
            },
        }
    }
}

/// A world and its model.
struct Pair {
    world: World,
    naive: Naive,
}

impl Pair {
    fn exchange(&mut self, step: (u8, u8, Principal, bool, HeldState)) {
        let (owner, verifier, principal, update, held) = step;
        self.world.held = held;
        let now = self.world.now;
        self.naive.expire(now);
        let name = [owner];
        let request = ExchangeId {
            verifier: [verifier; 8],
            flags: if update { UPDATE } else { 0 },
            ..super::owner(&name)
        };
        let found = self.world.exchange_as(principal, &request);
        let (there, gone) = match self.naive.exchange(step) {
            Ok(expected) => expected,
            Err(error) => return assert_eq!(found, Err(error), "{step:?}"),
        };
        let found = found.unwrap();
        assert_eq!(found.removed.as_ref().map(|removed| removed.client), gone);
        if let Some(there) = there {
            return assert_eq!((found.client, found.flags), (there, NON_PNFS | CONFIRMED));
        }
        assert!(!self.naive.ids.contains(&found.client), "an id was issued again");
        assert_eq!((found.flags, found.sequence), (NON_PNFS, 1));
        let unconfirmed = self.naive.find(owner, false).map(|client| client.id);
        gone.into_iter().chain(unconfirmed).for_each(|id| self.naive.remove(id));
        self.naive.ids.push(found.client);
        self.naive.clients.push(NaiveClient {
            id: found.client,
            owner,
            verifier,
            principal,
            is_confirmed: false,
            since: now,
            created: 0,
            reply: None,
            sessions: Vec::new(),
        });
    }

    fn create(&mut self, id: ClientId, delta: i8, principal: Principal) {
        let now = self.world.now;
        self.naive.expire(now);
        let max = self.world.table.settings.limits.sessions_of_client;
        let next = self.naive.get(id).map_or(1, |client| client.created + 1);
        let sequence = next.wrapping_add_signed(delta.into());
        self.world.caller.principal = principal;
        let found = self.world.create(&create(id, sequence));
        let Some(client) = self.naive.get(id) else {
            return assert_eq!(found, Err(SessionError::StaleClientid));
        };
        if delta == -1 && client.reply.is_some() {
            return assert_eq!(Some(found.unwrap().session), client.reply);
        }
        let expected = match delta {
            0 if !client.is_confirmed && client.principal != principal => {
                Some(SessionError::ClidInuse)
            }
            0 => (client.sessions.len() >= max).then_some(SessionError::Nospc),
            _ => Some(SessionError::SeqMisordered),
        };
        if let Some(expected) = expected {
            return assert_eq!(found, Err(expected));
        }
        let session = found.unwrap().session;
        let (owner, is_new) = (client.owner, !client.is_confirmed);
        client.is_confirmed = true;
        client.created = sequence;
        client.reply = Some(session);
        client.sessions.push(session);
        if is_new {
            let is_old = |c: &NaiveClient| c.is_confirmed && c.owner == owner && c.id != id;
            let old = self.naive.clients.iter().find(|c| is_old(c)).map(|c| c.id);
            let last = self.world.confirmed.last().copied();
            assert_eq!(last, Some((id, old)));
            old.into_iter().for_each(|old| self.naive.remove(old));
        }
        assert!(!self.naive.sessions.contains(&session), "an id was issued again");
        self.naive.sessions.push(session);
    }

    fn destroy_session(&mut self, id: SessionId) {
        let connection = self.world.caller.connection;
        let found = self.world.table.destroy_session(id, connection, None);
        let client = self.naive.clients.iter_mut().find(|client| client.sessions.contains(&id));
        let expected = match client {
            Some(client) => {
                client.sessions.retain(|other| *other != id);
                Ok(())
            }
            None => Err(SessionError::Badsession),
        };
        assert_eq!(found, expected);
    }

    fn destroy_client(&mut self, id: ClientId, held: HeldState) {
        let found = self.world.table.destroy_client(id, |_| held).map(|removed| removed.client);
        let expected = match self.naive.get(id) {
            None => Err(SessionError::StaleClientid),
            Some(client) if !client.sessions.is_empty() => Err(SessionError::ClientidBusy),
            Some(client) if client.is_confirmed && held == HeldState::Live => {
                Err(SessionError::ClientidBusy)
            }
            Some(_) => Ok(id),
        };
        assert_eq!(found, expected);
        if found.is_ok() {
            self.naive.remove(id);
        }
    }

    fn sequence(&mut self, id: SessionId) {
        let is_there = self.naive.clients.iter().any(|client| client.sessions.contains(&id));
        let found = self.world.sequence(&request(id, u32::MAX)).map(drop);
        let expected =
            if is_there { SessionError::SeqMisordered } else { SessionError::Badsession };
        assert_eq!(found, Err(expected));
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Exchange { owner, verifier, principal, update, held } => {
                self.exchange((owner, verifier, principal, update, held));
            }
            Step::Create { client, delta, principal } if !self.naive.ids.is_empty() => {
                self.create(*client.get(&self.naive.ids), delta, principal);
            }
            Step::DestroySession(session) if !self.naive.sessions.is_empty() => {
                self.destroy_session(*session.get(&self.naive.sessions));
            }
            Step::DestroyClient(client, held) if !self.naive.ids.is_empty() => {
                self.destroy_client(*client.get(&self.naive.ids), held);
            }
            Step::Sequence(session) if !self.naive.sessions.is_empty() => {
                self.sequence(*session.get(&self.naive.sessions));
            }
            Step::Wait(seconds) => self.world.now += Duration::from_secs(seconds.into()),
            Step::Create { .. }
            | Step::DestroySession(_)
            | Step::DestroyClient(..)
            | Step::Sequence(_) => {}
        }
    }

    /// Compares all that is there, and the parts of the table with each other.
    fn check(&mut self) {
        let now = self.world.now;
        self.naive.expire(now);
        let world = &mut self.world;
        world.table.expire_unconfirmed(now);
        let clients = &self.naive.clients;
        let sessions: usize = clients.iter().map(|client| client.sessions.len()).sum();
        let confirmed = clients.iter().filter(|client| client.is_confirmed).count();
        let counts = world.table.counts();
        assert_eq!((counts.clients, counts.unconfirmed), (confirmed, clients.len() - confirmed));
        assert_eq!(counts.sessions, sessions);
        for client in clients {
            let found = &world.table.clients[&client.id];
            assert_eq!(found.sessions, client.sessions);
            assert_eq!(found.record.verifier, [client.verifier; 8]);
            assert_eq!(world.table.record(client.id).is_some(), client.is_confirmed);
            for session in &client.sessions {
                assert_eq!(world.table.session(*session).unwrap().client(), client.id);
                assert!(world.table.bindings.is_bound(*session, world.caller.connection));
            }
        }
        let owners: usize = world
            .table
            .owners
            .values()
            .map(|owner| {
                usize::from(owner.confirmed.is_some()) + usize::from(owner.unconfirmed.is_some())
            })
            .sum();
        assert_eq!(owners, clients.len());
        assert_eq!(counts.bytes == 0, sessions == 0);
        assert_eq!(world.table.addresses.len(), usize::from(confirmed > 0));
    }
}

proptest! {
    #[test]
    fn clients_and_sessions_are_as_in_the_model(
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let mut pair = Pair { world: World::new(), naive: Naive::default() };
        for step in steps {
            pair.run(step);
            pair.check();
        }
    }
}
