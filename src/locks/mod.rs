//! State of NFSv4.1 clients: opens, share reservations, byte-range locks, stateids and leases.
//!
//! ```text
//!   client --- lease, reclaim, counters          file (key of the caller)
//!     |                                            |
//!     +-- open owner --- open state ---------------+-- share counts
//!     |                    |  stateid, history     |
//!     +-- lock owner --- lock state                +-- byte ranges by lock owner
//!                             stateid
//! ```
//!
//! [`LockTable`] is the whole of it. It is pure: no I/O, no threads, no clock. Every call that
//! depends on time takes it as an [`Uptime`], and what must happen elsewhere (records on the disk,
//! descriptors to close) is returned or queued as an [`Event`]. The caller puts the table behind a
//! lock. States refer to their file by key only, and files to their opens by id only. Files could
//! therefore be split over several locks later; clients, owners and the grace period could not.
//!
//! What a session does stands elsewhere: EXCHANGE_ID and CREATE_SESSION with their cases, slots,
//! and the records on the disk. This module learns of a client when it is confirmed.
//!
//! - **Courtesy.** The state of a client with an expired lease stays until another request needs it
//!   gone. Then all of that client's state is revoked at once, and only if the request succeeds.
//! - **Bounds.** States, owners and byte ranges are bounded for each client and in total
//!   ([`LockLimits`]). Removal leaves nothing behind: a stateid that was freed is told apart by its
//!   number, which is never used again.
//! - **Rules.** A check that an RFC demands has `//= RFC <number> <section>: <rule>` above it. A
//!   test lists them, and demands a test for each section.
//! - **Cost.** A request takes the same time however many states there are. Exceptions: a LOCK looks
//!   at each lock owner of its file, and a request for more than a total limit at each client.
//!
//! Byte ranges ([`RangeTable`]) and share reservations ([`Share`]) know nothing of NFSv4 owners and
//! stateids; NLM can use them.
//!
//! There are no delegations. They would save a client OPEN, CLOSE, LOCK and revalidation of files
//! that no other client uses, at the price of recalls over the back channel, which every
//! conflicting change (of version 3 too) would have to wait for. A LOCK that conflicts is denied at
//! once, and the client polls.

mod client;
mod error;
mod event;
mod grace;
mod limits;
mod owner;
mod range;
mod range_table;
mod serial;
mod share;
mod stateid;
mod table;
#[cfg(test)]
mod tests;

pub use client::{ClientId, RecordedClient, SequenceFlags};
pub use error::{LimitKind, LockConflict, LockError};
pub use event::Event;
pub use limits::{Limit, LockCounts, LockLimits};
pub use range::{ByteRange, LockKind, LockedRange, RangeSet};
pub use range_table::RangeTable;
pub use share::{Share, ShareAccess, ShareDeny};
pub use stateid::{SpecialStateid, Stateid};
pub use table::{
    AddedClient, Claim, FileView, IoGrant, LockClientView, LockRequest, LockSettings, LockTable,
    LockTestRequest, Locker, OpenRequest, OpenView, Opened, RangeView,
};

/// Time since the server started, of a clock that never goes back and does not stop while the
/// machine sleeps.
pub type Uptime = std::time::Duration;
