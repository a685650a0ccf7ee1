//! What administrators see of clients and sessions.

use std::net::IpAddr;

use super::client::ClientStage;
use super::{ClientId, ClientRecord, SessionTable};

/// A client, as administrators see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionClientView<'a> {
    /// The client.
    pub client: ClientId,
    /// What identifies it.
    pub record: &'a ClientRecord,
    /// Address of its EXCHANGE_ID.
    pub address: IpAddr,
    /// Name of the implementation, as the client says. May be empty.
    pub implementation: &'a [u8],
    /// Minor version of its EXCHANGE_ID.
    pub minor_version: u32,
    /// Whether it has created a session.
    pub is_confirmed: bool,
    /// Its sessions.
    pub sessions: usize,
    /// Connections that are bound to its sessions; one for each session that it is bound to.
    pub connections: usize,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Confirmed clients.
    pub clients: usize,
    /// Unconfirmed clients.
    pub unconfirmed: usize,
    /// Sessions.
    pub sessions: usize,
    /// Bytes of all sessions with their slots and replies: at most
    /// [`super::SessionLimits::memory`].
    pub bytes: usize,
}

impl SessionTable {
    /// Returns all clients, in no order.
    pub fn clients(&self) -> impl Iterator<Item = SessionClientView<'_>> {
        self.clients.iter().map(|(id, client)| SessionClientView {
            client: *id,
            record: &client.record,
            address: client.peer,
            implementation: &client.implementation,
            minor_version: client.minor_version,
            is_confirmed: client.stage == ClientStage::Confirmed,
            sessions: client.sessions.len(),
            connections: client.sessions.iter().map(|id| self.bindings.of(*id).len()).sum(),
        })
    }

    /// Returns how much there is.
    pub fn counts(&self) -> SessionCounts {
        let unconfirmed = self.unconfirmed.len();
        SessionCounts {
            clients: self.clients.len() - unconfirmed,
            unconfirmed,
            sessions: self.sessions.len(),
            bytes: self.addresses.memory_used(),
        }
    }
}
