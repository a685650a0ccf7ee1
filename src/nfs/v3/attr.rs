//! GETATTR, SETATTR, ACCESS (RFC 1813 §3.3.1, §3.3.2, §3.3.4).

use super::reply::Reply;
use super::types::{Fattr, PostOp, Wcc, time, wire_seconds};
use crate::fs::attr::{Changes, Time};
use crate::nfs::access::grant;
use crate::nfs::context::{CallContext, Fh};
use crate::nfs::durability::Durable;
use crate::nfs::failure::Failure;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// GETATTR: returns the attributes of a file.
pub fn getattr(cx: &CallContext<'_>, fh: Fh<'_>) -> Reply<Fattr, ()> {
    let object = cx.object(fh)?;
    Ok(Fattr::of(&object, object.node.attr_to_read()?))
}

/// `SETATTR3args`
#[derive(Clone, Copy, Debug)]
pub struct SetAttrArgs<'a> {
    object: Fh<'a>,
    changes: Changes,
    /// Change the attributes only if the file's ctime is this.
    guard: Option<Time>,
}

impl<'a> Decode<'a> for SetAttrArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { object: Fh::decode(r)?, changes: Changes::decode(r)?, guard: r.option(time)? })
    }
}

/// SETATTR: changes attributes. With a guard, it fails with `NFS3ERR_NOT_SYNC` if the file has
/// changed since the client read its attributes.
pub fn setattr(cx: &CallContext<'_>, args: SetAttrArgs<'_>) -> Reply<Durable<Wcc, Wcc>, Wcc> {
    let object = cx.object_to_change(args.object)?;
    cx.defer_if_slow(&object)?;
    let guard = cx.fs().lock(&object.node, cx.patience())?;
    let before = object.node.attr()?;
    let wire = |time: Time| (wire_seconds(time), time.nanoseconds);
    let result = if args.guard.is_some_and(|guard| wire(guard) != wire(before.changed)) {
        Err(Failure::NotSync)
    } else {
        cx.core.pace.measure(cx.patience(), || {
            let changes = object.allowed(object.node.kind, args.changes);
            let changed = cx.fs().change(&object.node, &before, &object.caller, &changes, &guard);
            changed.map_err(Failure::from)
        })
    };
    let wcc = Wcc::of(&object, object.since(before));
    drop(guard);
    result.map_err(|failure| failure.with(wcc))?;
    Ok(Durable::same_body(wcc, object.due([&object.node])))
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

/// ACCESS: returns what the caller may do with a file. The owner's right to continue reading and
/// writing despite the mode is not included: clients call ACCESS before they open a file.
pub fn access(cx: &CallContext<'_>, args: AccessArgs<'_>) -> Reply<AccessOk, PostOp> {
    let object = cx.object(args.object)?;
    let attr = object.node.attr_to_read()?;
    let post_op = PostOp(Some(Fattr::of(&object, attr)));
    let granted = grant(cx, &object, args.wanted).map_err(|failure| failure.with(post_op))?;
    Ok(AccessOk { attr: post_op, granted })
}
