//! Deferred calls: calls that run on another thread than the one that read them, or whose results
//! come later.
//!
//! ```text
//!   DeferredCall --> pool --> unless_parked --> carry_out --> reply --> outbox
//!        ^                          |              | |                    ^
//!        |                          |              | +-- Pending --> results
//!        +--- resume, room again ---+              |
//!        +--- wake, after Verdict::Wait -----------+
//! ```
//!
//! Whatever happens to a call, its [`DeferredReply`] is dropped in the end. That is where the call
//! ends for its connection, its memory is given back, and a missing reply is noticed.

use std::sync::Arc;
use std::time::Instant;

use super::outbox::{Outbox, ParkedCall};
use super::shared::{self, SCRATCH};
use crate::rpc::pending::{Delay, Pending, Ready};
use crate::rpc::record::FragmentHeader;
use crate::rpc::replay::CallKey;
use crate::rpc::service::{Origin, PendingReply, RunContext, Service, Verdict};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, PoolJob, Work};
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Answered;
use crate::xdr::Encode;

/// Initial capacity of a reply, in bytes. Replies of calls that change something are shorter.
const SMALL: usize = 512;

/// How often a call may wait for something that it needs
/// ([`Outcome::Wait`](crate::rpc::program::Outcome)). Other calls may take it each time; after so
/// many times the call fails.
const WAITS_MAX: u32 = 8;

/// Memory charged for an unanswered call besides its record and its reply, in bytes.
pub const OVERHEAD: usize = 512;

/// The resources of connections, with a pool that runs deferred calls.
pub type SharedResources = shared::SharedResources<PooledCall>;

/// The reply that is owed to a deferred call. If it is dropped unanswered, which only a panic or
/// the end of the connection causes, the reply cache forgets the call and the connection is given
/// up: the client then sends the call again instead of waiting forever.
pub struct DeferredReply {
    /// Answers the call.
    pub service: Arc<Service>,
    /// The resources that all connections share.
    pub shared: Arc<SharedResources>,
    /// Sends the reply.
    pub outbox: Arc<Outbox>,
    /// The connection's addresses.
    pub origin: Origin,
    /// When the call was read.
    pub arrived: Instant,
    /// Memory that the call holds and its reply may take, in bytes.
    pub bytes: usize,
    /// Its key in the reply cache, if it has an entry there.
    pub key: Option<CallKey>,
    /// Whether the reply is written.
    pub answered: bool,
}

impl DeferredReply {
    /// Whether no client can get the reply. The client does not know whether the call was carried
    /// out, and sends it again on another connection. Carrying out the old call later would do harm
    /// if it is a WRITE, because the client may have overwritten its data meanwhile. And a peer
    /// that resets its connections must not keep the server busy with their calls.
    fn is_pointless(&self) -> bool {
        self.outbox.is_broken() && !self.key.is_some_and(|key| self.service.is_awaited(key))
    }

    /// Waits for the results without a thread, and without the record of the call.
    pub fn wait(mut self, call: PendingReply, pending: Pending, received: usize) {
        self.outbox.shrank(self.bytes.saturating_sub(OVERHEAD));
        self.bytes = self.bytes.min(OVERHEAD);
        pending.begin(Ready::new(move |status, results| {
            self.finish(call, (status, results), received);
        }));
    }

    fn finish(
        mut self,
        call: PendingReply,
        (status, results): (u32, &dyn Encode),
        received: usize,
    ) {
        let mut reply = Vec::with_capacity(SMALL);
        let at = begin_reply(&mut reply);
        if let Verdict::Answered(procedure, status) =
            self.service.finish(call, status, results, &mut reply)
        {
            end_reply(&mut reply, at);
            let call = Answered { procedure, status, received, sent: reply.len() - at - 4 };
            self.shared.metrics.count(self.arrived.elapsed(), call);
            self.answered = true;
            self.outbox.post(&mut reply);
        }
    }
}

impl Drop for DeferredReply {
    fn drop(&mut self) {
        if !self.answered {
            self.service.forget(self.key);
            self.outbox.give_up();
        }
        self.outbox.ended(self.bytes);
    }
}

/// A call that must run again.
pub struct DeferredCall {
    /// The reply that it owes.
    pub owed: DeferredReply,
    /// The buffer that holds the record.
    pub record: Vec<u8>,
    /// The offset of the record in the buffer.
    pub start: usize,
    /// The lane in which it queues.
    pub lane: Option<Lane>,
    /// How often it has waited ([`WAITS_MAX`]).
    pub waits: u32,
}

impl DeferredCall {
    /// Drops the call if no client can get its reply. Parks it if the socket takes no replies: it
    /// queues again later.
    fn unless_parked(self: Box<Self>) -> Option<Box<Self>> {
        if self.owed.is_pointless() {
            return None;
        }
        let outbox = Arc::clone(&self.owed.outbox);
        outbox.park(self)
    }

    /// Returns the call as a job that is not admitted to its lane yet.
    fn job(self: Box<Self>) -> PoolJob<PooledCall> {
        let admission = self.lane.map_or(Admission::Unrestricted, Admission::Required);
        PoolJob { admission, work: PooledCall::Stream(self) }
    }

    /// Queues the call again.
    fn requeue(self: Box<Self>) {
        let shared = Arc::clone(&self.owed.shared);
        shared.pool.run(self.job());
    }

    /// Waits without a thread until the call can run, and queues it then.
    fn wait(mut self: Box<Self>, delay: Delay) {
        self.waits += 1;
        delay.begin(Box::new(move || self.requeue()));
    }

    /// Carries out the call, and passes its reply to `send`. Returns the call if it would block and
    /// `patience` forbids that.
    fn carry_out(
        mut self: Box<Self>,
        patience: Patience,
        send: impl FnOnce(DeferredReply, &mut Vec<u8>),
    ) -> Option<Box<Self>> {
        let shared = Arc::clone(&self.owed.shared);
        let (buffers, record) = (&shared.buffers, &self.record[self.start..]);
        let mut reply = buffers.take();
        let at = begin_reply(&mut reply);
        let context =
            RunContext { origin: self.owed.origin, patience, may_wait: self.waits < WAITS_MAX };
        let verdict = self.owed.service.answer_again(record, context, self.owed.key, &mut reply);
        let received = record.len();
        match verdict {
            Verdict::Answered(procedure, status) => {
                end_reply(&mut reply, at);
                let call = Answered { procedure, status, received, sent: reply.len() - at - 4 };
                shared.metrics.count(self.owed.arrived.elapsed(), call);
            }
            Verdict::Later(_) => {
                buffers.give(reply);
                return Some(self);
            }
            Verdict::Wait(delay) => {
                buffers.give(reply);
                self.wait(delay);
                return None;
            }
            Verdict::Pending(..) | Verdict::Replayed | Verdict::Silent | Verdict::Unadmitted => {
                reply.clear();
            }
        }
        // Before the reply: the client's next call may need the buffer.
        buffers.give(self.record);
        if let Verdict::Pending(call, pending) = verdict {
            self.owed.wait(call, pending, received);
        } else {
            self.owed.answered = true;
            send(self.owed, &mut reply);
        }
        buffers.give(reply);
        None
    }
}

impl ParkedCall for DeferredCall {
    fn resume(self: Box<Self>) {
        self.requeue();
    }
}

/// A call for the threads that may block.
pub enum PooledCall {
    /// A call that came over a connection.
    Stream(Box<DeferredCall>),
    /// A call that came as a datagram.
    Datagram(Box<dyn FnOnce() + Send>),
}

impl Work for PooledCall {
    type Results = ReplyBundle;

    fn run(self) {
        match self {
            Self::Stream(call) => {
                if let Some(call) = call.unless_parked() {
                    call.carry_out(Patience::Blocking, |owed, reply| owed.outbox.push(reply));
                }
            }
            Self::Datagram(call) => call(),
        }
    }

    fn attempt(self, bundle: &mut ReplyBundle) -> Option<Self> {
        match self {
            Self::Stream(call) => {
                let call = call.unless_parked()?;
                call.carry_out(Patience::None, |owed, reply| bundle.add(owed, reply))
                    .map(Self::Stream)
            }
            Self::Datagram(_) => Some(self), // it is in no lane
        }
    }

    fn panicked() {
        tracing::error!(name: OFTEN, "a call panicked; its connection is closed");
    }
}

/// Replies of calls that ran one after the other. Consecutive replies to one connection are sent
/// together. Dropping the bundle sends the rest.
#[derive(Default)]
pub struct ReplyBundle {
    replies: Vec<u8>,
    /// The calls of these replies, of one connection. They end when the replies are sent, not
    /// before: a connection that is to end is closed once it has no calls.
    calls: Vec<DeferredReply>,
}

impl ReplyBundle {
    fn add(&mut self, call: DeferredReply, reply: &[u8]) {
        if self.calls.first().is_some_and(|first| !Arc::ptr_eq(&first.outbox, &call.outbox)) {
            self.send();
        }
        self.replies.extend_from_slice(reply);
        self.calls.push(call);
        if self.replies.len() >= SCRATCH {
            self.send();
        }
    }

    fn send(&mut self) {
        if let Some(first) = self.calls.first() {
            first.outbox.push(&mut self.replies);
        }
        self.calls.clear();
    }
}

impl Drop for ReplyBundle {
    fn drop(&mut self) {
        self.send();
    }
}

/// Leaves room for the record mark. Returns the offset at which the reply starts.
pub fn begin_reply(replies: &mut Vec<u8>) -> usize {
    let start = replies.len();
    replies.extend_from_slice(&[0; 4]);
    start
}

/// Fills in the record mark of the reply that starts at `start`.
pub fn end_reply(replies: &mut [u8], start: usize) {
    let mark = FragmentHeader::whole(replies.len() - start - 4).to_be_bytes();
    replies[start..start + 4].copy_from_slice(&mark);
}

#[cfg(test)]
mod tests;
