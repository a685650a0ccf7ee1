//! The receiving side of a connection: incomplete records, and records that are held back.
//!
//! Memory for a large record is admitted before all of the record is read. The deadline of a record
//! starts with the record, and again after the record has waited for the server.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::batch::Batch;
use super::deadline::PeerDeadline;
use super::memory_budget::{ALLOWANCE, ConnectionMemory};
use super::outbox::Outbox;
use crate::errno::Errno;
use crate::rpc::record::{Error, Flow, Records};
use crate::sys::socket;

/// The size of a read while memory is short, and its minimum otherwise, in bytes.
const SHORT: usize = 8 * 1024;

/// The number of connections of an address up to which their reads have the full size.
const WHOLE: usize = 16;

/// As [`WHOLE`], for the connections of all addresses together.
const WHOLE_OF_ALL: usize = 128;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// There is more to do at once.
    Again,
    /// The socket is empty.
    Drained,
    /// Nothing is read until the outbox wakes the task: too many calls are deferred, too much is
    /// unsent, or there is no memory.
    Paused,
    /// The peer closed its side.
    Ended,
}

/// The receiving side of a connection.
pub struct Intake {
    stream: Arc<TcpStream>,
    records: Records,
    /// Whether complete records are held back.
    paused: bool,
    /// A call that waits until there is memory for its reply.
    unadmitted: Option<Vec<u8>>,
    /// Bytes that were admitted for the incomplete record.
    admitted: usize,
    /// Bytes that are charged for the record that was admitted.
    charged: usize,
    /// Bytes that are charged for what was read and is held back.
    kept: usize,
    /// Whether reading waits for the server.
    held_up: bool,
    /// Whether the receive buffer of the socket is limited.
    is_limited: bool,
    /// The deadline of the incomplete record.
    deadline: PeerDeadline,
    patience: Duration,
    /// Bytes received since the start.
    received: u64,
    /// When the last bytes were received, which is when the records at hand were complete.
    arrived: Instant,
}

impl Intake {
    /// Creates the receiving side of a connection whose records have at most `max` bytes, with a
    /// timeout of `patience` for each.
    pub fn new(stream: Arc<TcpStream>, max: usize, patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            records: Records::new(max),
            paused: false,
            unadmitted: None,
            admitted: 0,
            charged: 0,
            kept: 0,
            held_up: false,
            is_limited: false,
            deadline: PeerDeadline::start(now, 0, patience),
            patience,
            received: 0,
            arrived: now,
        }
    }

    /// Returns when bytes were last received.
    pub const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Whether the next turn may read or answer anything. If not, the task is woken when that may
    /// have changed.
    pub fn may_go_on(&mut self, outbox: &Outbox) -> bool {
        let may = outbox.has_room() && self.admit_record(outbox);
        self.held_up |= !may;
        may
    }

    /// Charges the incomplete record and returns true, if there is memory for it.
    fn admit_record(&mut self, outbox: &Outbox) -> bool {
        if self.paused || self.unadmitted.is_some() {
            return true; // the next record was read already
        }
        let more = self.records.needs().saturating_sub(self.admitted);
        if more > 0 {
            let admitted = outbox.admit(more);
            if !admitted || !self.held_up {
                self.limit_kernel(!admitted); // it stays limited if memory was granted after a wait
            }
            if !admitted {
                return false;
            }
            if self.held_up {
                outbox.called(Instant::now()); // the peer was not slow: it waited for the server
            }
        }
        self.admitted += more;
        self.charged += more;
        true
    }

    /// Limits the receive buffer of the socket, or ends that. While a connection waits for memory,
    /// the kernel must not keep what the server does not: for a thousand connections that were fast
    /// before, that may be a gigabyte.
    fn limit_kernel(&mut self, limit: bool) {
        if limit != self.is_limited {
            self.is_limited = limit;
            // A failure is harmless: the kernel then keeps more, or less than it could.
            let _ = if limit {
                socket::limit_receiving(&self.stream)
            } else {
                socket::unlimit_receiving(&self.stream)
            };
        }
    }

    /// Passes the records that were held back to `batch`, or else those of one read.
    ///
    /// # Errors
    /// The socket fails. The inner error: the stream has no valid records.
    pub fn turn(
        &mut self,
        input: &mut [u8],
        batch: &mut Batch<'_>,
    ) -> io::Result<(TurnEnd, Result<Flow, Error>)> {
        if let Some(call) = self.unadmitted.take() {
            // Records that may be held behind it come next.
            batch.take(&call);
            return Ok((TurnEnd::Again, Ok(Flow::Pause)));
        }
        if self.paused {
            return Ok((TurnEnd::Again, self.records.resume(|record| batch.take(record))));
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
        let most = most_at_once(input.len(), &batch.outbox.memory);
        let want = self.records.appetite().min(input.len() - at).min(most);
        let free = &mut input[at..at + want];
        let got = receive(&self.stream, want, |fd| socket::read(fd, free))?;
        batch.arrived = self.note_received(&got);
        let flow = self.records.feed(&input[..at + got.bytes], |record| batch.take(record));
        Ok((got.turn, flow))
    }

    /// Reads the clock, once for each read that returned bytes; returns when the records at hand
    /// were complete.
    fn note_received(&mut self, got: &Received) -> Instant {
        if got.bytes > 0 {
            self.received += got.bytes as u64;
            self.arrived = Instant::now();
        }
        self.arrived
    }

    /// Returns what [`Intake::after`] compares with.
    pub const fn turn_start(&self) -> TurnStart {
        let (given, is_inside) = (self.records.given(), self.records.inside());
        TurnStart { given, is_inside, received: self.received }
    }

    /// Ends a turn: notes the call that is `unadmitted`, if any, and whether records are held back.
    /// Charges what is held, and returns how the turn ended.
    pub fn after(
        &mut self,
        before: TurnStart,
        (turn, flow): (TurnEnd, Flow),
        unadmitted: Option<Vec<u8>>,
        outbox: &Outbox,
    ) -> TurnEnd {
        (self.unadmitted, self.paused) = (unadmitted, flow == Flow::Pause);
        let was_given = self.records.given() != before.given;
        if was_given {
            outbox.called(self.arrived);
            self.admitted = 0; // the memory is charged to the call
        }
        if self.records.inside() {
            self.note_inside(was_given || !before.is_inside, before.received, outbox);
        }
        self.charge(outbox);
        self.held_up = self.unadmitted.is_some();
        if self.held_up {
            self.limit_kernel(true); // nothing is read while the call waits for memory
        }
        match (self.held_up, self.paused) {
            (true, _) => TurnEnd::Paused,
            // Records that are held back come before the end of the stream, which is found again.
            (false, true) => TurnEnd::Again,
            (false, false) => turn,
        }
    }

    /// Notes the progress of an incomplete record, to which the bytes after `before` belong.
    /// `begins`: the record began with them.
    fn note_inside(&mut self, begins: bool, before: u64, outbox: &Outbox) {
        if begins || self.held_up {
            let now = if self.held_up { Instant::now() } else { self.arrived };
            self.deadline = PeerDeadline::start(now, self.received, self.patience);
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
            outbox.memory.take(charged - self.charged);
        } else if charged < self.charged {
            outbox.memory.give(self.charged - charged);
        }
        if kept != self.kept {
            outbox.memory.keep(kept);
        }
        (self.charged, self.kept) = (charged, kept);
    }

    /// Whether reading waits for the server.
    pub const fn is_held_up(&self) -> bool {
        self.held_up
    }

    /// Returns the deadline of the incomplete record, if there is one.
    pub fn due(&self) -> Option<Instant> {
        (self.records.inside() && !self.held_up).then(|| self.deadline.due())
    }

    /// Whether the peer is in time with the incomplete record.
    pub fn is_in_time(&mut self, now: Instant) -> bool {
        self.due().is_none() || self.deadline.is_in_time(now, || self.received, self.patience)
    }
}

/// Returns how many of `len` bytes are read at once. Connections take turns, so the sum over those
/// of an address, and over all, is bounded: 500 connections with thousands of small calls each
/// would delay the others by seconds.
fn most_at_once(len: usize, memory: &ConnectionMemory) -> usize {
    let share =
        memory.neighbours().div_ceil(WHOLE).max(memory.connections().div_ceil(WHOLE_OF_ALL));
    let fair = len / share;
    if memory.is_short() { SHORT } else { fair.max(SHORT) }
}

/// The state before a turn.
#[derive(Clone, Copy)]
pub struct TurnStart {
    given: u64,
    is_inside: bool,
    received: u64,
}

/// The result of a read.
struct Received {
    bytes: usize,
    turn: TurnEnd,
}

/// Receives up to `want` bytes through `read`.
fn receive(
    stream: &TcpStream,
    want: usize,
    read: impl FnOnce(&TcpStream) -> Result<usize, Errno>,
) -> io::Result<Received> {
    let mut got = None;
    let result = stream.try_io(Interest::READABLE, || {
        let n = read(stream)?;
        got = Some(n);
        // Less than there was room for: the socket is empty. Reporting WouldBlock saves another
        // read that would find that out. The end of the stream is reported again in any case.
        if (1..want).contains(&n) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (got, result) {
        (Some(0), _) => Ok(Received { bytes: 0, turn: TurnEnd::Ended }),
        (Some(bytes), Ok(())) => Ok(Received { bytes, turn: TurnEnd::Again }),
        (Some(bytes), Err(_)) => Ok(Received { bytes, turn: TurnEnd::Drained }),
        (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        (None, _) => Ok(Received { bytes: 0, turn: TurnEnd::Drained }),
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

    /// A connection whose peer sends when the test says so.
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
                Outbox::new(stream, Arc::new(Buffers::new(Arc::clone(&budget))), &budget.address());
            let stream = outbox.stream().unwrap();
            let intake = Intake::new(stream, 1 << 20, Duration::from_secs(60));
            Self { intake, outbox, start: Instant::now() }
        }

        /// The server reads `bytes` so many seconds after the start.
        fn receives(&mut self, bytes: &[u8], second: u64) {
            let before = self.intake.turn_start();
            match self.intake.records.room(Vec::new) {
                Some((own, _)) => own.extend(bytes),
                None => assert_eq!(self.intake.records.feed(bytes, |_| Flow::Go), Ok(Flow::Go)),
            }
            self.intake.received += bytes.len() as u64;
            self.intake.arrived = self.start + Duration::from_secs(second);
            self.intake.after(before, (TurnEnd::Drained, Flow::Go), None, &self.outbox);
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
        let start = peer.intake.turn_start();
        let turn =
            peer.intake.after(start, (TurnEnd::Again, Flow::Pause), Some(vec![0]), &peer.outbox);
        assert_eq!(turn, TurnEnd::Paused);
        let limited = stream.recv_buffer_size().unwrap();
        assert!(limited < before / 2, "{limited} of {before}");
    }

    #[test]
    fn what_all_connections_of_an_address_read_in_a_round_is_bounded() {
        const PIECE: usize = 256 * 1024;
        let peer = MemoryBudget::new(MINIMUM).address();
        let mut accounts = Vec::new();
        for count in 1..=512 {
            accounts.push(ConnectionMemory::new(&peer, Arc::default()));
            let most = most_at_once(PIECE, &accounts[0]);
            assert!(most * count <= WHOLE * PIECE, "{most} bytes of each of {count}");
            assert!(count >= WHOLE || most == PIECE, "{count} are few");
        }
        assert_eq!(most_at_once(PIECE, &accounts[0]), SHORT.max(PIECE / 33));
        let other = ConnectionMemory::new(&MemoryBudget::new(MINIMUM).address(), Arc::default());
        assert_eq!(most_at_once(PIECE, &other), PIECE);
    }

    #[test]
    fn what_all_addresses_read_in_a_round_is_bounded() {
        const PIECE: usize = 256 * 1024;
        let budget = MemoryBudget::new(MINIMUM);
        let mut accounts = Vec::new();
        for count in 1..=1024 {
            accounts.push(ConnectionMemory::new(&budget.address(), Arc::default()));
            let most = most_at_once(PIECE, &accounts[0]);
            assert!(most * count <= WHOLE_OF_ALL * PIECE, "{most} bytes of each of {count}");
            assert!(count > WHOLE_OF_ALL || most == PIECE, "{count} are few");
        }
        accounts.truncate(1);
        assert_eq!(most_at_once(PIECE, &accounts[0]), PIECE, "the others are gone");
    }
}
