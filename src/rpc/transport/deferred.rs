//! Calls that are not answered where they were read: handed to another thread, or waiting for
//! results.

use std::sync::Arc;
use std::time::Instant;

use super::outbox::{Outbox, Parked};
use super::shared::{self, SCRATCH};
use crate::rpc::pending::{Delay, Pending, Ready};
use crate::rpc::record::Header;
use crate::rpc::replay::Key;
use crate::rpc::service::{Carried, How, Origin, Service, Verdict};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, Job, Work};
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Answered;
use crate::xdr::Encode;

/// Longer than the replies of calls that change something.
const SMALL: usize = 512;

/// How often a call may wait for what it needs ([`Outcome::Wait`](super::Outcome::Wait)). Others
/// that wait for the same may take it each time; whoever has come so late that often is told that
/// there is none.
const WAITS_MAX: u32 = 8;

/// What is charged for a call that is not answered yet, besides its record and its reply, in bytes.
pub const OVERHEAD: usize = 512;

/// What the connections share, with a pool that carries out deferred calls.
pub type Shared = shared::Shared<PooledCall>;

/// A call that another thread has, or that waits for its results. Dropped without an answer, which
/// only a panic or the end of the connection does, it is forgotten and the connection given up, so
/// that the client asks again instead of waiting for ever.
pub struct DeferredReply {
    /// Who answers.
    pub service: Arc<Service>,
    /// What the connections of the server share.
    pub shared: Arc<Shared>,
    /// Where the reply goes.
    pub outbox: Arc<Outbox>,
    /// Where the call comes from.
    pub origin: Origin,
    /// When it was complete.
    pub arrived: Instant,
    /// What it holds, and what its reply may have, in bytes.
    pub bytes: usize,
    /// What is remembered of it.
    pub key: Option<Key>,
    /// Whether its reply is written.
    pub answered: bool,
}

impl DeferredReply {
    /// Whether nobody can be answered. The client does not know whether the call was carried out,
    /// and sends it again on another connection. For a WRITE, to carry out the old one later would
    /// do harm: the client may have overwritten its data by then. And a peer that resets its
    /// connections must not keep the server busy with their calls.
    fn is_pointless(&self) -> bool {
        self.outbox.is_broken() && !self.key.is_some_and(|key| self.service.is_awaited(key))
    }

    /// Waits for the results, with nothing kept of the call but where they go.
    pub fn wait(mut self, call: Carried, pending: Pending, received: usize) {
        self.outbox.shrank(self.bytes.saturating_sub(OVERHEAD));
        self.bytes = self.bytes.min(OVERHEAD);
        pending.begin(Ready::new(move |results| self.finish(call, results, received)));
    }

    fn finish(mut self, call: Carried, results: &dyn Encode, received: usize) {
        let mut reply = Vec::with_capacity(SMALL);
        let at = begin_reply(&mut reply);
        if let Verdict::Answered(procedure, status) = self.service.finish(call, results, &mut reply)
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

/// A call that has to be tried again.
pub struct DeferredCall {
    /// Whose it is.
    pub owed: DeferredReply,
    /// A buffer with the record.
    pub record: Vec<u8>,
    /// Where in it the record starts.
    pub start: usize,
    /// Where it stands in line if it cannot run in its turn.
    pub lane: Option<Lane>,
    /// How often it has waited for what it needs.
    pub waits: u32,
}

impl DeferredCall {
    /// Drops the call if it is pointless. Keeps it if its reply may not be sent: it stands in line
    /// again then.
    fn unless_parked(self: Box<Self>) -> Option<Box<Self>> {
        if self.owed.is_pointless() {
            return None;
        }
        let outbox = Arc::clone(&self.owed.outbox);
        outbox.park(self)
    }

    /// The call as a job that has yet to come to its turn.
    fn job(self: Box<Self>) -> Job<PooledCall> {
        let admission = self.lane.map_or(Admission::Unrestricted, Admission::Required);
        Job { admission, work: PooledCall::Stream(self) }
    }

    /// Has the call wait for its turn again.
    fn requeue(self: Box<Self>) {
        let shared = Arc::clone(&self.owed.shared);
        shared.pool.run(self.job());
    }

    /// Waits for what the call needs, with all that is kept of it, and has it carried out then.
    fn wait(mut self: Box<Self>, delay: Delay) {
        self.waits += 1;
        delay.begin(Box::new(move || self.requeue()));
    }

    /// Carries the call out, and gives what there is to be sent to `send`; gives the call back if
    /// it would have to sleep and must not.
    fn carry_out(
        mut self: Box<Self>,
        patience: Patience,
        send: impl FnOnce(DeferredReply, &mut Vec<u8>),
    ) -> Option<Box<Self>> {
        let shared = Arc::clone(&self.owed.shared);
        let (buffers, record) = (&shared.buffers, &self.record[self.start..]);
        let mut reply = buffers.take();
        let at = begin_reply(&mut reply);
        let how = How { origin: self.owed.origin, patience, may_wait: self.waits < WAITS_MAX };
        let verdict = self.owed.service.answer_again(record, how, self.owed.key, &mut reply);
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
            Verdict::Pending(..) | Verdict::Replayed | Verdict::Silent | Verdict::Deferred => {
                reply.clear();
            }
        }
        // Before the reply, so that the buffer is there for the client's next call.
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

impl Parked for DeferredCall {
    fn resume(self: Box<Self>) {
        self.requeue();
    }
}

/// A call for the threads that may block.
pub enum PooledCall {
    /// It came over a connection.
    Stream(Box<DeferredCall>),
    /// It came as a datagram.
    Datagram(Box<dyn FnOnce() + Send>),
}

impl Work for PooledCall {
    type Bundle = Bundle;

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

    fn attempt(self, bundle: &mut Bundle) -> Option<Self> {
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

/// Replies that were written one after the other; those to one connection are sent together.
/// Dropping it sends what is left.
#[derive(Default)]
pub struct Bundle {
    replies: Vec<u8>,
    /// The calls that these answer, of one connection. They end when that is sent, and not before:
    /// their connection would be closed if it has no others.
    calls: Vec<DeferredReply>,
}

impl Bundle {
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

impl Drop for Bundle {
    fn drop(&mut self) {
        self.send();
    }
}

/// Leaves room for the record mark; answers where the reply starts.
pub fn begin_reply(replies: &mut Vec<u8>) -> usize {
    let start = replies.len();
    replies.extend_from_slice(&[0; 4]);
    start
}

/// Fills in the mark of the reply that started at `start`.
pub fn end_reply(replies: &mut [u8], start: usize) {
    let mark = Header::whole(replies.len() - start - 4).to_be_bytes();
    replies[start..start + 4].copy_from_slice(&mark);
}
