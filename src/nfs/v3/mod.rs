//! NFS version 3 (RFC 1813).
//!
//! A table of the 22 procedures, each a function from its arguments to its results. This module has
//! the wire format; [`crate::fs`] has the file operations. Statuses, file types and FSINFO come
//! from the nfsserve crate. Arguments are decoded by our own bounded reader, and frequent replies
//! are encoded by our own writer.

mod attr;
mod create;
mod data;
mod info;
mod lookup;
mod readdir;
mod remove;
mod rename;
mod reply;
mod status;
mod types;

use super::context::CallContext;
use super::core::{Core, LaneKind, TRANSFER_MAX};
use crate::fs::handle;
use crate::rpc::{Call, Outcome};
use crate::sched::lanes::Lane;
use crate::xdr::{Error, Reader, Writer};
use reply::{reply, reply_durable, reply_with};

/// The version.
pub const VERSION: u32 = 3;

/// Whether a repeated call must get the reply of the first: SETATTR and the procedures that make,
/// remove or rename. A repeated WRITE has the same effect, so it is not remembered.
pub const fn remembers(procedure: u32) -> bool {
    matches!(procedure, 2 | 8..=15)
}

/// The status of a reply. The results of every procedure but NULL begin with it.
pub fn status(procedure: u32, results: &[u8]) -> u32 {
    if procedure == 0 { 0 } else { Reader::new(results).u32().unwrap_or(0) }
}

/// The size that READ, READDIR and READDIRPLUS request.
pub fn reply_size(procedure: u32, args: Reader<'_>) -> usize {
    requested_bytes(procedure, args).map_or(0, |bytes| bytes.min(TRANSFER_MAX) as usize)
}

/// The lane of a call. The key comes from the file handle with which the arguments begin.
pub fn lane(core: &Core, procedure: u32, mut args: Reader<'_>) -> Option<Lane> {
    let kind = match procedure {
        2 | 7..=15 => LaneKind::Changes,
        16 | 17 => LaneKind::Listings,
        _ => return None,
    };
    Some(core.lane(kind, args.opaque(handle::MAX).ok()?))
}

/// Carries out a call.
pub fn call(core: &Core, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
    let table = core.exports.load();
    let cx = &CallContext::new(core, &table, call);
    let outcome = match call.procedure {
        0 => Outcome::Done,
        1 => reply(cx, out, attr::getattr),
        2 => reply_durable(cx, out, attr::setattr),
        3 => reply(cx, out, lookup::lookup),
        4 => reply(cx, out, attr::access),
        5 => reply(cx, out, lookup::readlink),
        6 => reply_with(cx, out, data::read),
        7 => reply_durable(cx, out, data::write),
        8 => reply_durable(cx, out, create::create),
        9 => reply_durable(cx, out, create::mkdir),
        10 => reply_durable(cx, out, create::symlink),
        11 => reply_durable(cx, out, create::mknod),
        12 => reply_durable(cx, out, remove::remove),
        13 => reply_durable(cx, out, remove::rmdir),
        14 => reply_durable(cx, out, rename::rename),
        15 => reply_durable(cx, out, rename::link),
        16 => reply_with(cx, out, readdir::readdir),
        17 => reply_with(cx, out, readdir::readdirplus),
        18 => reply(cx, out, info::fsstat),
        19 => reply(cx, out, info::fsinfo),
        20 => reply(cx, out, info::pathconf),
        21 => reply_durable(cx, out, data::commit),
        _ => Outcome::Unavailable,
    };
    cx.count(&outcome);
    outcome
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
