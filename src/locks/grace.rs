//! The grace period after a restart.
//!
//! It begins with the records of clients that were there before the restart, and ends as soon as
//! each of them has sent RECLAIM_COMPLETE, at the latest at a deadline. Without records there is
//! none.

use std::collections::HashMap;
use std::sync::Arc;

use super::{RecordedClient, Uptime};

/// A grace period that may be over.
#[derive(Debug)]
pub(super) struct Grace {
    deadline: Uptime,
    /// Clients that have not sent RECLAIM_COMPLETE, by name.
    pending: HashMap<Arc<[u8]>, AwaitedClient>,
    /// Clients whose record is void, because they have restarted.
    restarted: Vec<Arc<[u8]>>,
}

/// A client from before the restart.
#[derive(Debug)]
struct AwaitedClient {
    record: RecordedClient,
    /// Whether it was seen since.
    returned: bool,
}

impl Grace {
    /// The grace period of these clients. `None` if there are none.
    pub(super) fn begin(
        records: impl IntoIterator<Item = RecordedClient>,
        deadline: Uptime,
    ) -> Option<Self> {
        let pending = |record: RecordedClient| {
            (record.name.clone(), AwaitedClient { record, returned: false })
        };
        let pending: HashMap<_, _> = records.into_iter().map(pending).collect();
        //= RFC 8881 8.4.2.1: without clients that held state before the restart, no grace is needed
        (!pending.is_empty()).then_some(Self { deadline, pending, restarted: Vec::new() })
    }

    /// Whether there is nothing left to wait for.
    pub(super) fn is_over(&self, now: Uptime) -> bool {
        //= RFC 8881 8.4.2.1: grace may end before its time once every client has reclaimed
        now >= self.deadline || self.pending.is_empty()
    }

    /// Notes a client that was confirmed. Returns whether it may reclaim, as the same client that
    /// has the record.
    pub(super) fn client_returned(&mut self, record: &RecordedClient) -> bool {
        let Some(pending) = self.pending.get_mut(&record.name) else { return false };
        //= RFC 8881 2.10.8.3: only the principal of a client may act for it
        if pending.record.principal != record.principal {
            return false;
        }
        if pending.record.verifier == record.verifier {
            pending.returned = true;
            return true;
        }
        //= RFC 8881 2.4: another verifier means that the client restarted, and holds nothing
        self.pending.remove(&record.name);
        self.restarted.push(record.name.clone());
        false
    }

    /// Notes that a client has reclaimed what it wants.
    pub(super) fn client_complete(&mut self, name: &[u8]) {
        self.pending.remove(name);
    }

    /// The clients that did not come back as they were.
    pub(super) fn absent(self) -> Vec<Arc<[u8]>> {
        let absent = self.pending.into_values().filter(|pending| !pending.returned);
        absent.map(|pending| pending.record.name).chain(self.restarted).collect()
    }
}
