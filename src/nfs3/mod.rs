//! NFS version 3 (RFC 1813): program 100003.
//!
//! A table of the 22 procedures, each a function from its arguments to its results. This module has
//! the wire format; [`crate::fs`] has the file operations. Statuses, file types and FSINFO come
//! from the nfsserve crate. Arguments are decoded by our own bounded reader, and frequent replies
//! are encoded by our own writer.

mod attr;
mod context;
mod create;
mod data;
mod durable;
mod errors;
mod info;
mod lookup;
mod readdir;
mod remove;
mod rename;
mod status;
mod types;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;

use nfsserve::nfs::nfsstat3;

use crate::export::table::Exports;
use crate::fs::{Fs, handle};
use crate::rpc::{self, Outcome, Program};
use crate::sched::Patience;
use crate::sched::dirty_budget::DirtyBudget;
use crate::sched::lanes::Lane;
use crate::sched::pace::Pace;
use crate::xdr::{Encode, Error, Reader, Writer};
use context::CallContext;
use durable::Durable;
use status::{Cause, Fail, Reply};
use types::Decode;

/// The program number.
pub const PROGRAM: u32 = 100_003;

/// The version served.
pub const VERSION: u32 = 3;

/// Largest READ and WRITE transfer, in bytes.
pub const TRANSFER_MAX: u32 = 1024 * 1024;

/// Largest call, in bytes: a WRITE whose header, credentials and arguments fit into 4 KiB.
pub const CALL_MAX: usize = TRANSFER_MAX as usize + 4096;

/// The NFS program.
pub struct Nfs {
    fs: Arc<Fs>,
    exports: Arc<Exports>,
    pace: Pace,
    dirty_budget: DirtyBudget,
    hasher: RandomState,
    processors: usize,
}

impl Nfs {
    /// Serves `exports`; their directories must be attached to `fs`.
    pub fn new(fs: Arc<Fs>, exports: Arc<Exports>) -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self {
            fs,
            exports,
            pace: Pace::new(),
            dirty_budget: DirtyBudget::new(),
            hasher: RandomState::new(),
            processors,
        }
    }
}

impl Program for Nfs {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> (u32, u32) {
        (VERSION, VERSION)
    }

    /// SETATTR and the procedures that make, remove or rename. A repeated WRITE has the same
    /// effect, so it is not remembered.
    fn remembers(&self, _version: u32, procedure: u32) -> bool {
        matches!(procedure, 2 | 8..=15)
    }

    /// The results of every procedure but NULL begin with a status.
    fn status(&self, procedure: u32, results: &[u8]) -> u32 {
        if procedure == 0 { 0 } else { Reader::new(results).u32().unwrap_or(0) }
    }

    /// The size that READ, READDIR and READDIRPLUS request.
    fn reply_size(&self, procedure: u32, args: Reader<'_>) -> usize {
        requested_bytes(procedure, args).map_or(0, |bytes| bytes.min(TRANSFER_MAX) as usize)
    }

    /// Calls that change a file or directory take its lock, so one runs at a time. Calls that list
    /// a directory share its read position, so no more run than there are processors. The key comes
    /// from the file handle with which the arguments begin.
    fn lane(&self, procedure: u32, mut args: Reader<'_>) -> Option<Lane> {
        let (is_listing, width) = match procedure {
            2 | 7..=15 => (false, 1),
            16 | 17 => (true, self.processors),
            _ => return None,
        };
        let file = args.opaque(handle::MAX).ok()?;
        Some(Lane { key: self.hasher.hash_one((is_listing, file)), width })
    }

    fn call(&self, call: &rpc::Call<'_>, out: &mut Writer<'_>) -> Outcome {
        let table = self.exports.load();
        let cx = &CallContext { nfs: self, table: &table, rpc: call, export: Cell::new(None) };
        let outcome = match call.procedure {
            0 => Outcome::Done,
            1 => reply(cx, out, |a| attr::getattr(cx, a)),
            2 => reply_durable(cx, out, |a| attr::setattr(cx, &a)),
            3 => reply(cx, out, |a| lookup::lookup(cx, a)),
            4 => reply(cx, out, |a| attr::access(cx, a)),
            5 => reply(cx, out, |a| lookup::readlink(cx, a)),
            6 => reply_with(cx, out, |a, w| data::read(cx, a, w)),
            7 => reply_durable(cx, out, |a| data::write(cx, &a)),
            8 => reply_durable(cx, out, |a| create::create(cx, &a)),
            9 => reply_durable(cx, out, |a| create::mkdir(cx, &a)),
            10 => reply_durable(cx, out, |a| create::symlink(cx, &a)),
            11 => reply_durable(cx, out, |a| create::mknod(cx, &a)),
            12 => reply_durable(cx, out, |a| remove::remove(cx, a)),
            13 => reply_durable(cx, out, |a| remove::rmdir(cx, a)),
            14 => reply_durable(cx, out, |a| rename::rename(cx, a)),
            15 => reply_durable(cx, out, |a| rename::link(cx, a)),
            16 => reply_with(cx, out, |a, w| readdir::readdir(cx, a, w)),
            17 => reply_with(cx, out, |a, w| readdir::readdirplus(cx, a, w)),
            18 => reply(cx, out, |a| info::fsstat(cx, a)),
            19 => reply(cx, out, |a| info::fsinfo(cx, a)),
            20 => reply(cx, out, |a| info::pathconf(cx, a)),
            21 => reply_durable(cx, out, |a| data::commit(cx, a)),
            _ => Outcome::Unavailable,
        };
        // Counted once, when the call completes: a deferred call runs again.
        if !matches!(outcome, Outcome::Later | Outcome::Wait(_))
            && let Some(export) = cx.export.get()
        {
            export.traffic.call();
        }
        outcome
    }
}

/// The reply size that a call requests, decoded from its arguments.
fn requested_bytes(procedure: u32, mut args: Reader<'_>) -> Result<u32, Error> {
    match procedure {
        6 => {
            args.opaque(handle::MAX)?;
            args.u64()?; // offset
            args.u32()
        }
        16 | 17 => {
            args.opaque(handle::MAX)?;
            args.fixed::<16>()?; // cookie and cookie verifier
            let count = args.u32()?;
            if procedure == 16 { Ok(count) } else { args.u32() }
        }
        _ => Ok(0),
    }
}

/// Decodes the arguments, runs the procedure, and encodes its results.
fn reply<'a, A: Decode<'a>, R: Encode, F: Encode + Default>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A) -> Reply<R, F>,
) -> Outcome {
    reply_with(cx, out, |args, w| {
        let result = procedure(args)?;
        w.u32(nfsstat3::NFS3_OK as u32);
        result.encode(w);
        Ok(())
    })
}

/// As [`reply`], for a procedure whose reply may have to wait until its changes are on stable
/// storage.
fn reply_durable<'a, A: Decode<'a>, R, F>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A) -> Reply<Durable<R, F>, F>,
) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Default + Send + 'static,
{
    let mut durable = None;
    let outcome = reply_with(cx, out, |args, _| {
        durable = Some(procedure(args)?);
        Ok(())
    });
    match durable {
        Some(reply) => durable::send(cx, out, reply),
        None => outcome,
    }
}

/// As [`reply`], for a procedure that encodes its own successful results, including the status.
fn reply_with<'a, A: Decode<'a>, F: Encode + Default>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A, &mut Writer<'_>) -> Reply<(), F>,
) -> Outcome {
    let args = match decode(cx.rpc.args) {
        Ok(args) => args,
        Err(error) => return error.into(),
    };
    let start = out.mark();
    let Err(Fail { cause, body }) = procedure(args, out) else { return Outcome::Done };
    out.rewind(start);
    let status = match cause {
        Cause::Status(status) => status,
        Cause::WouldBlock if cx.patience() == Patience::None => return Outcome::Later,
        // Operations that may block do not return this.
        Cause::WouldBlock => nfsstat3::NFS3ERR_JUKEBOX,
        Cause::Full => match cx.wait_for_room() {
            Some(wait) => return wait,
            None => nfsstat3::NFS3ERR_NOSPC,
        },
    };
    tracing::debug!(peer = %cx.rpc.peer, proc = cx.rpc.procedure, error = ?status, "call failed");
    out.u32(status as u32);
    body.encode(out);
    Outcome::Done
}

fn decode<'a, A: Decode<'a>>(mut args: Reader<'a>) -> Result<A, Error> {
    A::decode(&mut args)
}
