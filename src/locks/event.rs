//! What a change of the table demands of its caller.

use std::sync::Arc;

use super::ClientId;

/// Something that the caller has to do. Take the events after each call that changes the table
/// ([`super::LockTable::take_events`]), and handle them before the reply goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// A file has no open any more: close its descriptors, free it if it has no name.
    Unopened(K),
    /// All state of a client was revoked: remove its record from the disk. The record must be gone
    /// before the reply, or the client could reclaim after a restart what another one has by then.
    Forget(ClientId),
    /// A client was removed without being asked for: end its sessions, remove its record.
    Removed(ClientId),
    /// The grace period ended: remove the records of these clients (their co_ownerid), which did
    /// not come back. They must be gone before the first reply that follows, as with `Forget`.
    GraceEnded {
        /// Clients that have a record from before the restart and were not seen since.
        absent: Vec<Arc<[u8]>>,
    },
}
