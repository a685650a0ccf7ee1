//! Connections with many calls outstanding, each driven by one thread.
//!
//! Each of the `outstanding` slots has one outstanding call: when its reply has arrived and has
//! been checked, the slot makes its next call. All replies of one `recv` are handled before the
//! calls that follow are sent by one `sendmsg`.

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

/// Timeout for connecting, receiving and sending.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An xid consists of the number of the call and, in its lowest bits, the slot.
const SLOT_BITS: u32 = 8;
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// The calls of a workload, and the check of their replies.
pub trait Work {
    /// Writes the next call of this slot. Returns false if the slot has none left.
    fn call(&mut self, slot: usize, out: &mut Outbox) -> bool;

    /// Checks the reply to the slot's call and returns the work done, in the workload's unit.
    fn reply(&mut self, slot: usize, reply: &mut Reader<'_>) -> Result<u64>;
}

/// The measurements of a workload.
pub struct Outcome {
    pub calls: u64,
    pub units: u64,
    pub elapsed: Duration,
    pub nanoseconds: Histogram<u64>,
}

impl Outcome {
    /// Merges the measurements of two connections that ran concurrently.
    fn merge(mut self, other: Self) -> Result<Self> {
        self.calls += other.calls;
        self.units += other.units;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.nanoseconds.add(other.nanoseconds)?;
        Ok(self)
    }
}

/// Runs a workload on all connections concurrently; `share` returns the part of each.
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
        outcomes.reduce(|one, other| one?.merge(other?)).context("no connection")?
    })
}

pub struct Client {
    socket: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    calls: u32,
    /// The first user, and the number of users that calls alternate between.
    users: (Caller, u32),
    /// The processor that the driving thread is pinned to, if any.
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
        let socket = TcpStream::connect_timeout(&address, TIMEOUT).with_context(what)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            inbox: Inbox::new(),
            outbox: Outbox::new(program, caller),
            // Different in each run: the server must not take calls for retransmissions of an
            // earlier run.
            calls: std::process::id().wrapping_mul(2_654_435_761),
            users: (caller, 1),
            processor: None,
        })
    }

    /// Makes calls alternate between `users` consecutive users, starting with `first`.
    pub fn take_turns(&mut self, first: Caller, users: u32) {
        self.users = (first, users);
    }

    /// Pins the driving thread to a processor; connections are distributed over the available ones.
    pub fn pin(&mut self, number: usize) -> Result<()> {
        let allowed = sched_getaffinity(None)?;
        let allowed: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        self.processor = Some(allowed[number % allowed.len()]);
        Ok(())
    }

    /// Makes one call and waits for its reply.
    pub fn one<T>(
        &mut self,
        call: impl FnOnce(&mut Outbox),
        reply: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let xid = self.next_xid(0);
        self.outbox.set_xid(xid);
        call(&mut self.outbox);
        self.flush()?;
        loop {
            self.inbox.receive(&self.socket)?;
            if let Some(record) = self.inbox.record()? {
                let mut record = Reader::new(record);
                ensure!(record.u32()? == xid, "a reply to a call that was not made");
                accepted(&mut record)?;
                let result = reply(&mut record)?;
                record.end()?;
                return Ok(result);
            }
        }
    }

    /// Runs a workload with `outstanding` slots until they have no calls left or `limit` has
    /// passed.
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
            // The clock is read once for the batch, because all of it has arrived by now.
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
        self.outbox.set_xid(xid);
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

    /// Sends the outbox. Receives while the socket is full, because the server may be blocked until
    /// its replies are read.
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

/// Waits until the socket is writable or has data, and receives that.
fn wait(socket: &TcpStream, inbox: &mut Inbox) -> Result<()> {
    let mut events = PollFlags::OUT;
    if !inbox.is_full() {
        events |= PollFlags::IN;
    }
    let mut polled = [PollFd::new(socket, events)];
    if poll(&mut polled, Some(&Timespec::try_from(TIMEOUT)?))? == 0 {
        bail!("the server neither reads calls nor sends replies");
    }
    if polled[0].revents().contains(PollFlags::IN) {
        inbox.receive(socket)?;
    }
    Ok(())
}

/// Finds the slot that waits for this reply, and takes its call.
fn asked(slots: &mut [Option<Sent>], xid: u32) -> Result<(usize, Sent)> {
    let slot = xid as usize % SLOTS_MAX;
    match slots.get_mut(slot) {
        Some(waiting) if waiting.is_some_and(|sent| sent.xid == xid) => {
            let sent = waiting.take().expect("it was matched above");
            Ok((slot, sent))
        }
        _ => bail!("a reply to a call that was not made (xid {xid:#x})"),
    }
}

/// Reads the header of a reply after its xid (RFC 5531 section 9).
fn accepted(reply: &mut Reader<'_>) -> Result<()> {
    ensure!(reply.u32()? == 1, "the server sent a record that is not a reply");
    let denied = reply.u32()?;
    ensure!(denied == 0, "the server denied the call: {}", reply.u32()?);
    reply.u32()?; // the flavor of the verifier, which is not checked
    reply.opaque(400)?;
    let status = reply.u32()?;
    ensure!(status == 0, "the server did not accept the call: accept_stat {status}");
    Ok(())
}
