//! What becomes of the records that came together: answered here, or handed on to whoever may sleep or
//! has what they would wait for; counted, and their replies sent.

use std::sync::Arc;
use std::time::Instant;

use super::connection::{SCRATCH, Shared};
use super::handed::{Bundle, Handed, PutOff, begin_reply, end_reply};
use super::lanes::Lane;
use super::link::Link;
use super::pending::Pending;
use super::pool::{Job, Place, Stand};
use super::record::Flow;
use super::replay::Key;
use super::service::{Carried, Origin, Reply, Service, Verdict};
use crate::telemetry::metrics::{Answered, Local};

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
    /// How much may still be done for other threads: at first [`SERVED`](super::pool::SERVED).
    pub budget: usize,
}

impl Batch<'_> {
    /// Answers a record here, or copies it for a thread that may sleep.
    pub fn take(&mut self, record: &[u8]) -> Flow {
        match self.answer(record) {
            Left::Nothing => {}
            Left::Later(key, tried) => {
                let mut own = self.shared.buffers.take();
                own.extend_from_slice(record);
                self.hand_on((own, 0), key, tried);
            }
            Left::Pending(call, pending) => self.wait(call, pending, record.len()),
        }
        self.flow()
    }

    /// The same for one that fills a buffer of its own, behind its four bytes of mark.
    pub fn take_whole(&mut self, own: Vec<u8>) -> Flow {
        match self.answer(&own[4..]) {
            Left::Later(key, tried) => self.hand_on((own, 4), key, tried),
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

    /// Answers a record, as far as that can be done here, and what stands in line behind it.
    fn answer(&mut self, record: &[u8]) -> Left {
        let start = begin_reply(self.replies);
        let waiter = || Arc::clone(self.link) as Arc<dyn Reply>;
        let (pool, mut tried) = (&self.shared.pool, None);
        let mut enter = |lane| tried.insert(pool.enter(lane)).is_ok();
        let verdict = self.service.answer(record, self.origin, &waiter, &mut enter, self.replies);
        match verdict {
            Verdict::Answered(..) | Verdict::Replayed => end_reply(self.replies, start),
            Verdict::Silent | Verdict::Later(_) | Verdict::Pending(..) => {
                self.replies.truncate(start);
            }
        }
        let left = match verdict {
            Verdict::Later(key) => return Left::Later(key, tried),
            Verdict::Pending(call, pending) => Left::Pending(call, pending),
            Verdict::Answered(procedure, status) => {
                let (received, sent) = (record.len(), self.replies.len() - start - 4);
                self.answered.push(Answered { procedure, status, received, sent });
                Left::Nothing
            }
            Verdict::Replayed | Verdict::Silent => Left::Nothing,
        };
        if let Some(Ok(place)) = tried {
            self.jobs.extend(place.serve(&mut self.budget, &mut Bundle::default()));
        }
        left
    }

    fn hand_on(&mut self, (record, start): (Vec<u8>, usize), key: Option<Key>, tried: Tried) {
        let (lane, stand) = match tried {
            None => (None, Stand::Nowhere),
            Some(Ok(place)) => (Some(place.lane()), Stand::Begun(place)),
            Some(Err(lane)) => (Some(lane), Stand::InLine(lane)),
        };
        let handed = self.handed(record.len(), key);
        self.jobs.push(Job { stand, work: Box::new(PutOff { handed, record, start, lane }) });
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
    /// It must be tried again, with what is remembered of it.
    Later(Option<Key>, Tried),
    /// It was carried out and waits for its results.
    Pending(Carried, Pending),
}

/// What came of entering the lane of a call, if it has one.
type Tried = Option<Result<Place, Lane>>;
