//! The table of all clients and sessions.
//!
//! A client, its entry for the owner, and its count for the address begin and end together
//! ([`SessionTable::insert_client`], [`SessionTable::take_client`]); so do a session, its entry in
//! the client, and those of its connections ([`SessionTable::insert_session`],
//! [`SessionTable::take_session`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::address::Addresses;
use super::bind::Bindings;
use super::client::{ClientStage, OwnerClients, SessionClient};
use super::id::IdSource;
use super::unconfirmed::Unconfirmed;
use super::{
    ClientId, ClientRecord, ConnectionId, Principal, RemovedClient, Session, SessionId,
    SessionSettings, Uptime,
};

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Principal of the credentials.
    pub principal: Principal,
    /// Address of the other end of the connection.
    pub address: IpAddr,
    /// The connection.
    pub connection: ConnectionId,
}

/// All clients and sessions.
#[derive(Debug)]
pub struct SessionTable {
    pub(super) settings: SessionSettings,
    pub(super) ids: IdSource,
    pub(super) clients: HashMap<ClientId, SessionClient>,
    pub(super) owners: HashMap<Arc<[u8]>, OwnerClients>,
    pub(super) unconfirmed: Unconfirmed,
    pub(super) addresses: Addresses,
    pub(super) sessions: HashMap<SessionId, Arc<Session>>,
    pub(super) bindings: Bindings,
}

impl SessionTable {
    /// Returns a table without clients.
    pub fn new(settings: SessionSettings) -> Self {
        Self {
            ids: IdSource::new(settings.epoch, settings.secret),
            clients: HashMap::new(),
            owners: HashMap::new(),
            unconfirmed: Unconfirmed::default(),
            addresses: Addresses::new(settings.limits.memory),
            sessions: HashMap::new(),
            bindings: Bindings::new(settings.limits.connections_of_session),
            settings,
        }
    }

    /// Returns what the disk has to keep of a confirmed client.
    pub fn record(&self, id: ClientId) -> Option<&ClientRecord> {
        let client = self.clients.get(&id)?;
        (client.stage == ClientStage::Confirmed).then_some(&client.record)
    }

    /// Returns a session.
    pub fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// Removes a client with its sessions: its lease has expired, an administrator has ended it, or
    /// the lock table did. Requests that run in its sessions go on. `None` if there is none.
    pub fn remove_client(&mut self, id: ClientId) -> Option<RemovedClient> {
        self.take_client(id).map(|client| RemovedClient::of(id, client))
    }

    /// Forgets unconfirmed clients after a lease time. EXCHANGE_ID and CREATE_SESSION do it too;
    /// call it every few seconds, for a table that gets no requests.
    pub fn expire_unconfirmed(&mut self, now: Uptime) {
        //= RFC 8881 18.35.4: a client that is not confirmed within a lease time is forgotten
        while let Some(id) = self.unconfirmed.expired(self.settings.lease, now) {
            self.take_client(id);
        }
    }

    pub(super) fn insert_client(&mut self, id: ClientId, client: SessionClient) {
        let owner = self.owners.entry(client.record.owner.clone()).or_default();
        *owner.place(client.stage) = Some(id);
        self.clients.insert(id, client);
    }

    pub(super) fn take_client(&mut self, id: ClientId) -> Option<SessionClient> {
        let client = self.clients.remove(&id)?;
        let sessions = client.sessions.iter();
        sessions.for_each(|session| self.unlink_session(*session));
        match client.stage {
            ClientStage::Unconfirmed(place) => self.unconfirmed.remove(place),
            ClientStage::Confirmed => self.addresses.remove_client(client.address),
        }
        if let Some(owner) = self.owners.get_mut(&client.record.owner) {
            *owner.place(client.stage) = None;
            if owner.is_empty() {
                self.owners.remove(&client.record.owner);
            }
        }
        Some(client)
    }

    pub(super) fn insert_session(&mut self, session: Arc<Session>, connection: ConnectionId) {
        if let Some(client) = self.clients.get_mut(&session.client) {
            client.sessions.push(session.id);
        }
        self.bindings.bind(session.id, connection);
        self.sessions.insert(session.id, session);
    }

    pub(super) fn take_session(&mut self, id: SessionId) -> Option<Arc<Session>> {
        let session = self.sessions.get(&id)?.clone();
        if let Some(client) = self.clients.get_mut(&session.client) {
            client.sessions.retain(|other| *other != id);
        }
        self.unlink_session(id);
        Some(session)
    }

    /// Removes a session from all but its client.
    fn unlink_session(&mut self, id: SessionId) {
        self.bindings.remove_session(id);
        self.sessions.remove(&id);
    }
}
