//! GETATTR, SETATTR, ACCESS (RFC 1813 §3.3.1, §3.3.2, §3.3.4).

use nfsserve::nfs::nfsstat3;

use super::call::{Call, Object};
use super::promise::{Promise, alike};
use super::status::{Reply, Why};
use super::types::{Decode, Fattr, Fh, PostOp, Wcc, time, wire_seconds};
use crate::export::Mode;
use crate::fs::attr::{Access, Changes, Kind, Time};
use crate::xdr::{Encode, Error, Reader, Writer};

const ACCESS_READ: u32 = 0x01;
const ACCESS_LOOKUP: u32 = 0x02;
const ACCESS_MODIFY: u32 = 0x04;
const ACCESS_EXTEND: u32 = 0x08;
const ACCESS_DELETE: u32 = 0x10;
const ACCESS_EXECUTE: u32 = 0x20;

/// What a read-only export never grants.
const ACCESS_CHANGE: u32 = ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE;

/// GETATTR: the attributes of a file.
pub fn getattr(cx: &Call<'_>, fh: Fh<'_>) -> Reply<Fattr, ()> {
    let object = cx.object(fh)?;
    Ok(object.fattr(object.node.attr_to_read()?))
}

/// `SETATTR3args`
#[derive(Clone, Copy, Debug)]
pub struct SetAttrArgs<'a> {
    object: Fh<'a>,
    changes: Changes,
    /// Only if the file was last changed at this time.
    guard: Option<Time>,
}

impl<'a> Decode<'a> for SetAttrArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { object: Fh::decode(r)?, changes: Changes::decode(r)?, guard: r.option(time)? })
    }
}

/// SETATTR: changes attributes, if nobody else did since the client looked.
pub fn setattr(cx: &Call<'_>, args: &SetAttrArgs<'_>) -> Reply<Promise<Wcc, Wcc>, Wcc> {
    let object = cx.object_to_change(args.object)?;
    cx.may_change_now(&object)?;
    let guard = cx.fs().lock(&object.node, cx.patience())?;
    let before = object.node.attr()?;
    let wire = |time: Time| (wire_seconds(time), time.nanoseconds);
    let result = if args.guard.is_some_and(|guard| wire(guard) != wire(before.changed)) {
        Err(Why::Status(nfsstat3::NFS3ERR_NOT_SYNC))
    } else {
        cx.nfs.pace.watch(cx.patience(), || {
            let changes = object.allowed(object.node.kind, args.changes);
            let changed = cx.fs().change(&object.node, &before, &object.who, &changes, &guard);
            changed.map_err(Why::from)
        })
    };
    let wcc = object.wcc(&before);
    drop(guard);
    result.map_err(|why| why.with(wcc))?;
    alike(wcc, object.due([&object.node]))
}

/// `ACCESS3args`
#[derive(Clone, Copy, Debug)]
pub struct AccessArgs<'a> {
    object: Fh<'a>,
    wanted: u32,
}

impl<'a> Decode<'a> for AccessArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { object: Fh::decode(r)?, wanted: r.u32()? })
    }
}

/// `ACCESS3resok`
#[derive(Clone, Copy, Debug)]
pub struct AccessOk {
    attr: PostOp,
    granted: u32,
}

impl Encode for AccessOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.attr.encode(w);
        w.u32(self.granted);
    }
}

/// ACCESS: what the caller may do with a file. The owner's rights to go on with an open file are
/// left out: a client asks before it opens one.
pub fn access(cx: &Call<'_>, args: AccessArgs<'_>) -> Reply<AccessOk, PostOp> {
    let object = cx.object(args.object)?;
    let attr = object.node.attr_to_read()?;
    let post_op = PostOp(Some(object.fattr(attr)));
    let granted = grant(cx, &object, args.wanted).map_err(|why| why.with(post_op))?;
    Ok(AccessOk { attr: post_op, granted })
}

fn grant(cx: &Call<'_>, object: &Object<'_>, wanted: u32) -> Result<u32, Why> {
    let writable = object.options.mode == Mode::ReadWrite;
    let mut left = if writable { wanted } else { wanted & !ACCESS_CHANGE };
    let mut granted = 0;
    let rights = if object.node.kind == Kind::Directory {
        [
            (Access::Read, ACCESS_READ),
            (Access::Execute, ACCESS_LOOKUP),
            (Access::Write, ACCESS_CHANGE),
        ]
    } else {
        [
            (Access::Read, ACCESS_READ),
            (Access::Execute, ACCESS_EXECUTE),
            (Access::Write, ACCESS_MODIFY | ACCESS_EXTEND),
        ]
    };
    // What means nothing for this kind of file is not granted.
    left &= rights.iter().fold(0, |all, (_, bits)| all | bits);
    for (access, bits) in rights {
        if left & bits != 0 && cx.fs().may(&object.node, &object.who, access)? {
            granted |= left & bits;
        }
    }
    Ok(granted)
}
