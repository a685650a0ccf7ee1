//! Clients, and which of them have an owner.

use std::net::IpAddr;
use std::sync::Arc;

use super::unconfirmed::QueuePlace;
use super::{ClientId, CreatedSession, Principal, SessionId};
use crate::rpc::address::Address;

/// What identifies a client across a restart of the server. The disk keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// co_ownerid of EXCHANGE_ID.
    pub owner: Arc<[u8]>,
    /// Principal that has confirmed the client.
    pub principal: Principal,
    /// co_verifier of EXCHANGE_ID: another one after the client has restarted.
    pub verifier: [u8; 8],
}

/// What a client holds, as the lock table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// Neither opens nor locks.
    Nothing,
    /// Opens or locks, and the lease has not expired.
    Live,
    /// The lease has expired, whatever the client holds.
    Expired,
}

/// A client.
#[derive(Debug)]
pub(super) struct SessionClient {
    pub(super) record: ClientRecord,
    pub(super) stage: ClientStage,
    /// Address of its EXCHANGE_ID.
    pub(super) peer: IpAddr,
    /// By what it is counted.
    pub(super) address: Address,
    /// The slot of CREATE_SESSION.
    pub(super) create: CreateSlot,
    pub(super) sessions: Vec<SessionId>,
    /// Name of the implementation (nii_name), cut to a bounded length. May be empty.
    pub(super) implementation: Box<[u8]>,
    pub(super) minor_version: u32,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientStage {
    /// EXCHANGE_ID only.
    Unconfirmed(QueuePlace),
    /// It has created a session.
    Confirmed,
}

/// The slot of CREATE_SESSION, which each client has apart from its sessions.
#[derive(Debug, Default)]
pub(super) struct CreateSlot {
    /// Sequence number of the last CREATE_SESSION that succeeded. The first one has number 1.
    pub(super) sequence: u32,
    /// Its reply.
    pub(super) reply: Option<CreatedSession>,
}

/// The clients with one owner: at most one of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnerClients {
    pub(super) confirmed: Option<ClientId>,
    pub(super) unconfirmed: Option<ClientId>,
}

impl OwnerClients {
    /// Returns the place of a client in a stage.
    pub(super) const fn place(&mut self, stage: ClientStage) -> &mut Option<ClientId> {
        match stage {
            ClientStage::Unconfirmed(_) => &mut self.unconfirmed,
            ClientStage::Confirmed => &mut self.confirmed,
        }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.confirmed.is_none() && self.unconfirmed.is_none()
    }
}
