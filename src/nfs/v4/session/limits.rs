//! Settings and bounds.

use super::Uptime;
use crate::nfs::core::CALL_MAX;

/// Settings of a table. They do not change.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Number of this start of the server ([`super::store::ClientStore::epoch`]).
    pub epoch: u32,
    /// Random bytes of this start of the server ([`super::store::random_secret`]).
    pub secret: [u8; 16],
    /// Lease time. An unconfirmed client is forgotten after it.
    pub lease: Uptime,
    /// Whether requests can be sent to clients.
    pub backchannel: Backchannel,
    /// Bounds.
    pub limits: SessionLimits,
}

/// Whether requests can be sent to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backchannel {
    /// No session gets a back channel. Clients do without it: it serves delegations and
    /// notifications of locks only.
    Unavailable,
    /// A session gets a back channel if the client asks for it.
    Available,
}

/// Bounds of what clients make the server keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Unconfirmed clients; the oldest is forgotten for a new one.
    pub unconfirmed: usize,
    /// Unconfirmed clients of one address.
    pub unconfirmed_of_address: usize,
    /// Confirmed clients that addresses share. An address may have twice as many as are left, and
    /// [`SessionLimits::clients_of_address`] in any case: the lock table bounds all of them.
    pub clients: usize,
    /// Confirmed clients that any address may have.
    pub clients_of_address: usize,
    /// Sessions of one client.
    pub sessions_of_client: usize,
    /// Connections of one session; the binding of the oldest is forgotten for a new one.
    pub connections_of_session: usize,
    /// Slots of one session: requests that a client may have outstanding.
    pub slots: u32,
    /// Operations of one request.
    pub operations: u32,
    /// Bytes of a request, and of a reply, with the RPC header.
    pub message: u32,
    /// Bytes of a reply that is kept, with the RPC header.
    pub cached_reply: u32,
    /// Bytes of all sessions with their slots and replies.
    pub memory: usize,
}

impl Default for SessionLimits {
    /// Enough for large clusters. Clients of Linux ask for 8 operations, 64 slots, and kept replies
    /// of 7.5 KiB, which they never need.
    fn default() -> Self {
        Self {
            unconfirmed: 4096,
            unconfirmed_of_address: 512,
            clients: 16 << 10,
            clients_of_address: 64,
            sessions_of_client: 16,
            connections_of_session: 64,
            slots: 64,
            operations: 64,
            message: u32::try_from(CALL_MAX).expect("a call is smaller than 4 GiB"),
            cached_reply: 4096,
            memory: 128 << 20,
        }
    }
}
