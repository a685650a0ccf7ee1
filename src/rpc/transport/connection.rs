//! One TCP connection: reads calls, answers what can be answered at once, hands on the rest.
//!
//! A connection is one task on one data-plane thread. Whenever its socket has bytes, all complete
//! records among them are answered in one go and their replies sent with one system call.
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
use super::clock::Clock;
use super::connections::Seat;
use super::deferred::{PooledCall, Shared};
use super::intake::{Intake, Turn};
use super::outbox::Outbox;
use super::shared::{Limits, SCRATCH};
use crate::rpc::record::Error;
use crate::rpc::service::{Origin, Service};
use crate::sched::affinity::Follower;
use crate::sched::pool::{Job, QUEUED_MAX};
use crate::telemetry::metrics::{Answered, Local};

/// Buffers for replies of a thread that have grown beyond this are not kept.
const REPLIES_MAX: usize = 4 * 1024 * 1024;

/// Buffers that the connections of one thread share, used by one at a time and never over a wait.
pub struct Scratch {
    input: Vec<u8>,
    replies: Vec<u8>,
    jobs: Vec<Job<PooledCall>>,
    answered: Vec<Answered>,
    tally: Local,
    follower: Follower,
}

impl Scratch {
    /// Of a thread that counts its calls in `tally`, and goes where `follower` says.
    pub fn new(tally: Local, follower: Follower) -> Self {
        let (replies, jobs, answered) = (Vec::new(), Vec::new(), Vec::new());
        Self { input: vec![0; SCRATCH], replies, jobs, answered, tally, follower }
    }

    /// Begins, on the thread whose connections it is for.
    pub fn begin(&mut self) {
        self.follower.begin();
    }
}

struct Connection {
    service: Arc<Service>,
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    stream: Arc<TcpStream>,
    origin: Origin,
    intake: Intake,
    /// The deadline of replies that the peer has not taken, if there were any at the last look.
    taking: Option<Clock>,
    /// When the peer last took a reply that had to wait, or was found to wait for us.
    last: Instant,
}

/// Serves a connection until its end.
pub async fn run(
    seat: Seat,
    origin: Origin,
    service: Arc<Service>,
    shared: Arc<Shared>,
    scratch: Arc<Mutex<Scratch>>,
) {
    let (outbox, limits) = (Arc::clone(seat.outbox()), shared.limits);
    let Some(stream) = outbox.stream() else { return }; // another has its place already
    let intake = Intake::new(Arc::clone(&stream), limits.record, limits.stalled);
    let (taking, last) = (None, Instant::now());
    let mut connection =
        Connection { service, shared, outbox, stream, origin, intake, taking, last };
    if let Err(why) = connection.serve(&scratch).await {
        tracing::debug!(peer = %origin.peer, error = %why, "connection closed");
        if matches!(why, Close::Stalled(_) | Close::Broken) {
            connection.forget_sent();
        }
    }
    connection.outbox.give_up();
}

/// Why a connection is closed before its peer does.
#[derive(Debug, thiserror::Error)]
enum Close {
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
    /// Has the end of the connection be a reset. Otherwise the kernel would go on for minutes to
    /// offer what it holds to a peer that takes nothing.
    fn forget_sent(&self) {
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }

    async fn serve(&mut self, scratch: &Mutex<Scratch>) -> Result<(), Close> {
        let mut reading = true;
        let mut alarm = pin!(sleep_until((self.last + self.shared.limits.stalled).into()));
        loop {
            let mut turn = Turn::Drained;
            if reading {
                let mut scratch = scratch.lock();
                turn = self.turn(&mut scratch)?;
            }
            if self.outbox.is_broken() {
                return Err(Close::Broken);
            }
            reading &= turn != Turn::Ended && !self.shared.drain.is_cancelled();
            if !reading {
                self.outbox.finishing();
            }
            if !reading && self.outbox.is_settled() && !self.outbox.has_unsent() {
                return Ok(());
            }
            if turn == Turn::Again {
                tokio::task::yield_now().await;
                continue;
            }
            let unsent = self.note_unsent();
            self.arm(alarm.as_mut());
            let readable = reading && turn != Turn::Paused;
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

    /// Answers what was kept back, or else what comes with one read.
    fn turn(&mut self, scratch: &mut Scratch) -> Result<Turn, Close> {
        if !self.intake.may_go_on(&self.outbox) {
            return Ok(Turn::Paused);
        }
        let before = self.intake.before();
        let Scratch { input, replies, jobs, answered, tally, follower } = scratch;
        // A call that panicked may have left something of another connection's.
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
            deferred: None,
        };
        let (turn, flow) = self.intake.turn(input, &mut batch)?;
        batch.send();
        let deferred = batch.deferred.take();
        follower.note(&self.stream);
        Ok(self.intake.after(before, (turn, flow?), deferred, &self.outbox))
    }

    /// Notes whether replies wait for the peer, and since when.
    fn note_unsent(&mut self) -> bool {
        let unsent = self.outbox.has_unsent();
        if !unsent {
            self.taking = None;
        } else if self.taking.is_none() {
            let (now, taken) = (Instant::now(), self.outbox.acknowledged());
            self.taking = Some(Clock::start(now, taken, self.shared.limits.stalled));
        }
        unsent
    }

    /// When a peer that asks for nothing is to be looked at.
    fn idle_due(&self) -> Instant {
        self.last.max(self.intake.arrived()) + self.shared.limits.idle
    }

    /// When the peer must have done something.
    fn due(&self) -> Instant {
        let due = [self.intake.due(), self.taking.map(|taking| taking.due())];
        due.into_iter().flatten().min().unwrap_or_else(|| self.idle_due())
    }

    /// Sets the alarm if it would come too late. One that comes too early is set again then, so
    /// that a busy connection touches no timer.
    fn arm(&self, alarm: Pin<&mut Sleep>) {
        let due = self.due().into();
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.reset(due);
        }
    }

    fn check_time(&mut self) -> Result<(), Close> {
        let Limits { idle, stalled, .. } = self.shared.limits;
        let now = Instant::now();
        let taken = || self.outbox.acknowledged();
        let takes =
            self.taking.as_mut().is_none_or(|taking| taking.is_in_time(now, taken, stalled));
        if !takes || !self.intake.is_in_time(now) {
            return Err(Close::Stalled(stalled));
        }
        if self.taking.is_none() && self.intake.due().is_none() && now >= self.idle_due() {
            // A call that takes long is ours to answer, and no reason to close.
            if self.outbox.is_settled() && !self.intake.is_held_up() {
                return Err(Close::Idle(idle));
            }
            self.last = now; // or the alarm would go off again at once
        }
        Ok(())
    }
}
