//! A batch: the records that one read of a socket returned.
//!
//! Each call is answered here if it does not block, and otherwise goes to the pool or waits in its
//! lane. The replies are sent together, after their calls were counted.

use std::sync::Arc;
use std::time::Instant;

use super::deferred::{
    DeferredCall, DeferredReply, OVERHEAD, PooledCall, ReplyBundle, SharedResources, begin_reply,
    end_reply,
};
use super::outbox::Outbox;
use super::shared::SCRATCH;
use crate::rpc::pending::Pending;
use crate::rpc::record::Flow;
use crate::rpc::replay::CallKey;
use crate::rpc::service::{Gate, Origin, PendingReply, ReplySink, Service, Verdict};
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, LanePermit, Pool, PoolJob};
use crate::telemetry::metrics::{Answered, Local};

/// The state of a batch.
pub struct Batch<'a> {
    /// Answers the calls.
    pub service: &'a Arc<Service>,
    /// The resources that all connections share.
    pub shared: &'a Arc<SharedResources>,
    /// Sends the replies.
    pub outbox: &'a Arc<Outbox>,
    /// The connection's addresses.
    pub origin: Origin,
    /// When the records were read.
    pub arrived: Instant,
    /// Replies that are not sent yet.
    pub replies: &'a mut Vec<u8>,
    /// Calls for threads that may block.
    pub jobs: &'a mut Vec<PoolJob<PooledCall>>,
    /// The calls whose replies are in `replies`.
    pub answered: &'a mut Vec<Answered>,
    /// Counts the calls.
    pub tally: &'a mut Local,
    /// How many calls that queue in lanes may still be carried out here. Initially
    /// [`QUEUED_MAX`](crate::sched::pool::QUEUED_MAX).
    pub budget: usize,
    /// A call that waits until there is memory for its reply.
    pub unadmitted: Option<Vec<u8>>,
}

/// How much of a record is kept while its call waits for memory, in bytes. The header and arguments
/// of a call with a large reply are shorter; the rest of the record is unused.
const UNADMITTED_MAX: usize = 4 * 1024;

/// Records up to this size, in bytes, are copied into a buffer of their own size; larger ones into
/// a pooled buffer.
const SMALL: usize = 16 * 1024;

impl Batch<'_> {
    /// Answers a record, or copies it for a thread that may block.
    pub fn take(&mut self, record: &[u8]) -> Flow {
        let (left, reply) = self.answer(record);
        match left {
            Remainder::Nothing => {}
            Remainder::Unadmitted => return self.hold_back(record),
            Remainder::Later(key, tried) => {
                let large = record.len() > SMALL;
                let mut own = if large { self.shared.buffers.take() } else { Vec::new() };
                own.extend_from_slice(record);
                self.defer((own, 0), (key, reply), tried);
            }
            Remainder::Pending(call, pending) => self.wait(call, pending, record.len()),
        }
        self.flow(reply)
    }

    /// As [`Self::take`], for a record that has a buffer of its own, behind its four-byte mark.
    pub fn take_whole(&mut self, own: Vec<u8>) -> Flow {
        let (left, reply) = self.answer(&own[4..]);
        match left {
            Remainder::Unadmitted => return self.hold_back(&own[4..]),
            Remainder::Later(key, tried) => self.defer((own, 4), (key, reply), tried),
            left => {
                let received = own.len() - 4;
                self.shared.buffers.give(own);
                if let Remainder::Pending(call, pending) = left {
                    self.wait(call, pending, received);
                }
            }
        }
        self.flow(reply)
    }

    /// Answers a record if that does not block, then the calls that queued behind it in its lane.
    /// Also returns how many bytes of memory were admitted for its reply.
    fn answer(&mut self, record: &[u8]) -> (Remainder, usize) {
        let start = begin_reply(self.replies);
        let waiter = || Arc::clone(self.outbox) as Arc<dyn ReplySink>;
        let mut gate =
            BatchGate { pool: &self.shared.pool, outbox: self.outbox, tried: None, admitted: 0 };
        let verdict = self.service.answer(record, self.origin, &waiter, &mut gate, self.replies);
        let BatchGate { tried, admitted, .. } = gate;
        match verdict {
            Verdict::Answered(..) | Verdict::Replayed => end_reply(self.replies, start),
            Verdict::Unadmitted
            | Verdict::Silent
            | Verdict::Later(_)
            | Verdict::Wait(_)
            | Verdict::Pending(..) => {
                self.replies.truncate(start);
            }
        }
        let left = match verdict {
            Verdict::Unadmitted => return (Remainder::Unadmitted, 0),
            Verdict::Later(key) => return (Remainder::Later(key, tried), admitted),
            Verdict::Pending(call, pending) => Remainder::Pending(call, pending),
            Verdict::Answered(procedure, status) => {
                let (received, sent) = (record.len(), self.replies.len() - start - 4);
                self.answered.push(Answered { procedure, status, received, sent });
                Remainder::Nothing
            }
            // The service lets no call wait on the thread that read it.
            Verdict::Replayed | Verdict::Silent | Verdict::Wait(_) => Remainder::Nothing,
        };
        if let Some(Ok(permit)) = tried {
            self.jobs.extend(permit.run_queued(&mut self.budget, &mut ReplyBundle::default()));
        }
        (left, admitted)
    }

    /// Keeps the call until there is memory for its reply.
    fn hold_back(&mut self, record: &[u8]) -> Flow {
        self.unadmitted = Some(record[..record.len().min(UNADMITTED_MAX)].to_vec());
        Flow::Pause
    }

    /// Defers a call to the pool, or to its lane. `reply` is the maximum size of its reply.
    fn defer(
        &mut self,
        (record, start): (Vec<u8>, usize),
        (key, reply): (Option<CallKey>, usize),
        tried: LaneAttempt,
    ) {
        let (lane, admission) = match tried {
            None => (None, Admission::Unrestricted),
            Some(Ok(permit)) => (Some(permit.lane()), Admission::Granted(permit)),
            Some(Err(lane)) => (Some(lane), Admission::Required(lane)),
        };
        let owed = self.owed(OVERHEAD + record.capacity() + reply, key);
        let call = DeferredCall { owed, record, start, lane, waits: 0 };
        self.jobs.push(PoolJob { admission, work: PooledCall::Stream(Box::new(call)) });
    }

    fn wait(&self, call: PendingReply, pending: Pending, received: usize) {
        self.owed(OVERHEAD, call.key).wait(call, pending, received);
    }

    fn owed(&self, bytes: usize, key: Option<CallKey>) -> DeferredReply {
        self.outbox.started(bytes);
        DeferredReply {
            service: Arc::clone(self.service),
            shared: Arc::clone(self.shared),
            outbox: Arc::clone(self.outbox),
            origin: self.origin,
            arrived: self.arrived,
            bytes,
            key,
            answered: false,
        }
    }

    /// Returns whether to read on, after a call for whose reply `admitted` bytes were admitted.
    fn flow(&mut self, admitted: usize) -> Flow {
        if self.replies.len() >= SCRATCH {
            self.push();
        }
        if admitted > 0 {
            self.outbox.memory.give(admitted); // the unsent part of the reply is charged by now
        }
        // A peer that is gone receives no replies.
        if self.outbox.has_room() && !self.outbox.is_broken() { Flow::Go } else { Flow::Pause }
    }

    /// Queues the jobs and sends the replies.
    pub fn send(&mut self) {
        self.shared.pool.run_all(self.jobs);
        if !self.replies.is_empty() {
            self.push();
        }
    }

    /// Sends the replies. Counts their calls first: a client that has a reply finds it counted.
    fn push(&mut self) {
        self.tally.count(self.arrived.elapsed(), self.answered);
        self.answered.clear();
        self.outbox.push(self.replies);
    }
}

/// The rest of the work for a record.
enum Remainder {
    /// None: it is answered, or needs no reply.
    Nothing,
    /// All of it, once there is memory for its reply.
    Unadmitted,
    /// It must run again on another thread, with its key in the reply cache.
    Later(Option<CallKey>, LaneAttempt),
    /// It was carried out, and its results come later.
    Pending(PendingReply, Pending),
}

/// The result of entering the lane of a call, if it has one.
type LaneAttempt = Option<Result<LanePermit<PooledCall>, Lane>>;

/// Admits a call to memory and its lane before it runs.
struct BatchGate<'a> {
    pool: &'a Pool<PooledCall>,
    outbox: &'a Outbox,
    tried: LaneAttempt,
    /// Bytes that were admitted for the reply.
    admitted: usize,
}

impl Gate for BatchGate<'_> {
    fn admit(&mut self, bytes: usize) -> bool {
        let admitted = self.outbox.admit(bytes);
        self.admitted = if admitted { bytes } else { 0 };
        admitted
    }

    fn enter(&mut self, lane: Lane) -> bool {
        self.tried.insert(self.pool.enter(lane)).is_ok()
    }
}

#[cfg(test)]
mod tests;
