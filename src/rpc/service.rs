//! From a record to its reply: finds the program, remembers the answers that must be repeated.
//!
//! Knows no socket: a reply is written into a buffer, and whoever waits for the answer of a
//! repeated call is told through [`Reply`].

use std::array;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::message::{self, Header, Reject, Unfit};
use super::pending::{Delay, Pending};
use super::replay::{Key, Replay, Seen};
use super::{Call, Outcome, Program};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::names::{Procedure, Status};
use crate::xdr::{Encode, Writer};

/// Parts of the reply cache, by client, so that two clients seldom wait for each other.
const SHARDS: usize = 16;

/// Smaller replies need no room in the memory budget before their call is carried out.
const LARGE_REPLY: usize = 16 * 1024;

/// What a call needs before it is tried where it was read.
pub trait Gate {
    /// Whether there is memory for a large reply of so many bytes.
    fn admit(&mut self, bytes: usize) -> bool;

    /// Whether a call of this lane may begin.
    fn enter(&mut self, lane: Lane) -> bool;
}

/// Where a reply goes.
pub trait Reply: Send + Sync {
    /// Sends a whole reply, without its record mark.
    fn send(&self, reply: &[u8]);

    /// There will be no reply: whoever waits for it has to ask again. Only takes note, so that it
    /// may be called wherever a call ends.
    fn lost(&self);

    /// Whether there is still somebody who can get it.
    fn is_there(&self) -> bool;
}

/// Where a call came from and arrived.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's.
    pub local: SocketAddr,
}

/// How a call is carried out that was not where it was read.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Where it came from and arrived.
    pub origin: Origin,
    /// Whether it may sleep.
    pub patience: Patience,
    /// Whether it may wait for what it needs, see [`Outcome::Wait`].
    pub may_wait: bool,
}

/// What became of a record.
#[derive(Debug)]
pub enum Verdict {
    /// The reply is written; for the metrics, what was called and how it ended.
    Answered(Procedure, Status),
    /// The reply of its first copy is written again.
    Replayed,
    /// There is nothing to answer: no call, or its answer comes when its first copy is done.
    Silent,
    /// Nothing was done: there is no memory for its reply.
    Deferred,
    /// It has to be tried again where it may sleep, with what is remembered of it.
    Later(Option<Key>),
    /// It waits, and has to be tried again then. Only if it may wait.
    Wait(Delay),
    /// It was carried out, and [`Service::finish`] writes its reply when the results are there.
    Pending(Carried, Pending),
}

/// A call that was carried out and waits for its results.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// What is remembered of it, to be forgotten if the results never come.
    pub key: Option<Key>,
    xid: u32,
    program: u32,
    procedure: u32,
}

/// The programs that one set of sockets serves.
pub struct Service {
    programs: Vec<Arc<dyn Program>>,
    replay: [Mutex<Replay<Arc<dyn Reply>>>; SHARDS],
    hasher: RandomState,
    metrics: Arc<Metrics>,
}

impl Service {
    /// Serves `programs`, counts in `metrics`, and keeps so many bytes of answers for calls that
    /// are repeated.
    pub fn new(programs: Vec<Arc<dyn Program>>, metrics: Arc<Metrics>, replies: usize) -> Self {
        let replay = array::from_fn(|_| Mutex::new(Replay::new(replies / SHARDS)));
        Self { programs, replay, hasher: RandomState::new(), metrics }
    }

    /// Answers a record, as far as possible without sleeping; appends the reply to `out`.
    /// `waiter` is where the answer goes if the call is the copy of one that is running. A call
    /// that `gate` does not let through is not tried.
    pub fn answer(
        &self,
        record: &[u8],
        origin: Origin,
        waiter: &dyn Fn() -> Arc<dyn Reply>,
        gate: &mut dyn Gate,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let mut w = Writer::new(out);
        let header = match Header::decode(record) {
            Ok(header) => header,
            Err(Unfit::NoCall) => return Verdict::Silent,
            Err(Unfit::Refused(xid, why)) => {
                why.encode(xid, &mut w);
                return Verdict::Answered(Procedure::OTHER, why.status());
            }
        };
        let program = match self.program(&header) {
            Ok(program) => program,
            Err(why) => {
                why.encode(header.xid, &mut w);
                return Verdict::Answered(Procedure::OTHER, why.status());
            }
        };
        let size = program.reply_size(header.procedure, header.args);
        if size > LARGE_REPLY && !gate.admit(size) {
            return Verdict::Deferred;
        }
        let mut key = None;
        if program.remembers(header.version, header.procedure) {
            let new = self.key(record, &header, origin);
            match self.shard(new.client).begin(new, Instant::now(), waiter) {
                Seen::New => key = Some(new),
                Seen::Running => return Verdict::Silent,
                Seen::Answered(answer) => {
                    self.metrics.replayed.add(1);
                    out.extend_from_slice(answer);
                    return Verdict::Replayed;
                }
            }
        }
        match program.lane(header.procedure, header.args) {
            Some(lane) if !gate.enter(lane) => Verdict::Later(key),
            _ => {
                let how = How { origin, patience: Patience::None, may_wait: false };
                self.run(program, &header, how, key, out)
            }
        }
    }

    /// Answers a record for which [`Service::answer`] said [`Verdict::Later`]. Blocks, if it may;
    /// otherwise it may say the same again.
    pub fn answer_again(
        &self,
        record: &[u8],
        how: How,
        key: Option<Key>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let Ok(header) = Header::decode(record) else { return Verdict::Silent };
        let Ok(program) = self.program(&header) else { return Verdict::Silent };
        self.run(program, &header, how, key, out)
    }

    /// Writes the reply to a call whose results have come.
    pub fn finish(&self, call: Carried, results: &dyn Encode, out: &mut Vec<u8>) -> Verdict {
        let start = out.len();
        let mut w = Writer::new(out);
        message::success(call.xid, &mut w);
        let mark = w.mark();
        results.encode(&mut w);
        let program = self.programs.iter().find(|program| program.number() == call.program);
        let status = program.map_or(0, |program| program.status(call.procedure, w.written(mark)));
        if let Some(key) = call.key {
            Running { service: self, key }.settle(&out[start..]);
        }
        Verdict::Answered(Procedure::of(call.program, call.procedure), Status::of(status))
    }

    /// Whether somebody waits for the answer of a running call who sent a copy of it.
    pub fn is_awaited(&self, key: Key) -> bool {
        self.shard(key.client).waiting(key).iter().any(|waiter| waiter.is_there())
    }

    /// Forgets a call that was given up: it will not be tried again, or its results do not come.
    /// Those who wait for its answer are told.
    pub fn forget(&self, key: Option<Key>) {
        if let Some(key) = key {
            let waiting = self.shard(key.client).abandon(key);
            waiting.iter().for_each(|waiter| waiter.lost());
        }
    }

    fn program(&self, header: &Header<'_>) -> Result<&dyn Program, Reject> {
        let program = self.programs.iter().find(|program| program.number() == header.program);
        let program = program.ok_or(Reject::ProgramUnavailable)?.as_ref();
        let (low, high) = program.versions();
        if (low..=high).contains(&header.version) {
            Ok(program)
        } else {
            Err(Reject::ProgramMismatch(low, high))
        }
    }

    fn run(
        &self,
        program: &dyn Program,
        header: &Header<'_>,
        how: How,
        key: Option<Key>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let How { origin, patience, may_wait } = how;
        let start = out.len();
        let running = key.map(|key| Running { service: self, key });
        let call = Call {
            version: header.version,
            procedure: header.procedure,
            args: header.args,
            credentials: header.credentials,
            peer: origin.peer,
            local: origin.local,
            patience,
            may_wait,
        };
        let mut w = Writer::new(out);
        message::success(header.xid, &mut w);
        let results = w.mark();
        let rejected = match program.call(&call, &mut w) {
            Outcome::Done => None,
            Outcome::Later if patience == Patience::None => {
                out.truncate(start);
                std::mem::forget(running); // it goes on, elsewhere
                return Verdict::Later(key);
            }
            Outcome::Wait(delay) if may_wait => {
                out.truncate(start);
                std::mem::forget(running);
                return Verdict::Wait(delay);
            }
            Outcome::Later | Outcome::Wait(_) => Some(Reject::SystemError),
            Outcome::Pending(pending) => {
                out.truncate(start);
                std::mem::forget(running);
                let Header { xid, program, procedure, .. } = *header;
                return Verdict::Pending(Carried { key, xid, program, procedure }, pending);
            }
            Outcome::Unavailable => Some(Reject::ProcedureUnavailable),
            Outcome::Garbage => Some(Reject::GarbageArgs),
        };
        let status = match rejected {
            None => Status::of(program.status(header.procedure, w.written(results))),
            Some(why) => {
                out.truncate(start);
                why.encode(header.xid, &mut Writer::new(out));
                why.status()
            }
        };
        if let Some(running) = running {
            running.settle(&out[start..]);
        }
        Verdict::Answered(Procedure::of(header.program, header.procedure), status)
    }

    fn key(&self, record: &[u8], header: &Header<'_>, origin: Origin) -> Key {
        Key {
            client: origin.peer.ip().to_canonical(),
            xid: header.xid,
            procedure: header.procedure,
            checksum: self.hasher.hash_one(record),
        }
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Replay<Arc<dyn Reply>>> {
        #[allow(clippy::cast_possible_truncation)] // below SHARDS
        let index = (self.hasher.hash_one(client) % SHARDS as u64) as usize;
        // Every step of the cache leaves it whole, so that a panic in one does not spoil it.
        self.replay[index].lock()
    }
}

/// A remembered call that is being carried out. Dropped without an answer, which only a panic
/// does, it is forgotten, so that a copy of it is carried out instead of waiting for ever, and
/// those that wait are told.
struct Running<'a> {
    service: &'a Service,
    key: Key,
}

impl Running<'_> {
    /// Keeps the answer and sends it to those who wait for it.
    fn settle(self, answer: &[u8]) {
        let waiting = self.service.shard(self.key.client).finish(self.key, Instant::now(), answer);
        for waiter in waiting {
            self.service.metrics.replayed.add(1);
            waiter.send(answer);
        }
        std::mem::forget(self);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.service.forget(Some(self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Its procedure has to sleep; then it panics, or waits for as long as it may.
    struct Unlucky {
        panics: bool,
    }

    impl Program for Unlucky {
        fn number(&self) -> u32 {
            7
        }

        fn versions(&self) -> (u32, u32) {
            (1, 1)
        }

        fn remembers(&self, _version: u32, _procedure: u32) -> bool {
            true
        }

        fn call(&self, call: &Call<'_>, _out: &mut Writer<'_>) -> Outcome {
            match call.patience {
                Patience::None => Outcome::Later,
                Patience::Blocking if self.panics => {
                    std::panic::resume_unwind(Box::new("on purpose"))
                }
                Patience::Blocking if call.may_wait => Outcome::Wait(Delay::new(|wake| wake())),
                Patience::Blocking => Outcome::Done,
            }
        }
    }

    struct Open;

    impl Gate for Open {
        fn admit(&mut self, _bytes: usize) -> bool {
            true
        }

        fn enter(&mut self, _lane: Lane) -> bool {
            true
        }
    }

    #[derive(Default)]
    struct Waiter {
        sent: AtomicUsize,
        lost: AtomicUsize,
    }

    impl Reply for Waiter {
        fn send(&self, _reply: &[u8]) {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }

        fn lost(&self) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }

        fn is_there(&self) -> bool {
            self.lost.load(Ordering::Relaxed) == 0
        }
    }

    /// Has a call and a copy of it come, the first one end, and another copy come; answers what
    /// became of that, and of those who waited.
    fn check(
        panics: bool,
        end: impl FnOnce(&Service, &[u8], Origin, Option<Key>),
    ) -> (Verdict, Arc<Waiter>) {
        let service = Service::new(vec![Arc::new(Unlucky { panics })], Arc::default(), 1 << 20);
        let mut record = Vec::new();
        let mut w = Writer::new(&mut record);
        [1, 0, 2, 7, 1, 1, 0, 0, 0, 0].into_iter().for_each(|word| w.u32(word));
        let here = SocketAddr::from(([127, 0, 0, 1], 700));
        let origin = Origin { peer: here, local: here };
        let waiter = Arc::<Waiter>::default();
        let answer = || {
            let waiter = || Arc::clone(&waiter) as Arc<dyn Reply>;
            service.answer(&record, origin, &waiter, &mut Open, &mut Vec::new())
        };
        let Verdict::Later(key) = answer() else { panic!("the first copy is put off") };
        assert!(matches!(answer(), Verdict::Silent), "the second waits for the first");
        end(&service, &record, origin, key);
        (answer(), waiter)
    }

    #[track_caller]
    fn check_lost((third, waiter): (Verdict, Arc<Waiter>)) {
        assert_eq!(waiter.lost.load(Ordering::Relaxed), 1);
        assert!(matches!(third, Verdict::Later(Some(_))), "the third is carried out");
    }

    #[test]
    fn a_call_is_awaited_as_long_as_somebody_waits_who_is_there() {
        check(true, |service, _, _, key| {
            let key = key.unwrap();
            assert!(service.is_awaited(key));
            service.shard(key.client).waiting(key).iter().for_each(|waiter| waiter.lost());
            assert!(!service.is_awaited(key));
            service.forget(Some(key));
            assert!(!service.is_awaited(key), "it does not run any more");
        });
    }

    #[test]
    fn who_waits_for_a_call_that_is_forgotten_is_told() {
        check_lost(check(true, |service, _, _, key| service.forget(key)));
    }

    #[test]
    fn who_waits_for_a_call_that_panics_is_told() {
        check_lost(check(true, |service, record, origin, key| {
            let how = How { origin, patience: Patience::Blocking, may_wait: true };
            let call = || service.answer_again(record, how, key, &mut Vec::new());
            catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        }));
    }

    #[test]
    fn a_call_that_waits_goes_on_to_be_the_one_that_is_answered() {
        let (third, waiter) = check(false, |service, record, origin, key| {
            let mut reply = Vec::new();
            let mut again = |may_wait| {
                let how = How { origin, patience: Patience::Blocking, may_wait };
                service.answer_again(record, how, key, &mut reply)
            };
            assert!(matches!(again(true), Verdict::Wait(_)));
            assert!(matches!(again(true), Verdict::Wait(_)));
            assert!(matches!(again(false), Verdict::Answered(..)));
        });
        assert_eq!(waiter.sent.load(Ordering::Relaxed), 1);
        assert!(matches!(third, Verdict::Replayed));
    }
}
