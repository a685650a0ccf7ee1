//! NFS version 3 (RFC 1813): program 100003.
//!
//! A table of 22 procedures, each a plain function from its arguments to its results. What goes
//! over the wire is here; what is done to files is in [`crate::fs`]. The vocabulary (statuses, file
//! types, FSINFO) is the nfsserve crate's; bytes of peers are read by our own bounded reader, and
//! hot replies are written by our own writer.

mod attr;
mod call;
mod create;
mod credit;
mod data;
mod errors;
mod info;
mod lookup;
mod pace;
mod promise;
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
use crate::rpc::lanes::Lane;
use crate::rpc::{self, Outcome, Program};
use crate::xdr::{Encode, Error, Reader, Writer};
use call::Call;
use credit::Credit;
use pace::Pace;
use promise::Promise;
use status::{Fail, Reply, Why};
use types::Decode;

/// The program's number.
pub const PROGRAM: u32 = 100_003;

/// The version that is served.
pub const VERSION: u32 = 3;

/// Largest READ and WRITE, in bytes.
pub const TRANSFER_MAX: u32 = 1024 * 1024;

/// Largest call: a WRITE with everything around its data, which is far below 4 KiB.
pub const CALL_MAX: usize = TRANSFER_MAX as usize + 4096;

/// The NFS program.
pub struct Nfs {
    fs: Arc<Fs>,
    exports: Arc<Exports>,
    pace: Pace,
    credit: Credit,
    hasher: RandomState,
    processors: usize,
}

impl Nfs {
    /// Serves `exports`, whose directories `fs` has open.
    pub fn new(fs: Arc<Fs>, exports: Arc<Exports>) -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self {
            fs,
            exports,
            pace: Pace::new(),
            credit: Credit::new(),
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

    /// SETATTR, and all that make, remove or move names. A WRITE may be repeated.
    fn remembers(&self, _version: u32, procedure: u32) -> bool {
        matches!(procedure, 2 | 8..=15)
    }

    /// The results of all but NULL begin with a status.
    fn status(&self, procedure: u32, results: &[u8]) -> u32 {
        if procedure == 0 { 0 } else { Reader::new(results).u32().unwrap_or(0) }
    }

    /// READ, READDIR and READDIRPLUS: as many bytes as the client asks for.
    fn reply_size(&self, procedure: u32, args: Reader<'_>) -> usize {
        asked_for(procedure, args).map_or(0, |bytes| bytes.min(TRANSFER_MAX) as usize)
    }

    /// What changes a file or a directory takes its lock; those who list a directory share a position
    /// in it, and are as many as can make progress. All of them begin with its handle.
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
        let cx = &Call { nfs: self, table: &table, rpc: call, export: Cell::new(None) };
        let outcome = match call.procedure {
            0 => Outcome::Done,
            1 => answer(cx, out, |a| attr::getattr(cx, a)),
            2 => answer_settled(cx, out, |a| attr::setattr(cx, &a)),
            3 => answer(cx, out, |a| lookup::lookup(cx, a)),
            4 => answer(cx, out, |a| attr::access(cx, a)),
            5 => answer(cx, out, |a| lookup::readlink(cx, a)),
            6 => write_answer(cx, out, |a, w| data::read(cx, a, w)),
            7 => answer_settled(cx, out, |a| data::write(cx, &a)),
            8 => answer_settled(cx, out, |a| create::create(cx, &a)),
            9 => answer_settled(cx, out, |a| create::mkdir(cx, &a)),
            10 => answer_settled(cx, out, |a| create::symlink(cx, &a)),
            11 => answer_settled(cx, out, |a| create::mknod(cx, &a)),
            12 => answer_settled(cx, out, |a| remove::remove(cx, a)),
            13 => answer_settled(cx, out, |a| remove::rmdir(cx, a)),
            14 => answer_settled(cx, out, |a| rename::rename(cx, a)),
            15 => answer_settled(cx, out, |a| rename::link(cx, a)),
            16 => write_answer(cx, out, |a, w| readdir::readdir(cx, a, w)),
            17 => write_answer(cx, out, |a, w| readdir::readdirplus(cx, a, w)),
            18 => answer(cx, out, |a| info::fsstat(cx, a)),
            19 => answer(cx, out, |a| info::fsinfo(cx, a)),
            20 => answer(cx, out, |a| info::pathconf(cx, a)),
            21 => answer_settled(cx, out, |a| data::commit(cx, a)),
            _ => Outcome::Unavailable,
        };
        // Once for each call, however often it is tried.
        if !matches!(outcome, Outcome::Later | Outcome::Wait(_))
            && let Some(export) = cx.export.get()
        {
            export.traffic.call();
        }
        outcome
    }
}

/// How many bytes a call asks for, behind the handle that its arguments begin with.
fn asked_for(procedure: u32, mut args: Reader<'_>) -> Result<u32, Error> {
    match procedure {
        6 => {
            args.opaque(handle::MAX)?;
            args.u64()?; // the offset
            args.u32()
        }
        16 | 17 => {
            args.opaque(handle::MAX)?;
            args.fixed::<16>()?; // a cookie and its verifier
            let count = args.u32()?;
            if procedure == 16 { Ok(count) } else { args.u32() }
        }
        _ => Ok(0),
    }
}

/// Decodes the arguments, runs the procedure, and writes what it answers.
fn answer<'a, A: Decode<'a>, R: Encode, F: Encode + Default>(
    cx: &Call<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A) -> Reply<R, F>,
) -> Outcome {
    write_answer(cx, out, |args, w| {
        let result = procedure(args)?;
        w.u32(nfsstat3::NFS3_OK as u32);
        result.encode(w);
        Ok(())
    })
}

/// The same for a procedure whose answer may have to wait for the disk.
fn answer_settled<'a, A: Decode<'a>, R, F>(
    cx: &Call<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A) -> Reply<Promise<R, F>, F>,
) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Default + Send + 'static,
{
    let mut promised = None;
    let outcome = write_answer(cx, out, |args, _| {
        promised = Some(procedure(args)?);
        Ok(())
    });
    match promised {
        Some(promise) => promise::keep(cx, out, promise),
        None => outcome,
    }
}

/// The same for a procedure that writes its success itself, status included.
fn write_answer<'a, A: Decode<'a>, F: Encode + Default>(
    cx: &Call<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(A, &mut Writer<'_>) -> Reply<(), F>,
) -> Outcome {
    let args = match decode(cx.rpc.args) {
        Ok(args) => args,
        Err(error) => return error.into(),
    };
    let start = out.mark();
    let Err(Fail { why, body }) = procedure(args, out) else { return Outcome::Done };
    out.rewind(start);
    let status = match why {
        Why::Status(status) => status,
        Why::Later if cx.patience() == crate::sys::Patience::None => return Outcome::Later,
        // The file system itself asks to come back later.
        Why::Later => nfsstat3::NFS3ERR_JUKEBOX,
        Why::Full => match cx.wait_for_room() {
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
