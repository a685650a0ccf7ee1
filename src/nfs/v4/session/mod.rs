//! Clients and sessions of NFSv4.1 (RFC 8881 sections 2.4 and 2.10).
//!
//! ```text
//!   EXCHANGE_ID      --> client, unconfirmed --CREATE_SESSION--> client, confirmed
//!                          | after a lease,                      | DESTROY_CLIENTID, new instance,
//!                          v or pushed out                       v remove_client
//!                         gone                                  gone
//!
//!   CREATE_SESSION   --> session: limits of its requests, connections
//!   SEQUENCE         --> slot --> RunningRequest --complete--> reply kept or not
//!                         |             '--abandon--> as before
//!                         '--> the kept reply, to a request that is sent again
//! ```
//!
//! [`SessionTable`] is all of it, without I/O and without a clock: calls that depend on time take
//! it as an [`Uptime`]. The caller puts the table behind a lock. A [`RunningRequest`] does not need
//! that lock: it refers to its session, whose slots have a lock of their own. That lock is taken
//! after the one of the table.
//!
//! [`store`] is apart: what the disk keeps, so that clients can reclaim after a restart.
//!
//! What a client holds, until when, and whether it may reclaim (leases, the grace period,
//! RECLAIM_COMPLETE, sr_status_flags) is up to the lock table. This module knows it by
//! [`ClientId`], and asks the caller for the rest: [`HeldState`].
//!
//! - **Bounds.** Unconfirmed clients, sessions of a client, connections of a session, slots, and
//!   the bytes of all slots with their replies ([`SessionLimits`]). Clients and bytes are shared by
//!   address: one address leaves room for others.
//! - **Ids.** Client ids begin with the epoch: no id is issued again after a restart.
//!   The rest, and session ids, cannot be guessed: whoever knows them can act for the client,
//!   because AUTH_SYS proves nothing.
//! - **Rules.** A check that an RFC demands has a line `//= RFC <number> <section>: <rule>` above
//!   it, and a test has `//= test RFC <number> <section>`. A test compares both lists.
//!
//! Not supported: SP4_MACH_CRED and SP4_SSV (they need RPCSEC_GSS), persistent sessions, RDMA, and
//! for now the back channel ([`Backchannel`]).

mod address;
mod bind;
mod channel;
mod client;
mod create;
mod destroy;
mod error;
mod exchange;
mod id;
mod limits;
mod memory;
mod principal;
mod running;
mod sequence;
mod slots;
pub mod store;
mod table;
mod unconfirmed;
mod view;

#[cfg(test)]
mod tests;

pub use crate::locks::{ClientId, Uptime};
pub use bind::{BindRequest, BoundDirection, DirectionRequest};
pub use channel::ChannelAttrs;
pub use client::{ClientRecord, HeldState};
pub use create::{Confirmation, CreateSession, CreatedSession};
pub use destroy::RemovedClient;
pub use error::SessionError;
pub use exchange::{ExchangeId, ExchangedId, StateProtection};
pub use id::{ConnectionId, SessionId};
pub use limits::{Backchannel, SessionLimits, SessionSettings};
pub use principal::Principal;
pub use running::{RunningRequest, Session};
pub use sequence::{SequenceOutcome, SequenceReply, SequenceRequest};
pub use slots::Suspension;
pub use table::{Caller, SessionTable};
pub use view::{SessionClientView, SessionCounts};
