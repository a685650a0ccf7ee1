//! COMPOUND: operations in order, until one fails (RFC 8881 section 16.2).
//!
//! ```text
//!   SEQUENCE --> operations, each with the current file that those before it left
//!      ^             |                                      |
//!      |             | one would block                      | one owes a flush
//!      |             v                                      v
//!      |        Suspended, kept in the slot         the rest changes nothing;
//!      |             |                              the reply is sent after the flush
//!      |             v
//!      +---- the same call, on a thread of the pool, goes on from there
//! ```
//!
//! What came before the operation that would block has happened and must not run again. The
//! compound is therefore kept in its slot, where it outlives the call: if the connection is lost,
//! the client's retransmission goes on from there.
//!
//! A change that must be on stable storage before the reply is flushed once, at the end. If another
//! change follows in the same compound, it is flushed before that, because a failed flush ends the
//! compound at the operation that owes it.

mod results;

use std::hash::{DefaultHasher, Hasher};
use std::sync::mpsc;

use super::file::{FileSlot, SuspendedFile};
use super::ops::{self, Effect, SEQUENCE};
use super::server::{PseudoView, Server};
use super::session::{RunningRequest, Suspension};
use super::status::Status;
use crate::errno::Errno;
use crate::fs::flush::Due;
use crate::nfs::context::CallContext;
use crate::nfs::durability;
use crate::nfs::failure::Failure;
use crate::rpc::program::Outcome;
use crate::sched::Patience;
use crate::xdr::{self, Reader, Writer};
use results::{Header, Whole, put};

pub use results::{Results, Start};

/// Largest results of an operation that changes something. An operation whose results may not fit
/// is not carried out.
const RESULTS_MAX: usize = 1024;

/// Bytes of a call that its checksum covers: enough to tell two calls with one sequence number
/// apart, without reading all data of a WRITE once more.
const CHECKSUM_OF: usize = 512;

/// The result of an operation that has appended its results.
pub type OpResult = Result<(), Stop>;

/// Why an operation ends its compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It failed, and has no results but the status.
    Status(Status),
    /// It failed, and has appended the results that go with the status.
    WithResults(Status),
    /// It would block. Nothing was done.
    WouldBlock,
    /// The volume is full, but may have room after its files are flushed. Nothing was done.
    Full,
}

/// A compound under way.
pub struct Compound<'a> {
    /// The call, its exports, and the rights of its caller.
    pub cx: CallContext<'a>,
    /// What all calls of the version share.
    pub server: &'a Server,
    /// The pseudo file system, as it was when the call began.
    pub pseudo: &'a PseudoView,
    /// The minor version.
    pub minor: u32,
    /// The number of its operations.
    pub operations: u32,
    /// The current file.
    pub current: FileSlot<'a>,
    /// The saved file.
    pub saved: FileSlot<'a>,
    /// The request in its slot, after SEQUENCE.
    pub request: Option<RunningRequest>,
    owed: Option<Owed>,
}

/// A flush that must succeed before the reply is sent.
struct Owed {
    due: Due,
    /// The number of the operation, from 0.
    index: u32,
    /// Where its status stands, from the start of the results.
    status_at: usize,
}

/// A compound that waits for a thread that may block.
struct Suspended {
    current: SuspendedFile,
    saved: SuspendedFile,
    owed: Option<Owed>,
    /// The results so far, after the header.
    results: Vec<u8>,
    /// The operation to go on with, and the bytes of arguments from there on.
    index: u32,
    rest: usize,
}

/// Where the operations ended.
enum End {
    /// All were carried out, or one failed: the status, and the number of results.
    Status(Status, u32),
    /// The operation with this number would block, or wait for room; `rest` are the bytes of
    /// arguments from it on.
    Suspend { index: u32, rest: usize, why: Stop },
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::WouldBlock => Self::WouldBlock,
            Failure::Full => Self::Full,
            failure => Self::Status(failure.into()),
        }
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Status(errno.into())
    }
}

impl From<xdr::Error> for Stop {
    //= RFC 8881 15.1.1.1: arguments that cannot be decoded get BADXDR
    fn from(_: xdr::Error) -> Self {
        Self::Status(Status::BADXDR)
    }
}

/// Carries out a COMPOUND.
pub fn compound<'a>(
    server: &'a Server,
    pseudo: &'a PseudoView,
    cx: CallContext<'a>,
    out: &mut Writer<'_>,
) -> Outcome {
    let mut args = cx.rpc.args;
    let Ok(header) = Header::decode(&mut args) else { return Outcome::Garbage };
    let mut results = Results::begin(out, header.tag);
    //= RFC 8881 16.2.3: an unknown minor version gets MINOR_VERS_MISMATCH, and no results
    if !server.serves_minor(header.minor) {
        return results.end(Status::MINOR_VERS_MISMATCH, 0);
    }
    let mut compound = Compound {
        cx,
        server,
        pseudo,
        minor: header.minor,
        operations: header.operations,
        current: FileSlot::default(),
        saved: FileSlot::default(),
        request: None,
        owed: None,
    };
    match compound.begin(&mut args, &mut results) {
        Start::At(index) => {
            let end = compound.run(index, args, &mut results);
            compound.finish(end, results)
        }
        Start::Replay(reply) => {
            results.w.rewind(results.start);
            results.w.fixed(&reply);
            Outcome::Done { status: Reader::new(&reply).u32().unwrap_or(0) }
        }
        Start::Ended(status, operations) => results.end(status, operations),
    }
}

impl<'a> Compound<'a> {
    /// Carries out SEQUENCE if the compound begins with it, or checks that it needs none. Leaves
    /// `args` at the operation to go on with.
    fn begin(&mut self, args: &mut Reader<'a>, results: &mut Results<'_, '_>) -> Start {
        if self.operations == 0 {
            return Start::Ended(Status::OK, 0);
        }
        let mut first = *args;
        match first.u32() {
            Ok(SEQUENCE) => {
                *args = first;
                ops::sequence(self, args, results)
            }
            //= RFC 8881 18.35.3: without SEQUENCE, an operation of sessions is the only one
            Ok(number) if ops::needs_no_session(number) && self.operations == 1 => Start::At(0),
            Ok(number) if ops::needs_no_session(number) => {
                results.only(number, Status::NOT_ONLY_OP)
            }
            //= RFC 8881 2.10.6.1: other operations follow a SEQUENCE, or get OP_NOT_IN_SESSION
            Ok(number) if ops::find(number, self.minor).is_some() => {
                results.only(number, Status::OP_NOT_IN_SESSION)
            }
            Ok(_) => results.only(ops::ILLEGAL, Status::OP_ILLEGAL),
            Err(_) => results.only(ops::ILLEGAL, Status::BADXDR),
        }
    }

    /// Returns the checksum by which a retransmission is told from another call.
    pub fn checksum(&self) -> u64 {
        let bytes = self.cx.rpc.args.rest();
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes[..bytes.len().min(CHECKSUM_OF)]);
        hasher.write_usize(bytes.len());
        hasher.finish()
    }

    /// Restores what [`Self::suspend`] has kept. Returns where to go on.
    pub fn resume(
        &mut self,
        kept: Suspension,
        args: &mut Reader<'a>,
        results: &mut Results<'_, '_>,
    ) -> Start {
        let bytes = self.cx.rpc.args.rest();
        let Ok(suspended) = kept.0.downcast::<Suspended>() else {
            return results.only(SEQUENCE, Status::SERVERFAULT);
        };
        let Suspended { current, saved, owed, results: before, index, rest } = *suspended;
        // The checksum of the call includes its length.
        *args = Reader::new(&bytes[bytes.len().saturating_sub(rest)..]);
        self.current = FileSlot::resume(current);
        self.saved = FileSlot::resume(saved);
        self.owed = owed;
        results.w.buffer().extend_from_slice(&before);
        Start::At(index)
    }

    fn run(&mut self, start: u32, mut args: Reader<'a>, results: &mut Results<'_, '_>) -> End {
        for index in start..self.operations {
            let rest = args.rest().len();
            let before = results.w.mark();
            let status = match self.operate(index, &mut args, results) {
                Ok(status) => status,
                Err(why) => {
                    results.w.rewind(before);
                    return End::Suspend { index, rest, why };
                }
            };
            if status != Status::OK {
                return End::Status(status, index + 1);
            }
        }
        End::Status(Status::OK, self.operations)
    }

    /// Carries out the operation of this number. Returns its status, which is among the results.
    ///
    /// # Errors
    /// It would block, or wait for room. What it has appended is to be removed.
    fn operate(
        &mut self,
        index: u32,
        args: &mut Reader<'a>,
        results: &mut Results<'_, '_>,
    ) -> Result<Status, Stop> {
        let (known, status) = match args.u32() {
            Ok(number) => {
                (ops::find(number, self.minor).map(|op| (number, op)), Status::OP_ILLEGAL)
            }
            Err(_) => (None, Status::BADXDR),
        };
        let Some((number, operation)) = known else {
            //= RFC 8881 18.52.3: an operation that the minor version does not have: OP_ILLEGAL
            results.w.u32(ops::ILLEGAL);
            results.w.u32(status.0);
            return Ok(status);
        };
        results.w.u32(number);
        let hole = results.w.hole();
        let body = results.w.mark();
        let done = self
            .prepare(operation.effect, results)
            .and_then(|()| (operation.run)(self, args, results.w));
        let status = match done {
            Ok(()) => match self.check_size(results) {
                Ok(()) => Status::OK,
                Err(status) => {
                    results.w.rewind(body);
                    status
                }
            },
            Err(Stop::WithResults(status)) => status,
            Err(Stop::Status(status)) => {
                results.w.rewind(body);
                operation.encode_failure(results.w);
                status
            }
            Err(why) => return Err(why),
        };
        results.w.fill(hole, status.0);
        if let Some(owed) = self.owed.as_mut().filter(|owed| owed.status_at == usize::MAX) {
            (owed.index, owed.status_at) = (index, results.position(hole));
        }
        Ok(status)
    }

    /// Checks whether an operation with this effect can be carried out, and flushes what an earlier
    /// one owes.
    fn prepare(&mut self, effect: Effect, results: &Results<'_, '_>) -> OpResult {
        if effect == Effect::Reads {
            return Ok(());
        }
        if results.w.since(results.start) + RESULTS_MAX > self.reply_max() {
            return Err(self.size_error().into());
        }
        if self.owed.is_none() {
            return Ok(());
        }
        if self.cx.patience() == Patience::None {
            return Err(Stop::WouldBlock);
        }
        self.flush_owed()
    }

    /// Flushes what an earlier operation of the compound owes. Blocks: clients send compounds with
    /// one change.
    fn flush_owed(&mut self) -> OpResult {
        let Some(owed) = self.owed.take() else { return Ok(()) };
        let (flushed, result) = mpsc::channel();
        let then = Box::new(move |result| {
            let _ = flushed.send(result); // the receiver waits for it
        });
        self.cx.fs().make_durable(owed.due, then);
        match result.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(errno)) => Err(errno.into()),
            Err(_) => Err(Status::IO.into()),
        }
    }

    /// Checks that the operation may block.
    ///
    /// # Errors
    /// `WouldBlock`.
    pub const fn check_patience(&self) -> OpResult {
        match self.cx.patience() {
            Patience::None => Err(Stop::WouldBlock),
            Patience::Blocking => Ok(()),
        }
    }

    /// Has the reply sent only after this was flushed, which the current operation owes.
    pub fn owe(&mut self, due: Option<Due>) {
        if let Some(due) = due {
            self.owed = Some(Owed { due, index: 0, status_at: usize::MAX });
        }
    }

    /// Returns how many bytes the results of the compound may have.
    pub fn reply_max(&self) -> usize {
        const RPC_HEADER: usize = 24;
        let max = self.request.as_ref().map_or(u32::MAX, RunningRequest::reply_max);
        (max as usize).saturating_sub(RPC_HEADER)
    }

    fn size_error(&self) -> Status {
        let error = self.request.as_ref().map(RunningRequest::size_error);
        error.map_or(Status::REP_TOO_BIG, |error| Status(error.status()))
    }

    fn check_size(&self, results: &Results<'_, '_>) -> Result<(), Status> {
        //= RFC 8881 2.10.6.4: an operation whose results exceed the size of replies: REP_TOO_BIG
        if results.w.since(results.start) > self.reply_max() {
            Err(self.size_error())
        } else {
            Ok(())
        }
    }

    /// Ends the call: with the reply, after a flush, or suspended.
    fn finish(mut self, end: End, mut results: Results<'_, '_>) -> Outcome {
        let (status, operations) = match end {
            End::Status(status, operations) => (status, operations),
            End::Suspend { index, rest, why } => {
                match self.suspend(index, rest, why, &mut results) {
                    Ok(outcome) => return outcome,
                    Err(status) => (status, index + 1),
                }
            }
        };
        if let Some(owed) = self.owed.take() {
            return self.reply_after_flush(owed, status, operations, results);
        }
        let Results { start, .. } = results;
        results.w.fill(results.status, status.0);
        results.w.fill(results.count, operations);
        if let Some(request) = self.request.take() {
            request.complete(results.w.written(start));
        }
        self.cx.count(&Outcome::SUCCESS);
        Outcome::Done { status: status.0 }
    }

    /// Keeps the compound in its slot, for a thread that may block.
    ///
    /// # Errors
    /// The status of the operation, which was appended: the compound has no slot, or the call may
    /// not wait.
    fn suspend(
        &mut self,
        index: u32,
        rest: usize,
        why: Stop,
        results: &mut Results<'_, '_>,
    ) -> Result<Outcome, Status> {
        let would_block = why == Stop::WouldBlock && self.cx.patience() == Patience::None;
        if would_block && index == 0 {
            return Ok(Outcome::Later); // nothing was done
        }
        let outcome = match why {
            _ if would_block => Ok(Outcome::Later),
            Stop::Full => self.cx.wait_for_room().ok_or(Status::NOSPC),
            // A client retries.
            _ => Err(Status::DELAY),
        };
        let (outcome, request) = match (outcome, self.request.take()) {
            (Ok(outcome), Some(request)) => (outcome, request),
            (outcome, request) => {
                self.request = request;
                let bytes = self.cx.rpc.args.rest();
                let mut args = Reader::new(&bytes[bytes.len() - rest..]);
                let status = outcome.err().unwrap_or(Status::DELAY);
                results.w.u32(args.u32().unwrap_or(ops::ILLEGAL));
                results.w.u32(status.0);
                return Err(status);
            }
        };
        let suspended = Suspended {
            current: self.current.suspend(),
            saved: self.saved.suspend(),
            owed: self.owed.take(),
            results: results.w.written(results.first).to_vec(),
            index,
            rest,
        };
        request.suspend(Suspension(Box::new(suspended)));
        Ok(outcome)
    }

    /// Sends the reply after the flush that an operation owes. If that fails, the compound ends at
    /// this operation: those after it have changed nothing.
    fn reply_after_flush(
        mut self,
        owed: Owed,
        status: Status,
        operations: u32,
        results: Results<'_, '_>,
    ) -> Outcome {
        let (status_at, count_at) = (owed.status_at, results.position(results.count));
        results.w.fill(results.status, status.0);
        results.w.fill(results.count, operations);
        let mut reply = results.w.written(results.start).to_vec();
        let request = self.request.take();
        self.cx.count(&Outcome::SUCCESS);
        durability::after_flush(self.cx.core, owed.due, move |flushed, ready| {
            let mut status = status;
            if let Err(errno) = flushed {
                status = errno.into();
                put(&mut reply, status_at, status.0);
                reply.truncate(status_at + 4);
                put(&mut reply, 0, status.0);
                put(&mut reply, count_at, owed.index + 1);
            }
            if let Some(request) = request {
                request.complete(&reply);
            }
            ready.write(status.0, &Whole(&reply));
        })
    }
}

#[cfg(test)]
mod tests;
