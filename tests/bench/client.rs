//! Connections with many calls outstanding, each driven by one thread.
//!
//! Each of the `outstanding` slots has one call under way at a time: when its answer has come and
//! has been checked, the slot makes its next call. All answers that one `recv` brings are handled
//! before the calls that follow from them leave in one `sendmsg`.

use std::io::{ErrorKind, IoSlice};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::inbox::Inbox;
use crate::outbox::{Caller, Outbox, Program};
use crate::wire::Reader;

/// A server that is silent for this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// An xid is the number of the call and, in its lowest bits, the slot that made it.
const SLOT_BITS: u32 = 8;
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// What to ask for, and what a right answer is.
pub trait Work {
    /// Writes the next call of this slot; false when the slot has none left.
    fn call(&mut self, slot: usize, out: &mut Outbox) -> bool;

    /// Checks the answer to the slot's call and says how much was done: calls, bytes or entries.
    fn reply(&mut self, slot: usize, reply: &mut Reader<'_>) -> Result<u64>;
}

/// What came of some work.
pub struct Outcome {
    pub calls: u64,
    pub units: u64,
    pub elapsed: Duration,
    pub nanoseconds: Histogram<u64>,
}

impl Outcome {
    /// Both, done at the same time.
    fn and(mut self, other: Self) -> Result<Self> {
        self.calls += other.calls;
        self.units += other.units;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.nanoseconds.add(other.nanoseconds)?;
        Ok(self)
    }
}

/// Has each connection do its share of some work, all at the same time: `share` says what that is.
pub fn drive_all<W: Work + Send>(
    clients: &mut [Client],
    mut share: impl FnMut(usize) -> W,
    outstanding: usize,
    limit: Duration,
) -> Result<Outcome> {
    if let [client] = clients {
        return client.drive(&mut share(0), outstanding, limit);
    }
    let works: Vec<_> = (0..clients.len()).map(share).collect();
    thread::scope(|scope| {
        let shares = clients.iter_mut().zip(works);
        let threads: Vec<_> = shares
            .map(|(client, mut work)| {
                scope.spawn(move || client.drive(&mut work, outstanding, limit))
            })
            .collect();
        let outcomes = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        outcomes.reduce(|one, other| one?.and(other?)).context("no connection")?
    })
}

pub struct Client {
    socket: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    calls: u32,
    /// How many users take turns, from this one on.
    users: (Caller, u32),
    /// Where the thread that drives it has to run, if that matters.
    processor: Option<usize>,
}

#[derive(Clone, Copy)]
struct Sent {
    xid: u32,
    at: Instant,
}

impl Client {
    pub fn connect(server: &(String, u16), program: Program, caller: Caller) -> Result<Self> {
        let (host, port) = server;
        let what = || format!("cannot connect to {host} port {port}");
        let address = (host.as_str(), *port)
            .to_socket_addrs()
            .with_context(what)?
            .next()
            .with_context(what)?;
        let socket = TcpStream::connect_timeout(&address, PATIENCE).with_context(what)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            inbox: Inbox::new(),
            outbox: Outbox::new(program, caller),
            // A repeated run must not be taken for retransmissions of the one before it.
            calls: std::process::id().wrapping_mul(2_654_435_761),
            users: (caller, 1),
            processor: None,
        })
    }

    /// Has so many users take turns in what is driven, from `first` on.
    pub fn take_turns(&mut self, first: Caller, users: u32) {
        self.users = (first, users);
    }

    /// Has the thread that drives it run on one of the processors that there are, by turns.
    pub fn pin(&mut self, number: usize) -> Result<()> {
        let allowed = sched_getaffinity(None)?;
        let allowed: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        self.processor = Some(allowed[number % allowed.len()]);
        Ok(())
    }

    /// Makes one call and waits for its answer.
    pub fn one<T>(
        &mut self,
        call: impl FnOnce(&mut Outbox),
        reply: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let xid = self.next_xid(0);
        self.outbox.number(xid);
        call(&mut self.outbox);
        self.flush()?;
        loop {
            self.inbox.receive(&self.socket)?;
            if let Some(record) = self.inbox.record()? {
                let mut record = Reader::new(record);
                ensure!(record.u32()? == xid, "an answer to a call never made");
                accepted(&mut record)?;
                let answer = reply(&mut record)?;
                record.end()?;
                return Ok(answer);
            }
        }
    }

    /// Keeps `outstanding` slots busy until they have no more calls or the time is over.
    pub fn drive(
        &mut self,
        work: &mut dyn Work,
        outstanding: usize,
        limit: Duration,
    ) -> Result<Outcome> {
        if let Some(processor) = self.processor {
            let mut only = CpuSet::new();
            only.set(processor);
            sched_setaffinity(None, &only)?;
        }
        let started = Instant::now();
        let mut nanoseconds = Histogram::new(3)?;
        let mut slots: Vec<Option<Sent>> = vec![None; outstanding];
        let (mut calls, mut units, mut waiting) = (0, 0, 0);
        for (slot, sent) in slots.iter_mut().enumerate() {
            *sent = self.issue(work, slot, started);
            waiting += u32::from(sent.is_some());
        }
        self.flush()?;
        while waiting > 0 {
            self.inbox.receive(&self.socket)?;
            // One look at the clock for the batch: what it brought has arrived by now.
            let now = Instant::now();
            while let Some(record) = self.inbox.record()? {
                let mut record = Reader::new(record);
                let (slot, sent) = asked(&mut slots, record.u32()?)?;
                accepted(&mut record)?;
                units += work.reply(slot, &mut record)?;
                record.end()?;
                calls += 1;
                nanoseconds.record(u64::try_from((now - sent.at).as_nanos())?)?;
                if now - started < limit {
                    slots[slot] = self.issue(work, slot, now);
                }
                waiting -= u32::from(slots[slot].is_none());
            }
            self.flush()?;
        }
        Ok(Outcome { calls, units, elapsed: started.elapsed(), nanoseconds })
    }

    fn issue(&mut self, work: &mut dyn Work, slot: usize, at: Instant) -> Option<Sent> {
        let xid = self.next_xid(slot);
        self.outbox.number(xid);
        if let (first, users @ 2..) = self.users {
            let turn = self.calls % users;
            self.outbox.call_as(Caller { uid: first.uid + turn, gid: first.gid + turn });
        }
        work.call(slot, &mut self.outbox).then_some(Sent { xid, at })
    }

    fn next_xid(&mut self, slot: usize) -> u32 {
        self.calls = self.calls.wrapping_add(1);
        let slot = u32::try_from(slot).expect("a slot is below SLOTS_MAX");
        self.calls << SLOT_BITS | slot
    }

    /// Sends what is in the outbox, and goes on receiving while the server takes no more:
    /// it may be waiting for us to take its answers.
    fn flush(&mut self) -> Result<()> {
        let mut slices = self.outbox.slices();
        let mut rest = &mut slices[..];
        while rest.iter().any(|slice| !slice.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, rest, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(&self.socket, &mut self.inbox)?;
                }
                Err(error) => return Err(error).context("cannot send to the server"),
            }
        }
        self.outbox.clear();
        Ok(())
    }
}

/// Waits until the socket takes more, and receives meanwhile.
fn wait(socket: &TcpStream, inbox: &mut Inbox) -> Result<()> {
    let mut events = PollFlags::OUT;
    if !inbox.is_full() {
        events |= PollFlags::IN;
    }
    let mut polled = [PollFd::new(socket, events)];
    if poll(&mut polled, Some(&Timespec::try_from(PATIENCE)?))? == 0 {
        bail!("the server takes no calls and gives no answers");
    }
    if polled[0].revents().contains(PollFlags::IN) {
        inbox.receive(socket)?;
    }
    Ok(())
}

/// Which slot waits for this answer; it waits no longer.
fn asked(slots: &mut [Option<Sent>], xid: u32) -> Result<(usize, Sent)> {
    let slot = xid as usize % SLOTS_MAX;
    match slots.get_mut(slot) {
        Some(waiting) if waiting.is_some_and(|sent| sent.xid == xid) => {
            let sent = waiting.take().expect("just looked at");
            Ok((slot, sent))
        }
        _ => bail!("an answer to a call never made (xid {xid:#x})"),
    }
}

/// Reads the header of an answer behind its xid (RFC 5531 section 9).
fn accepted(reply: &mut Reader<'_>) -> Result<()> {
    ensure!(reply.u32()? == 1, "the server sent something not a reply");
    let denied = reply.u32()?;
    ensure!(denied == 0, "the server refused the call: {}", reply.u32()?);
    reply.u32()?; // the verifier's flavour: AUTH_NONE has nothing to verify
    reply.opaque(400)?;
    let status = reply.u32()?;
    ensure!(status == 0, "the server did not do the call: {status}");
    Ok(())
}
