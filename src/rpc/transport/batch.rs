//! What becomes of the records that came together: answered here, or handed on to whoever may sleep
//! or has what they would wait for; counted, and their replies sent.

use std::sync::Arc;
use std::time::Instant;

use super::deferred::{
    Bundle, DeferredCall, DeferredReply, OVERHEAD, PooledCall, Shared, begin_reply, end_reply,
};
use super::outbox::Outbox;
use super::shared::SCRATCH;
use crate::rpc::pending::Pending;
use crate::rpc::record::Flow;
use crate::rpc::replay::Key;
use crate::rpc::service::{Carried, Gate, Origin, Reply, Service, Verdict};
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, Job, LanePermit, Pool};
use crate::telemetry::metrics::{Answered, Local};

/// The records that came together, and what becomes of them.
pub struct Batch<'a> {
    /// Who answers.
    pub service: &'a Arc<Service>,
    /// What the connections of the server share.
    pub shared: &'a Arc<Shared>,
    /// Where replies go.
    pub outbox: &'a Arc<Outbox>,
    /// Where the records come from.
    pub origin: Origin,
    /// When they were complete.
    pub arrived: Instant,
    /// Replies that are not sent yet.
    pub replies: &'a mut Vec<u8>,
    /// Calls for threads that may sleep.
    pub jobs: &'a mut Vec<Job<PooledCall>>,
    /// The calls whose replies are in `replies`.
    pub answered: &'a mut Vec<Answered>,
    /// Where they are counted.
    pub tally: &'a mut Local,
    /// How many calls of other threads may still be carried out, at first
    /// [`QUEUED_MAX`](crate::sched::pool::QUEUED_MAX).
    pub budget: usize,
    /// A call that waits until there is memory for its reply.
    pub deferred: Option<Vec<u8>>,
}

/// More than the header and the arguments of a call that asks for a large reply. What follows them
/// in a record is of no use to anybody, and is not kept while the call waits.
const DEFERRED_MAX: usize = 4 * 1024;

/// Copied into a buffer of its own size, and not into a large one that is used again.
const SMALL: usize = 16 * 1024;

impl Batch<'_> {
    /// Answers a record here, or copies it for a thread that may sleep.
    pub fn take(&mut self, record: &[u8]) -> Flow {
        let (left, reply) = self.answer(record);
        match left {
            Left::Nothing => {}
            Left::Deferred => return self.defer(record),
            Left::Later(key, tried) => {
                let large = record.len() > SMALL;
                let mut own = if large { self.shared.buffers.take() } else { Vec::new() };
                own.extend_from_slice(record);
                self.hand_on((own, 0), (key, reply), tried);
            }
            Left::Pending(call, pending) => self.wait(call, pending, record.len()),
        }
        self.flow(reply)
    }

    /// The same for one that fills a buffer of its own, behind its four bytes of mark.
    pub fn take_whole(&mut self, own: Vec<u8>) -> Flow {
        let (left, reply) = self.answer(&own[4..]);
        match left {
            Left::Deferred => return self.defer(&own[4..]),
            Left::Later(key, tried) => self.hand_on((own, 4), (key, reply), tried),
            left => {
                let received = own.len() - 4;
                self.shared.buffers.give(own);
                if let Left::Pending(call, pending) = left {
                    self.wait(call, pending, received);
                }
            }
        }
        self.flow(reply)
    }

    /// Answers a record, as far as that can be done here, and what stands in line behind it. Also
    /// answers how many bytes were admitted for its reply.
    fn answer(&mut self, record: &[u8]) -> (Left, usize) {
        let start = begin_reply(self.replies);
        let waiter = || Arc::clone(self.outbox) as Arc<dyn Reply>;
        let mut way =
            Way { pool: &self.shared.pool, outbox: self.outbox, tried: None, admitted: 0 };
        let verdict = self.service.answer(record, self.origin, &waiter, &mut way, self.replies);
        let Way { tried, admitted, .. } = way;
        match verdict {
            Verdict::Answered(..) | Verdict::Replayed => end_reply(self.replies, start),
            Verdict::Deferred
            | Verdict::Silent
            | Verdict::Later(_)
            | Verdict::Wait(_)
            | Verdict::Pending(..) => {
                self.replies.truncate(start);
            }
        }
        let left = match verdict {
            Verdict::Deferred => return (Left::Deferred, 0),
            Verdict::Later(key) => return (Left::Later(key, tried), admitted),
            Verdict::Pending(call, pending) => Left::Pending(call, pending),
            Verdict::Answered(procedure, status) => {
                let (received, sent) = (record.len(), self.replies.len() - start - 4);
                self.answered.push(Answered { procedure, status, received, sent });
                Left::Nothing
            }
            // Where it was read, no call may wait.
            Verdict::Replayed | Verdict::Silent | Verdict::Wait(_) => Left::Nothing,
        };
        if let Some(Ok(permit)) = tried {
            self.jobs.extend(permit.run_queued(&mut self.budget, &mut Bundle::default()));
        }
        (left, admitted)
    }

    fn defer(&mut self, record: &[u8]) -> Flow {
        self.deferred = Some(record[..record.len().min(DEFERRED_MAX)].to_vec());
        Flow::Pause
    }

    /// Hands a call on whose reply may have so many bytes.
    fn hand_on(
        &mut self,
        (record, start): (Vec<u8>, usize),
        (key, reply): (Option<Key>, usize),
        tried: Tried,
    ) {
        let (lane, admission) = match tried {
            None => (None, Admission::Unrestricted),
            Some(Ok(permit)) => (Some(permit.lane()), Admission::Granted(permit)),
            Some(Err(lane)) => (Some(lane), Admission::Required(lane)),
        };
        let owed = self.owed(OVERHEAD + record.capacity() + reply, key);
        let call = DeferredCall { owed, record, start, lane, waits: 0 };
        self.jobs.push(Job { admission, work: PooledCall::Stream(Box::new(call)) });
    }

    fn wait(&self, call: Carried, pending: Pending, received: usize) {
        self.owed(OVERHEAD, call.key).wait(call, pending, received);
    }

    fn owed(&self, bytes: usize, key: Option<Key>) -> DeferredReply {
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

    /// Whether to go on, after a call for whose reply so many bytes were admitted.
    fn flow(&mut self, admitted: usize) -> Flow {
        if self.replies.len() >= SCRATCH {
            self.push();
        }
        if admitted > 0 {
            self.outbox.account.give(admitted); // what is left of the reply is charged by now
        }
        // Nobody hears the answers to what a peer that is gone has sent.
        if self.outbox.has_room() && !self.outbox.is_broken() { Flow::Go } else { Flow::Pause }
    }

    /// Hands the jobs on, and sends the replies.
    pub fn send(&mut self) {
        self.shared.pool.run_all(self.jobs);
        if !self.replies.is_empty() {
            self.push();
        }
    }

    /// Sends the replies at hand. Their calls are counted before, so that whoever has a reply finds
    /// it counted.
    fn push(&mut self) {
        self.tally.count(self.arrived.elapsed(), self.answered);
        self.answered.clear();
        self.outbox.push(self.replies);
    }
}

/// What is left of a record that was looked at.
enum Left {
    /// Nothing: it is answered, or needs no answer.
    Nothing,
    /// Everything, until there is memory for its reply.
    Deferred,
    /// It must be tried again, with what is remembered of it.
    Later(Option<Key>, Tried),
    /// It was carried out and waits for its results.
    Pending(Carried, Pending),
}

/// What came of entering the lane of a call, if it has one.
type Tried = Option<Result<LanePermit<PooledCall>, Lane>>;

/// What stands between a call and its being tried.
struct Way<'a> {
    pool: &'a Pool<PooledCall>,
    outbox: &'a Outbox,
    tried: Tried,
    /// Bytes that were admitted for its reply.
    admitted: usize,
}

impl Gate for Way<'_> {
    fn admit(&mut self, bytes: usize) -> bool {
        let admitted = self.outbox.admit(bytes);
        self.admitted = if admitted { bytes } else { 0 };
        admitted
    }

    fn enter(&mut self, lane: Lane) -> bool {
        self.tried.insert(self.pool.enter(lane)).is_ok()
    }
}
