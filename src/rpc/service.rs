//! From a record to its reply: finds the program, classifies the call, and keeps the replies that
//! retransmissions must get.
//!
//! This module knows no socket. Replies are written into buffers; a retransmission that waits for
//! the reply of its first copy gets it through a [`ReplySink`].

use std::array;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::message::{self, CallHeader, HeaderError, Rejection};
use super::pending::{Delay, Pending};
use super::program::{Call, Outcome, Program, Retransmission};
use super::replay::{CallKey, Lookup, ReplyCache};
use super::served::ServedProgram;
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::names::{ProcedureLabel, StatusLabel};
use crate::xdr::{Encode, Writer};

/// Independently locked parts of the reply cache, by client, so that clients seldom contend.
const SHARDS: usize = 16;

/// Replies up to this size, in bytes, are not charged to the memory budget before their call runs.
const LARGE_REPLY: usize = 16 * 1024;

/// Admits a call before it is tried on the thread that read it.
pub trait Gate {
    /// Whether the memory budget has room for a large reply of so many bytes.
    fn admit(&mut self, bytes: usize) -> bool;

    /// Whether a call of this lane may begin.
    fn enter(&mut self, lane: Lane) -> bool;
}

/// Where a reply goes.
pub trait ReplySink: Send + Sync {
    /// Sends a whole reply, without its record mark.
    fn send(&self, reply: &[u8]);

    /// Notes that there will be no reply: the client has to send the call again. Does not block and
    /// takes no lock, so it may be called wherever a call ends.
    fn mark_lost(&self);

    /// Whether a reply may still reach the client.
    fn is_reachable(&self) -> bool;
}

/// The addresses of a call.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's.
    pub local: SocketAddr,
}

/// How a call runs.
#[derive(Clone, Copy, Debug)]
pub struct RunContext {
    /// The addresses of the call.
    pub origin: Origin,
    /// Whether it may block.
    pub patience: Patience,
    /// Whether it may wait for what it needs ([`Outcome::Wait`]).
    pub may_wait: bool,
}

/// The result for a record.
#[derive(Debug)]
pub enum Verdict {
    /// The reply is written. For the metrics: the procedure and the status.
    Answered(ProcedureLabel, StatusLabel),
    /// The call is a retransmission; the reply of its first copy is written.
    Replayed,
    /// There is nothing to send: the record is no call, or the reply follows when the first copy of
    /// the call is done.
    Silent,
    /// Nothing was done, because there is no memory for the reply.
    Unadmitted,
    /// The call must run again where it may block, with its key in the reply cache.
    Later(Option<CallKey>),
    /// The call must run again when what it needs is available. Only with
    /// [`RunContext::may_wait`].
    Wait(Delay),
    /// The call was carried out. [`Service::finish`] writes its reply when it has its results.
    Pending(PendingReply, Pending),
}

/// Identifies the reply to a call that was carried out and waits for its results.
#[derive(Clone, Copy, Debug)]
pub struct PendingReply {
    /// The key in the reply cache, to be forgotten if there will be no results.
    pub key: Option<CallKey>,
    xid: u32,
    procedure: ProcedureLabel,
}

/// The programs that one set of sockets serves.
pub struct Service {
    programs: Vec<ServedProgram>,
    replies: [Mutex<ReplyCache<Arc<dyn ReplySink>>>; SHARDS],
    hasher: RandomState,
    metrics: Arc<Metrics>,
}

impl Service {
    /// Serves `programs` and counts their calls in `metrics`. The reply cache has
    /// `reply_cache_bytes`.
    pub fn new(
        programs: Vec<Arc<dyn Program>>,
        metrics: Arc<Metrics>,
        reply_cache_bytes: usize,
    ) -> Self {
        let programs =
            programs.into_iter().map(|program| ServedProgram::new(program, &metrics)).collect();
        let replies = array::from_fn(|_| Mutex::new(ReplyCache::new(reply_cache_bytes / SHARDS)));
        Self { programs, replies, hasher: RandomState::new(), metrics }
    }

    /// Answers a record, as far as possible without blocking; appends the reply to `out`. `sink`
    /// returns where the reply goes if the call is a retransmission of one that runs. A call that
    /// `gate` does not admit is not tried.
    pub fn answer(
        &self,
        record: &[u8],
        origin: Origin,
        sink: &dyn Fn() -> Arc<dyn ReplySink>,
        gate: &mut dyn Gate,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let mut w = Writer::new(out);
        let header = match CallHeader::decode(record) {
            Ok(header) => header,
            Err(HeaderError::NoCall) => return Verdict::Silent,
            Err(HeaderError::Rejected(xid, why)) => {
                why.encode(xid, &mut w);
                return Verdict::Answered(ProcedureLabel::OTHER, why.status());
            }
        };
        let served = match self.served(&header) {
            Ok(served) => served,
            Err(why) => {
                why.encode(header.xid, &mut w);
                return Verdict::Answered(ProcedureLabel::OTHER, why.status());
            }
        };
        let class = served.program.classify(header.version, header.procedure, header.args);
        if class.reply_size > LARGE_REPLY && !gate.admit(class.reply_size) {
            return Verdict::Unadmitted;
        }
        let mut key = None;
        if class.retransmission == Retransmission::Replayed {
            let new = self.key(record, &header, origin);
            match self.shard(new.client).begin(new, Instant::now(), sink) {
                Lookup::New => key = Some(new),
                Lookup::Running => return Verdict::Silent,
                Lookup::Answered(reply) => {
                    self.metrics.replayed.add(1);
                    out.extend_from_slice(reply);
                    return Verdict::Replayed;
                }
            }
        }
        match class.lane {
            Some(lane) if !gate.enter(lane) => Verdict::Later(key),
            _ => {
                let context = RunContext { origin, patience: Patience::None, may_wait: false };
                self.run(served, &header, context, key, out)
            }
        }
    }

    /// Answers a record for which [`Service::answer`] returned [`Verdict::Later`]. Blocks if
    /// `context` allows it, and may return [`Verdict::Later`] again otherwise.
    pub fn answer_again(
        &self,
        record: &[u8],
        context: RunContext,
        key: Option<CallKey>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let Ok(header) = CallHeader::decode(record) else { return Verdict::Silent };
        let Ok(served) = self.served(&header) else { return Verdict::Silent };
        self.run(served, &header, context, key, out)
    }

    /// Writes the reply to a call that waited for its results. `status` is the status in them.
    pub fn finish(
        &self,
        reply: PendingReply,
        status: u32,
        results: &dyn Encode,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let start = out.len();
        let mut w = Writer::new(out);
        message::success(reply.xid, &mut w);
        results.encode(&mut w);
        if let Some(key) = reply.key {
            RunningCall { service: self, key }.settle(&out[start..]);
        }
        Verdict::Answered(reply.procedure, StatusLabel::of(status))
    }

    /// Whether a client that sent a running call again can still get the reply.
    pub fn is_awaited(&self, key: CallKey) -> bool {
        self.shard(key.client).waiting(key).iter().any(|sink| sink.is_reachable())
    }

    /// Forgets a call that was given up: it will not run again, or has no results. The
    /// retransmissions that wait for its reply are lost.
    pub fn forget(&self, key: Option<CallKey>) {
        if let Some(key) = key {
            let waiting = self.shard(key.client).abandon(key);
            waiting.iter().for_each(|sink| sink.mark_lost());
        }
    }

    fn served(&self, header: &CallHeader<'_>) -> Result<&ServedProgram, Rejection> {
        let served = self.programs.iter().find(|served| served.number == header.program);
        let served = served.ok_or(Rejection::ProgramUnavailable)?;
        let (low, high) = served.versions;
        if (low..=high).contains(&header.version) {
            Ok(served)
        } else {
            Err(Rejection::ProgramMismatch(low, high))
        }
    }

    fn run(
        &self,
        served: &ServedProgram,
        header: &CallHeader<'_>,
        context: RunContext,
        key: Option<CallKey>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let RunContext { origin, patience, may_wait } = context;
        let start = out.len();
        let running = key.map(|key| RunningCall { service: self, key });
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
        let procedure = served.label(header.version, header.procedure);
        let result = match served.program.call(&call, &mut w) {
            Outcome::Done { status } => Ok(StatusLabel::of(status)),
            Outcome::Later if patience == Patience::None => {
                out.truncate(start);
                std::mem::forget(running); // the call runs again
                return Verdict::Later(key);
            }
            Outcome::Wait(delay) if may_wait => {
                out.truncate(start);
                std::mem::forget(running);
                return Verdict::Wait(delay);
            }
            Outcome::Later | Outcome::Wait(_) => Err(Rejection::SystemError),
            Outcome::Pending(pending) => {
                out.truncate(start);
                std::mem::forget(running);
                return Verdict::Pending(PendingReply { key, xid: header.xid, procedure }, pending);
            }
            Outcome::Unavailable => Err(Rejection::ProcedureUnavailable),
            Outcome::Garbage => Err(Rejection::GarbageArgs),
        };
        let status = result.unwrap_or_else(|why| {
            out.truncate(start);
            why.encode(header.xid, &mut Writer::new(out));
            why.status()
        });
        if let Some(running) = running {
            running.settle(&out[start..]);
        }
        Verdict::Answered(procedure, status)
    }

    fn key(&self, record: &[u8], header: &CallHeader<'_>, origin: Origin) -> CallKey {
        CallKey {
            client: origin.peer.ip().to_canonical(),
            xid: header.xid,
            procedure: header.procedure,
            checksum: self.hasher.hash_one(record),
        }
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, ReplyCache<Arc<dyn ReplySink>>> {
        #[allow(clippy::cast_possible_truncation)] // below SHARDS
        let index = (self.hasher.hash_one(client) % SHARDS as u64) as usize;
        self.replies[index].lock()
    }
}

/// A call that runs and has an entry in the reply cache. If it is dropped without a reply, which
/// only a panic causes, the entry is forgotten and the retransmissions that wait for the reply are
/// lost. Otherwise they, and later ones, would wait forever.
struct RunningCall<'a> {
    service: &'a Service,
    key: CallKey,
}

impl RunningCall<'_> {
    /// Keeps the reply, and sends it to the retransmissions that wait for it.
    fn settle(self, reply: &[u8]) {
        let waiting = self.service.shard(self.key.client).finish(self.key, Instant::now(), reply);
        for sink in waiting {
            self.service.metrics.replayed.add(1);
            sink.send(reply);
        }
        std::mem::forget(self);
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        self.service.forget(Some(self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::program::{CallClass, ProcedureNames};
    use crate::xdr::Reader;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Its procedure has to block; then it panics, or waits for as long as it may, and fails.
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

        fn names(&self, _version: u32) -> ProcedureNames {
            ProcedureNames { program: "unlucky", procedures: vec![(1, "FAIL")] }
        }

        fn classify(&self, _version: u32, _procedure: u32, _args: Reader<'_>) -> CallClass {
            CallClass { retransmission: Retransmission::Replayed, ..CallClass::default() }
        }

        fn call(&self, call: &Call<'_>, _out: &mut Writer<'_>) -> Outcome {
            match call.patience {
                Patience::None => Outcome::Later,
                Patience::Blocking if self.panics => {
                    std::panic::resume_unwind(Box::new("on purpose"))
                }
                Patience::Blocking if call.may_wait => Outcome::Wait(Delay::new(|wake| wake())),
                Patience::Blocking => Outcome::Done { status: 70 },
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

    impl ReplySink for Waiter {
        fn send(&self, _reply: &[u8]) {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }

        fn mark_lost(&self) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }

        fn is_reachable(&self) -> bool {
            self.lost.load(Ordering::Relaxed) == 0
        }
    }

    /// Sends a call and a copy of it, lets `end` end the first one, and sends another copy. Returns
    /// the verdict for that, and the sink of the copy that waited.
    fn check(
        panics: bool,
        end: impl FnOnce(&Service, &[u8], Origin, Option<CallKey>),
    ) -> (Verdict, Arc<Waiter>) {
        let metrics = Arc::new(Metrics::new([("unlucky", "FAIL")]));
        let service = Service::new(vec![Arc::new(Unlucky { panics })], metrics, 1 << 20);
        let mut record = Vec::new();
        let mut w = Writer::new(&mut record);
        [1, 0, 2, 7, 1, 1, 0, 0, 0, 0].into_iter().for_each(|word| w.u32(word));
        let here = SocketAddr::from(([127, 0, 0, 1], 700));
        let origin = Origin { peer: here, local: here };
        let waiter = Arc::<Waiter>::default();
        let answer = || {
            let waiter = || Arc::clone(&waiter) as Arc<dyn ReplySink>;
            service.answer(&record, origin, &waiter, &mut Open, &mut Vec::new())
        };
        let Verdict::Later(key) = answer() else { panic!("the first call must block") };
        assert!(matches!(answer(), Verdict::Silent), "the second waits for the first");
        end(&service, &record, origin, key);
        (answer(), waiter)
    }

    #[track_caller]
    fn check_lost((third, waiter): (Verdict, Arc<Waiter>)) {
        assert_eq!(waiter.lost.load(Ordering::Relaxed), 1);
        assert!(matches!(third, Verdict::Later(Some(_))), "the third runs");
    }

    #[test]
    fn a_call_is_awaited_as_long_as_a_copy_waits_whose_client_is_reachable() {
        check(true, |service, _, _, key| {
            let key = key.unwrap();
            assert!(service.is_awaited(key));
            service.shard(key.client).waiting(key).iter().for_each(|waiter| waiter.mark_lost());
            assert!(!service.is_awaited(key));
            service.forget(Some(key));
            assert!(!service.is_awaited(key), "it no longer runs");
        });
    }

    #[test]
    fn copies_of_a_call_that_is_forgotten_are_lost() {
        check_lost(check(true, |service, _, _, key| service.forget(key)));
    }

    #[test]
    fn copies_of_a_call_that_panics_are_lost() {
        check_lost(check(true, |service, record, origin, key| {
            let context = RunContext { origin, patience: Patience::Blocking, may_wait: true };
            let call = || service.answer_again(record, context, key, &mut Vec::new());
            catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        }));
    }

    #[test]
    fn a_call_that_waited_answers_its_copies() {
        let (third, waiter) = check(false, |service, record, origin, key| {
            let mut reply = Vec::new();
            let mut again = |may_wait| {
                let context = RunContext { origin, patience: Patience::Blocking, may_wait };
                service.answer_again(record, context, key, &mut reply)
            };
            assert!(matches!(again(true), Verdict::Wait(_)));
            assert!(matches!(again(true), Verdict::Wait(_)));
            let Verdict::Answered(procedure, status) = again(false) else { panic!("no reply") };
            assert_eq!((procedure.index(), status.name()), (1, "STALE"));
        });
        assert_eq!(waiter.sent.load(Ordering::Relaxed), 1);
        assert!(matches!(third, Verdict::Replayed));
    }
}
