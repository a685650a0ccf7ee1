//! What becomes of the records that came together: answered here, or handed to a thread that may
//! sleep; counted, and their replies sent.

use std::sync::Arc;
use std::time::Instant;

use super::connection::{SCRATCH, Shared};
use super::link::Link;
use super::pending::{Pending, Ready};
use super::pool::{Job, Lane};
use super::record::{Flow, Header};
use super::replay::Key;
use super::service::{Carried, Origin, Reply, Service, Verdict};
use crate::telemetry::metrics::{Answered, Local};
use crate::xdr::Encode;

/// Longer than the replies of calls that change something.
const SMALL: usize = 512;

/// The records that came together, and what becomes of them.
pub struct Batch<'a> {
    /// Who answers.
    pub service: &'a Arc<Service>,
    /// What the connections of the server share.
    pub shared: &'a Arc<Shared>,
    /// Where replies go.
    pub link: &'a Arc<Link>,
    /// Where the records come from.
    pub origin: Origin,
    /// When they were complete.
    pub arrived: Instant,
    /// Replies that are not sent yet.
    pub replies: &'a mut Vec<u8>,
    /// Calls for threads that may sleep.
    pub jobs: &'a mut Vec<Job>,
    /// The calls whose replies are in `replies`.
    pub answered: &'a mut Vec<Answered>,
    /// Where they are counted.
    pub tally: &'a mut Local,
}

impl Batch<'_> {
    /// Answers a record here, or copies it for a thread that may sleep.
    pub fn take(&mut self, record: &[u8]) -> Flow {
        match self.answer(record) {
            Left::Nothing => {}
            Left::Later(put_off) => {
                let mut own = self.shared.buffers.take();
                own.extend_from_slice(record);
                self.hand_on(own, 0, put_off);
            }
            Left::Pending(call, pending) => self.wait(call, pending, record.len()),
        }
        self.flow()
    }

    /// The same for one that fills a buffer of its own, behind its four bytes of mark.
    pub fn take_whole(&mut self, own: Vec<u8>) -> Flow {
        match self.answer(&own[4..]) {
            Left::Later(put_off) => self.hand_on(own, 4, put_off),
            left => {
                let received = own.len() - 4;
                self.shared.buffers.give(own);
                if let Left::Pending(call, pending) = left {
                    self.wait(call, pending, received);
                }
            }
        }
        self.flow()
    }

    /// Answers a record, as far as that can be done here.
    fn answer(&mut self, record: &[u8]) -> Left {
        let start = begin_reply(self.replies);
        let waiter = || Arc::clone(self.link) as Arc<dyn Reply>;
        match self.service.answer(record, self.origin, &waiter, self.replies) {
            Verdict::Answered(procedure, status) => {
                end_reply(self.replies, start);
                let (received, sent) = (record.len(), self.replies.len() - start - 4);
                self.answered.push(Answered { procedure, status, received, sent });
            }
            Verdict::Replayed => end_reply(self.replies, start),
            Verdict::Silent => self.replies.truncate(start),
            Verdict::Later(key, lane) => {
                self.replies.truncate(start);
                return Left::Later(PutOff { key, lane });
            }
            Verdict::Pending(call, pending) => {
                self.replies.truncate(start);
                return Left::Pending(call, pending);
            }
        }
        Left::Nothing
    }

    fn hand_on(&mut self, record: Vec<u8>, start: usize, PutOff { key, lane }: PutOff) {
        let handed = self.handed(record.len(), key);
        let work = Box::new(move || handed.start(record, start, lane));
        self.jobs.push(Job { lane, work });
    }

    fn wait(&self, call: Carried, pending: Pending, received: usize) {
        self.handed(0, call.key).wait(call, pending, received);
    }

    fn handed(&self, bytes: usize, key: Option<Key>) -> Handed {
        self.link.started(bytes);
        Handed {
            service: Arc::clone(self.service),
            shared: Arc::clone(self.shared),
            link: Arc::clone(self.link),
            origin: self.origin,
            arrived: self.arrived,
            bytes,
            key,
            answered: false,
        }
    }

    fn flow(&mut self) -> Flow {
        if self.replies.len() >= SCRATCH {
            self.push();
        }
        if self.link.has_room() { Flow::Go } else { Flow::Pause }
    }

    /// Hands the jobs on, and sends the replies.
    pub fn send(&mut self) {
        self.shared.pool.run(self.jobs);
        if !self.replies.is_empty() {
            self.push();
        }
    }

    /// Sends the replies at hand. Their calls are counted before, so that whoever has a reply finds
    /// it counted.
    fn push(&mut self) {
        self.tally.count(self.arrived.elapsed(), self.answered);
        self.answered.clear();
        self.link.push(self.replies);
    }
}

/// What is left of a record that was looked at.
enum Left {
    /// Nothing: it is answered, or needs no answer.
    Nothing,
    /// It must be tried again where it may sleep.
    Later(PutOff),
    /// It was carried out and waits for its results.
    Pending(Carried, Pending),
}

/// A call that is tried again: what is remembered of it, and those that it would wait for.
struct PutOff {
    key: Option<Key>,
    lane: Option<Lane>,
}

/// A call that the pool has, or that waits for its results. Dropped without an answer, which only a
/// panic or the end of the connection does, it is forgotten and the connection given up, so that the
/// client asks again instead of waiting for ever.
struct Handed {
    service: Arc<Service>,
    shared: Arc<Shared>,
    link: Arc<Link>,
    origin: Origin,
    arrived: Instant,
    bytes: usize,
    key: Option<Key>,
    answered: bool,
}

impl Handed {
    /// Runs the call once its reply may be sent.
    fn start(self, record: Vec<u8>, start: usize, lane: Option<Lane>) {
        let link = Arc::clone(&self.link);
        let work = Box::new(move || self.run(record, start));
        if let Some(job) = link.park(Job { lane, work }) {
            (job.work)();
        }
    }

    fn run(mut self, record: Vec<u8>, start: usize) {
        let buffers = &self.shared.buffers;
        let mut reply = buffers.take();
        let at = begin_reply(&mut reply);
        match self.service.answer_later(&record[start..], self.origin, self.key, &mut reply) {
            Verdict::Answered(procedure, status) => {
                end_reply(&mut reply, at);
                let (received, sent) = (record.len() - start, reply.len() - at - 4);
                let call = Answered { procedure, status, received, sent };
                self.shared.metrics.count(self.arrived.elapsed(), call);
            }
            Verdict::Pending(call, pending) => {
                let received = record.len() - start;
                buffers.give(record);
                buffers.give(reply);
                return self.wait(call, pending, received);
            }
            Verdict::Replayed | Verdict::Silent | Verdict::Later(..) => reply.clear(),
        }
        self.answered = true;
        // Before the reply, so that the buffer is there for the client's next call.
        buffers.give(record);
        self.link.push(&mut reply);
        buffers.give(reply);
    }

    /// Waits for the results, with nothing kept of the call but where they go.
    fn wait(mut self, call: Carried, pending: Pending, received: usize) {
        self.link.shrank(std::mem::take(&mut self.bytes));
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
            self.link.post(&mut reply);
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if !self.answered {
            self.service.forget(self.key);
            self.link.give_up();
        }
        self.link.ended(self.bytes);
    }
}

/// Leaves room for the record mark; answers where the reply starts.
fn begin_reply(replies: &mut Vec<u8>) -> usize {
    let start = replies.len();
    replies.extend_from_slice(&[0; 4]);
    start
}

/// Fills in the mark of the reply that started at `start`.
fn end_reply(replies: &mut [u8], start: usize) {
    let mark = Header::whole(replies.len() - start - 4).to_be_bytes();
    replies[start..start + 4].copy_from_slice(&mark);
}
