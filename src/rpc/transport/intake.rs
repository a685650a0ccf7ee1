//! What a connection reads: records that are not complete, and those that must wait for their turn.
//!
//! Memory for a large record is admitted before all of the record is read.
//! The deadline of a record begins with it, and again after it had to wait for us.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::batch::Batch;
use super::clock::Clock;
use super::memory_budget::{ALLOWANCE, Account};
use super::outbox::Outbox;
use crate::errno::Errno;
use crate::rpc::record::{Error, Flow, Records};
use crate::sys::socket;

/// As much is read at once at least, and while memory is short.
const SHORT: usize = 8 * 1024;

/// So many connections of an address read whole pieces.
const WHOLE: usize = 16;

/// So many connections of all addresses together.
const WHOLE_OF_ALL: usize = 128;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do right now.
    Again,
    /// All that came is taken.
    Drained,
    /// Too much waits to be answered or sent, or there is no memory: nothing is read until the
    /// outbox wakes the task.
    Paused,
    /// The peer sends no more.
    Ended,
}

/// What a connection has received.
pub struct Intake {
    stream: Arc<TcpStream>,
    records: Records,
    /// Whether complete records are held.
    paused: bool,
    /// A call that waits until there is memory for its reply.
    deferred: Option<Vec<u8>>,
    /// What was admitted for the record that has begun.
    admitted: usize,
    /// What is charged: for a record that was admitted, and for what waits.
    charged: usize,
    kept: usize,
    /// Whether nothing is read because of something that is ours to do.
    held_up: bool,
    /// Whether the kernel may keep only little.
    is_limited: bool,
    /// The deadline of the record that has begun.
    clock: Clock,
    patience: Duration,
    /// Bytes since the start.
    received: u64,
    /// When the last one came: the moment that the records at hand were complete.
    arrived: Instant,
}

impl Intake {
    /// Of a connection whose records have at most `max` bytes, and whose peer has `patience` with
    /// each.
    pub fn new(stream: Arc<TcpStream>, max: usize, patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            records: Records::new(max),
            paused: false,
            deferred: None,
            admitted: 0,
            charged: 0,
            kept: 0,
            held_up: false,
            is_limited: false,
            clock: Clock::start(now, 0, patience),
            patience,
            received: 0,
            arrived: now,
        }
    }

    /// When the peer last sent something.
    pub const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Whether the turn that is to come may take anything. If not, the outbox's task is woken when
    /// that has changed.
    pub fn may_go_on(&mut self, outbox: &Outbox) -> bool {
        let may = outbox.has_room() && self.is_admitted(outbox);
        self.held_up |= !may;
        may
    }

    /// Whether there is memory for the record that has begun.
    fn is_admitted(&mut self, outbox: &Outbox) -> bool {
        if self.paused || self.deferred.is_some() {
            return true; // what comes next was read already
        }
        let more = self.records.needs().saturating_sub(self.admitted);
        if more > 0 {
            let admitted = outbox.admit(more);
            if !admitted || !self.held_up {
                self.limit_kernel(!admitted); // and not where it was granted after a wait
            }
            if !admitted {
                return false;
            }
            if self.held_up {
                outbox.called(Instant::now()); // it has not been quiet, but waited
            }
        }
        self.admitted += more;
        self.charged += more;
        true
    }

    /// As long as connections have to wait for memory, the kernel must not keep as much in its
    /// place: of a thousand that had been quick before, it kept a gigabyte.
    fn limit_kernel(&mut self, limit: bool) {
        if limit != self.is_limited {
            self.is_limited = limit;
            // Without this it keeps more, or less than it could: nothing else depends on it.
            let _ = if limit {
                socket::limit_receiving(&self.stream)
            } else {
                socket::unlimit_receiving(&self.stream)
            };
        }
    }

    /// Takes what was kept back, or else what comes with one read, to `batch`.
    ///
    /// # Errors
    /// The socket's. The second result says whether the stream makes sense.
    pub fn turn(
        &mut self,
        input: &mut [u8],
        batch: &mut Batch<'_>,
    ) -> io::Result<(Turn, Result<Flow, Error>)> {
        if let Some(call) = self.deferred.take() {
            // Records may be held behind it: those come next.
            batch.take(&call);
            return Ok((Turn::Again, Ok(Flow::Pause)));
        }
        if self.paused {
            return Ok((Turn::Again, self.records.resume(|record| batch.take(record))));
        }
        if let Some((own, want)) = self.records.room(|| batch.shared.buffers.take()) {
            let got = receive(&self.stream, want, |fd| socket::receive(fd, own, want))?;
            batch.arrived = self.note_received(&got);
            return Ok(match self.records.completed() {
                Some(record) => (got.turn, Ok(batch.take_whole(record))),
                None => (got.turn, self.records.resume(|record| batch.take(record))),
            });
        }
        let at = self.records.begin(input);
        let most = most_at_once(input.len(), &batch.outbox.account);
        let want = self.records.appetite().min(input.len() - at).min(most);
        let free = &mut input[at..at + want];
        let got = receive(&self.stream, want, |fd| socket::read(fd, free))?;
        batch.arrived = self.note_received(&got);
        let flow = self.records.feed(&input[..at + got.bytes], |record| batch.take(record));
        Ok((got.turn, flow))
    }

    /// Looks at the clock, once for all that came together, if something did; answers when the
    /// records at hand were complete.
    fn note_received(&mut self, got: &Received) -> Instant {
        if got.bytes > 0 {
            self.received += got.bytes as u64;
            self.arrived = Instant::now();
        }
        self.arrived
    }

    /// What to remember before a turn.
    pub const fn before(&self) -> Before {
        let (given, is_inside) = (self.records.given(), self.records.inside());
        Before { given, is_inside, received: self.received }
    }

    /// Notes what a turn left: what is `deferred`, and whether records are kept back. Charges what
    /// is held, and says how the turn ended.
    pub fn after(
        &mut self,
        before: Before,
        (turn, flow): (Turn, Flow),
        deferred: Option<Vec<u8>>,
        outbox: &Outbox,
    ) -> Turn {
        (self.deferred, self.paused) = (deferred, flow == Flow::Pause);
        let was_given = self.records.given() != before.given;
        if was_given {
            outbox.called(self.arrived);
            self.admitted = 0; // what it had is charged to its call
        }
        if self.records.inside() {
            self.note_inside(was_given || !before.is_inside, before.received, outbox);
        }
        self.charge(outbox);
        self.held_up = self.deferred.is_some();
        if self.held_up {
            self.limit_kernel(true); // it waits for memory, and what follows it is not read
        }
        match (self.held_up, self.paused) {
            (true, _) => Turn::Paused,
            // What was kept back comes before the end of the stream, which is found again then.
            (false, true) => Turn::Again,
            (false, false) => turn,
        }
    }

    /// Notes that the bytes beyond `before` belong to a record that is not complete, and may have
    /// begun with them.
    fn note_inside(&mut self, begins: bool, before: u64, outbox: &Outbox) {
        if begins || self.held_up {
            let now = if self.held_up { Instant::now() } else { self.arrived };
            self.clock = Clock::start(now, self.received, self.patience);
            outbox.called(now);
        } else {
            outbox.progress().moved(self.received - before, self.arrived);
        }
    }

    fn charge(&mut self, outbox: &Outbox) {
        let holds = self.records.capacity();
        let (charged, kept) = match self.admitted {
            0 if holds <= ALLOWANCE => (0, 0),
            0 => (0, holds),
            admitted => (holds.max(admitted), 0),
        };
        if charged > self.charged {
            outbox.account.take(charged - self.charged);
        } else if charged < self.charged {
            outbox.account.give(self.charged - charged);
        }
        if kept != self.kept {
            outbox.account.keep(kept);
        }
        (self.charged, self.kept) = (charged, kept);
    }

    /// Whether nothing is read because of something that is ours to do.
    pub const fn is_held_up(&self) -> bool {
        self.held_up
    }

    /// When the peer must have gone on with a record, if it must.
    pub fn due(&self) -> Option<Instant> {
        (self.records.inside() && !self.held_up).then(|| self.clock.due())
    }

    /// Whether the peer is in time with its record.
    pub fn is_in_time(&mut self, now: Instant) -> bool {
        self.due().is_none() || self.clock.is_in_time(now, || self.received, self.patience)
    }
}

/// How much of a piece of `len` bytes is read at once. Connections take turns, so what those of one
/// address, and what all of them do in a round is bounded: 500 of them, each with thousands of
/// small calls, would have the others wait for seconds.
fn most_at_once(len: usize, account: &Account) -> usize {
    let share =
        account.neighbours().div_ceil(WHOLE).max(account.connections().div_ceil(WHOLE_OF_ALL));
    let fair = len / share;
    if account.is_short() { SHORT } else { fair.max(SHORT) }
}

/// What is remembered before a turn.
#[derive(Clone, Copy)]
pub struct Before {
    given: u64,
    is_inside: bool,
    received: u64,
}

/// What was received.
struct Received {
    bytes: usize,
    turn: Turn,
}

/// Receives through `read` up to `want` bytes.
fn receive(
    stream: &TcpStream,
    want: usize,
    read: impl FnOnce(&TcpStream) -> Result<usize, Errno>,
) -> io::Result<Received> {
    let mut got = None;
    let result = stream.try_io(Interest::READABLE, || {
        let n = read(stream)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::record::FragmentHeader;
    use crate::rpc::transport::buffers::Buffers;
    use crate::rpc::transport::memory_budget::{MINIMUM, MemoryBudget};
    use socket2::SockRef;
    use tokio::net::TcpListener;

    /// A connection whose peer sends when it is told so.
    struct Slow {
        intake: Intake,
        outbox: Outbox,
        start: Instant,
    }

    impl Slow {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let budget = MemoryBudget::new(MINIMUM);
            let outbox =
                Outbox::new(stream, Arc::new(Buffers::new(Arc::clone(&budget))), &budget.peer());
            let stream = outbox.stream().unwrap();
            let intake = Intake::new(stream, 1 << 20, Duration::from_secs(60));
            Self { intake, outbox, start: Instant::now() }
        }

        /// The server reads `bytes` so many seconds after the start.
        fn receives(&mut self, bytes: &[u8], second: u64) {
            let before = self.intake.before();
            match self.intake.records.room(Vec::new) {
                Some((own, _)) => own.extend(bytes),
                None => assert_eq!(self.intake.records.feed(bytes, |_| Flow::Go), Ok(Flow::Go)),
            }
            self.intake.received += bytes.len() as u64;
            self.intake.arrived = self.start + Duration::from_secs(second);
            self.intake.after(before, (Turn::Drained, Flow::Go), None, &self.outbox);
        }

        fn behind(&self) -> u64 {
            (self.intake.arrived - self.outbox.progress().until()).as_secs()
        }
    }

    #[tokio::test]
    async fn a_record_that_arrives_slowly_is_progress_at_the_minimum_rate() {
        let mut slow = Slow::new().await;
        slow.receives(&FragmentHeader::whole(1 << 20).to_be_bytes(), 50);
        assert_eq!(slow.behind(), 0, "what it was idle before is not counted");
        for second in 51..=100 {
            slow.receives(&[0; 8 * 1024], second);
            assert_eq!(slow.behind(), 0);
        }
        assert_eq!((slow.intake.arrived - slow.outbox.progress().begun()).as_secs(), 50);
        for second in 101..=160 {
            slow.receives(&[0], second);
        }
        assert!(slow.behind() >= 59, "a byte now and then is none");
    }

    #[tokio::test]
    async fn the_kernel_keeps_little_while_a_call_waits_for_memory() {
        let mut peer = Slow::new().await;
        let stream = peer.outbox.stream().unwrap();
        let stream = SockRef::from(&stream);
        stream.set_recv_buffer_size(1 << 20).unwrap();
        let before = stream.recv_buffer_size().unwrap();
        let start = peer.intake.before();
        let turn =
            peer.intake.after(start, (Turn::Again, Flow::Pause), Some(vec![0]), &peer.outbox);
        assert_eq!(turn, Turn::Paused);
        let limited = stream.recv_buffer_size().unwrap();
        assert!(limited < before / 2, "{limited} of {before}");
    }

    #[test]
    fn what_all_connections_of_an_address_read_in_a_round_is_bounded() {
        const PIECE: usize = 256 * 1024;
        let peer = MemoryBudget::new(MINIMUM).peer();
        let mut accounts = Vec::new();
        for count in 1..=512 {
            accounts.push(Account::new(&peer, Arc::default()));
            let most = most_at_once(PIECE, &accounts[0]);
            assert!(most * count <= WHOLE * PIECE, "{most} bytes of each of {count}");
            assert!(count >= WHOLE || most == PIECE, "{count} are few");
        }
        assert_eq!(most_at_once(PIECE, &accounts[0]), SHORT.max(PIECE / 33));
        let other = Account::new(&MemoryBudget::new(MINIMUM).peer(), Arc::default());
        assert_eq!(most_at_once(PIECE, &other), PIECE);
    }

    #[test]
    fn what_all_addresses_read_in_a_round_is_bounded() {
        const PIECE: usize = 256 * 1024;
        let budget = MemoryBudget::new(MINIMUM);
        let mut accounts = Vec::new();
        for count in 1..=1024 {
            accounts.push(Account::new(&budget.peer(), Arc::default()));
            let most = most_at_once(PIECE, &accounts[0]);
            assert!(most * count <= WHOLE_OF_ALL * PIECE, "{most} bytes of each of {count}");
            assert!(count > WHOLE_OF_ALL || most == PIECE, "{count} are few");
        }
        accounts.truncate(1);
        assert_eq!(most_at_once(PIECE, &accounts[0]), PIECE, "the others are gone");
    }
}
