//! One TCP connection: reads calls, answers what can be answered at once, hands on the rest.
//!
//! A connection is one task on one data-plane thread. Whenever its socket has bytes, all complete
//! records among them are answered in one go and their replies sent with one system call.
//!
//! ```text
//!            +--> answered here ----------------+
//!   socket --+                                  +--> link --> socket
//!            +--> jobs --> pool --> answered ---+
//! ```

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::buffers::Buffers;
use super::follow::Follower;
use super::link::Link;
use super::pool::{Job, Pool, SERVED};
use super::record::{Error, Flow, Records};
use super::room::Room;
use super::server::Limits;
use super::service::{Origin, Service};
use crate::errno::Errno;
use crate::sys::socket;
use crate::telemetry::metrics::{Answered, Local, Metrics};

/// The piece in which sockets are read. Small calls in it are answered together.
pub const SCRATCH: usize = 256 * 1024;

/// What the connections of a server share.
pub struct Shared {
    /// The threads that may sleep.
    pub pool: Arc<Pool>,
    /// Large buffers.
    pub buffers: Arc<Buffers>,
    /// Room for calls that are handed on.
    pub room: Arc<Room>,
    /// Bounds.
    pub limits: Limits,
    /// Cancelled when the server stops: what is being answered is answered, and no more is read.
    pub drain: CancellationToken,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

/// Buffers that the connections of one thread share, used by one at a time and never over a wait.
pub struct Scratch {
    input: Vec<u8>,
    replies: Vec<u8>,
    jobs: Vec<Job>,
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

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is more to do right now.
    Again,
    /// All that came is taken.
    Drained,
    /// Too much waits to be answered or sent; nothing is read until the link says so.
    Paused,
    /// The peer sends no more.
    Ended,
}

struct Connection {
    service: Arc<Service>,
    shared: Arc<Shared>,
    link: Arc<Link>,
    origin: Origin,
    records: Records,
    paused: bool,
    /// When the peer last sent or took a byte.
    last: Instant,
    /// When it last sent one: the moment that the records at hand were complete.
    arrived: Instant,
}

/// Serves a connection until its end.
pub async fn run(
    stream: TcpStream,
    origin: Origin,
    service: Arc<Service>,
    shared: Arc<Shared>,
    scratch: Arc<Mutex<Scratch>>,
) {
    let link = Arc::new(Link::new(stream, Arc::clone(&shared.buffers), Arc::clone(&shared.room)));
    let records = Records::new(shared.limits.record);
    let (paused, last) = (false, Instant::now());
    let mut connection =
        Connection { service, shared, link, origin, records, paused, last, arrived: last };
    if let Err(why) = connection.serve(&scratch).await {
        tracing::debug!(peer = %origin.peer, error = %why, "connection closed");
    }
    connection.link.give_up();
}

/// Why a connection is closed before its peer does.
#[derive(Debug, thiserror::Error)]
enum Close {
    #[error("cannot read")]
    Read(#[from] io::Error),
    #[error("the stream makes no sense: {0}")]
    Stream(#[from] Error),
    #[error("the peer is gone")]
    Broken,
    #[error("nothing was asked for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("the peer neither sent nor took a byte for {} s", .0.as_secs())]
    Stalled(Duration),
}

impl Connection {
    async fn serve(&mut self, scratch: &Mutex<Scratch>) -> Result<(), Close> {
        let mut reading = true;
        let mut alarm = pin!(sleep_until((self.last + self.shared.limits.stalled).into()));
        loop {
            let mut turn = Turn::Drained;
            if reading {
                let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
                turn = self.turn(&mut scratch)?;
            }
            if self.link.is_broken() {
                return Err(Close::Broken);
            }
            reading &= turn != Turn::Ended && !self.shared.drain.is_cancelled();
            if !reading {
                self.link.finishing();
            }
            if !reading && self.link.is_settled() && !self.link.has_unsent() {
                return Ok(());
            }
            if turn == Turn::Again {
                tokio::task::yield_now().await;
                continue;
            }
            self.arm(alarm.as_mut());
            let readable = reading && turn != Turn::Paused;
            let unsent = self.link.has_unsent();
            tokio::select! {
                ready = self.link.stream.readable(), if readable => ready?,
                ready = self.link.stream.writable(), if unsent => {
                    ready?;
                    if self.link.flush() > 0 {
                        self.last = Instant::now();
                        self.shared.pool.run(&mut self.link.unpark());
                    }
                }
                () = self.link.wake.notified() => {}
                () = self.shared.drain.cancelled(), if reading => {}
                () = alarm.as_mut() => self.check_time()?,
            }
        }
    }

    /// Answers what was kept back, or else what comes with one read.
    fn turn(&mut self, scratch: &mut Scratch) -> Result<Turn, Close> {
        if !self.link.has_room() {
            return Ok(Turn::Paused);
        }
        let Scratch { input, replies, jobs, answered, tally, follower } = scratch;
        // A call that panicked may have left something of another connection's.
        replies.clear();
        jobs.clear();
        answered.clear();
        let mut batch = Batch {
            service: &self.service,
            shared: &self.shared,
            link: &self.link,
            origin: self.origin,
            arrived: self.arrived,
            replies,
            jobs,
            answered,
            tally,
            budget: SERVED,
        };
        let mut turn = Turn::Again;
        let flow;
        if self.paused {
            flow = self.records.resume(|record| batch.take(record));
        } else if let Some((own, want)) = self.records.room(|| self.shared.buffers.take()) {
            let got = receive(&self.link, want, |fd| socket::receive(fd, own, want))?;
            turn = got.turn;
            batch.arrived = got.note(&mut self.last, &mut self.arrived);
            match self.records.completed() {
                Some(record) => flow = Ok(batch.take_whole(record)),
                None => flow = self.records.resume(|record| batch.take(record)),
            }
        } else {
            let at = self.records.begin(input);
            let want = self.records.appetite().min(input.len() - at);
            let free = &mut input[at..at + want];
            let got = receive(&self.link, want, |fd| socket::read(fd, free))?;
            turn = got.turn;
            batch.arrived = got.note(&mut self.last, &mut self.arrived);
            flow = self.records.feed(&input[..at + got.bytes], |record| batch.take(record));
        }
        batch.send();
        follower.note(&self.link.stream);
        self.paused = flow? == Flow::Pause;
        // What was kept back comes before the end of the stream, which is found again then.
        Ok(if self.paused { Turn::Again } else { turn })
    }

    /// When the peer must have done something: the limit, and why it would be closed.
    fn limit(&self) -> (Duration, Close) {
        let Limits { idle, stalled, .. } = self.shared.limits;
        if self.records.inside() || self.link.has_unsent() {
            (stalled, Close::Stalled(stalled))
        } else {
            (idle, Close::Idle(idle))
        }
    }

    /// Sets the alarm if it would come too late. One that comes too early is set again then, so
    /// that a busy connection touches no timer.
    fn arm(&self, alarm: Pin<&mut Sleep>) {
        let due = (self.last + self.limit().0).into();
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.reset(due);
        }
    }

    fn check_time(&mut self) -> Result<(), Close> {
        let (limit, why) = self.limit();
        // A call that takes long is ours to answer, and no reason to close; but there may be calls
        // that wait for the peer to take replies.
        let ours = !self.link.is_settled() && !self.link.has_unsent();
        if self.last.elapsed() < limit {
            return Ok(());
        }
        if !ours {
            return Err(why);
        }
        self.last = Instant::now(); // or the alarm would go off again at once
        Ok(())
    }
}

/// What was received.
struct Received {
    bytes: usize,
    turn: Turn,
}

impl Received {
    /// Looks at the clock, once for all that came together, if something did; answers when the
    /// records at hand were complete.
    fn note(&self, last: &mut Instant, arrived: &mut Instant) -> Instant {
        if self.bytes > 0 {
            *arrived = Instant::now();
            *last = *arrived;
        }
        *arrived
    }
}

/// Receives through `read` up to `want` bytes.
fn receive(
    link: &Link,
    want: usize,
    read: impl FnOnce(&TcpStream) -> Result<usize, Errno>,
) -> io::Result<Received> {
    let mut got = None;
    let result = link.stream.try_io(Interest::READABLE, || {
        let n = read(&link.stream)?;
        got = Some(n);
        // Less than there was room for: the socket is empty. Saying so here saves the read that
        // would only find that out. The end of the stream is reported again whatever we say.
        if (1..want).contains(&n) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (got, result) {
        (Some(0), _) => Ok(Received { bytes: 0, turn: Turn::Ended }),
        (Some(bytes), Ok(())) => Ok(Received { bytes, turn: Turn::Again }),
        (Some(bytes), Err(_)) => Ok(Received { bytes, turn: Turn::Drained }),
        (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        (None, _) => Ok(Received { bytes: 0, turn: Turn::Drained }),
    }
}
