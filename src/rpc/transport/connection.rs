//! One TCP connection: reads calls, answers those that do not block, and defers the others.
//!
//! A connection is one task on one data-plane thread. All complete records of one read are answered
//! together, and their replies are sent with one system call.
//!
//! ```text
//!            +--> answered here ----------------+
//!   socket --+                                  +--> outbox --> socket
//!            +--> jobs --> pool --> answered ---+
//! ```

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::batch::Batch;
use super::connections::ConnectionPermit;
use super::deadline::PeerDeadline;
use super::deferred::{PooledCall, SharedResources};
use super::intake::{Intake, TurnEnd};
use super::outbox::Outbox;
use super::shared::{ConnectionLimits, SCRATCH};
use crate::rpc::record::Error;
use crate::rpc::service::{Origin, Service};
use crate::sched::affinity::Affinity;
use crate::sched::pool::{PoolJob, QUEUED_MAX};
use crate::telemetry::metrics::{Answered, Local};

/// A thread's buffer for replies is freed if it has grown beyond this size, in bytes.
const REPLIES_MAX: usize = 4 * 1024 * 1024;

/// Buffers that the connections of one thread share. Used by one at a time, and not across an
/// await.
pub struct Scratch {
    input: Vec<u8>,
    replies: Vec<u8>,
    jobs: Vec<PoolJob<PooledCall>>,
    answered: Vec<Answered>,
    tally: Local,
    affinity: Affinity,
}

impl Scratch {
    /// Creates the buffers of a thread, which counts its calls in `tally`.
    pub fn new(tally: Local, affinity: Affinity) -> Self {
        let (replies, jobs, answered) = (Vec::new(), Vec::new(), Vec::new());
        Self { input: vec![0; SCRATCH], replies, jobs, answered, tally, affinity }
    }

    /// Begins. Must be called on the thread itself.
    pub fn begin(&mut self) {
        self.affinity.begin();
    }
}

struct Connection {
    service: Arc<Service>,
    shared: Arc<SharedResources>,
    outbox: Arc<Outbox>,
    stream: Arc<TcpStream>,
    origin: Origin,
    intake: Intake,
    /// The deadline of the replies that are queued, if any were at the last check.
    taking: Option<PeerDeadline>,
    /// When the peer last took a queued reply, or was found to wait for the server.
    last: Instant,
}

/// Serves a connection until its end.
pub async fn run(
    permit: ConnectionPermit,
    origin: Origin,
    service: Arc<Service>,
    shared: Arc<SharedResources>,
    scratch: Arc<Mutex<Scratch>>,
) {
    let (outbox, limits) = (Arc::clone(permit.outbox()), shared.limits);
    let Some(stream) = outbox.stream() else { return }; // it was displaced already
    let intake = Intake::new(Arc::clone(&stream), limits.record, limits.stalled);
    let (taking, last) = (None, Instant::now());
    let mut connection =
        Connection { service, shared, outbox, stream, origin, intake, taking, last };
    if let Err(why) = connection.serve(&scratch).await {
        tracing::debug!(peer = %origin.peer, error = %why, "connection closed");
        if matches!(why, CloseReason::Stalled(_) | CloseReason::Broken) {
            connection.forget_sent();
        }
    }
    connection.outbox.give_up();
}

/// Why the server closes a connection.
#[derive(Debug, thiserror::Error)]
enum CloseReason {
    #[error("cannot read")]
    Read(#[from] io::Error),
    #[error("the stream makes no sense: {0}")]
    Stream(#[from] Error),
    #[error("the peer is gone, or another has its place")]
    Broken,
    #[error("nothing was asked for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("the peer is too slow with a call or with its replies; it had {} s", .0.as_secs())]
    Stalled(Duration),
}

impl Connection {
    /// Makes the kernel reset the connection when it is closed. Otherwise the kernel would
    /// retransmit for minutes to a peer that takes nothing.
    fn forget_sent(&self) {
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }

    async fn serve(&mut self, scratch: &Mutex<Scratch>) -> Result<(), CloseReason> {
        let mut reading = true;
        let mut alarm = pin!(sleep_until((self.last + self.shared.limits.stalled).into()));
        loop {
            let mut turn = TurnEnd::Drained;
            if reading {
                let mut scratch = scratch.lock();
                turn = self.turn(&mut scratch)?;
            }
            if self.outbox.is_broken() {
                return Err(CloseReason::Broken);
            }
            reading &= turn != TurnEnd::Ended && !self.shared.drain.is_cancelled();
            if !reading {
                self.outbox.finishing();
            }
            if !reading && self.outbox.is_settled() && !self.outbox.has_unsent() {
                return Ok(());
            }
            if turn == TurnEnd::Again {
                tokio::task::yield_now().await;
                continue;
            }
            let unsent = self.note_unsent();
            self.arm(alarm.as_mut());
            let readable = reading && turn != TurnEnd::Paused;
            tokio::select! {
                ready = self.stream.readable(), if readable => ready?,
                ready = self.stream.writable(), if unsent => {
                    ready?;
                    if self.outbox.flush() {
                        self.last = Instant::now();
                        self.outbox.unpark();
                    }
                }
                () = self.outbox.wake().notified() => {}
                () = self.shared.drain.cancelled(), if reading => {}
                () = alarm.as_mut() => self.check_time()?,
            }
        }
    }

    /// Answers the records that were held back, or else those of one read.
    fn turn(&mut self, scratch: &mut Scratch) -> Result<TurnEnd, CloseReason> {
        if !self.intake.may_go_on(&self.outbox) {
            return Ok(TurnEnd::Paused);
        }
        let start = self.intake.turn_start();
        let Scratch { input, replies, jobs, answered, tally, affinity } = scratch;
        // A call of another connection that panicked may have left something.
        replies.clear();
        jobs.clear();
        answered.clear();
        if replies.capacity() > REPLIES_MAX {
            *replies = Vec::new();
        }
        let mut batch = Batch {
            service: &self.service,
            shared: &self.shared,
            outbox: &self.outbox,
            origin: self.origin,
            arrived: self.intake.arrived(),
            replies,
            jobs,
            answered,
            tally,
            budget: QUEUED_MAX,
            unadmitted: None,
        };
        let (turn, flow) = self.intake.turn(input, &mut batch)?;
        batch.send();
        let unadmitted = batch.unadmitted.take();
        affinity.note(&self.stream);
        Ok(self.intake.after(start, (turn, flow?), unadmitted, &self.outbox))
    }

    /// Returns whether replies are queued. Starts their deadline, or ends it.
    fn note_unsent(&mut self) -> bool {
        let unsent = self.outbox.has_unsent();
        if !unsent {
            self.taking = None;
        } else if self.taking.is_none() {
            let (now, taken) = (Instant::now(), self.outbox.acknowledged());
            self.taking = Some(PeerDeadline::start(now, taken, self.shared.limits.stalled));
        }
        unsent
    }

    /// Returns when an idle connection is due to be checked.
    fn idle_due(&self) -> Instant {
        self.last.max(self.intake.arrived()) + self.shared.limits.idle
    }

    /// Returns the earliest deadline of the peer.
    fn due(&self) -> Instant {
        let due = [self.intake.due(), self.taking.map(|taking| taking.due())];
        due.into_iter().flatten().min().unwrap_or_else(|| self.idle_due())
    }

    /// Sets the alarm if it would go off too late. If it goes off too early, it is set again then:
    /// a busy connection does not set timers.
    fn arm(&self, alarm: Pin<&mut Sleep>) {
        let due = self.due().into();
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.reset(due);
        }
    }

    fn check_time(&mut self) -> Result<(), CloseReason> {
        let ConnectionLimits { idle, stalled, .. } = self.shared.limits;
        let now = Instant::now();
        let taken = || self.outbox.acknowledged();
        let takes =
            self.taking.as_mut().is_none_or(|taking| taking.is_in_time(now, taken, stalled));
        if !takes || !self.intake.is_in_time(now) {
            return Err(CloseReason::Stalled(stalled));
        }
        if self.taking.is_none() && self.intake.due().is_none() && now >= self.idle_due() {
            // A connection that waits for the server is not idle.
            if self.outbox.is_settled() && !self.intake.is_held_up() {
                return Err(CloseReason::Idle(idle));
            }
            self.last = now; // otherwise the alarm would go off again at once
        }
        Ok(())
    }
}
