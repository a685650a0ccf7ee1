//! LOOKUP, READLINK (RFC 1813 §3.3.3, §3.3.5).

use super::context::CallContext;
use super::status::{Cause, Reply};
use super::types::{DirOp, Fattr, Fh, PostOp};
use crate::fs::error::Error;
use crate::fs::handle::Handle;
use crate::fs::name::Name;
use crate::xdr::{Encode, Writer};

/// `LOOKUP3resok`
#[derive(Clone, Copy, Debug)]
pub struct LookupOk {
    handle: Handle,
    attr: Fattr,
    dir: PostOp,
}

impl Encode for LookupOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.handle.encode(w);
        w.option(Some(&self.attr));
        self.dir.encode(w);
    }
}

/// LOOKUP: looks up a name in a directory.
pub fn lookup(cx: &CallContext<'_>, args: DirOp<'_>) -> Reply<LookupOk, PostOp> {
    let dir = cx.object(args.dir)?;
    let found = Name::new(args.name)
        .map_err(Error::from)
        .and_then(|name| cx.fs().find(&dir.node, name, &dir.caller, cx.patience()));
    match found {
        Ok((node, attr)) => {
            Ok(LookupOk { handle: *node.handle(), attr: dir.fattr(attr), dir: dir.post_op() })
        }
        Err(errno) => Err(Cause::from(errno).with(dir.post_op())),
    }
}

/// `READLINK3resok`
#[derive(Clone, Debug)]
pub struct ReadLinkOk {
    attr: PostOp,
    target: Vec<u8>,
}

impl Encode for ReadLinkOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.attr.encode(w);
        w.opaque(&self.target);
    }
}

/// READLINK: returns the target of a symbolic link. Clients resolve it themselves.
pub fn readlink(cx: &CallContext<'_>, fh: Fh<'_>) -> Reply<ReadLinkOk, PostOp> {
    let object = cx.object(fh)?;
    match cx.fs().target(&object.node) {
        Ok(target) => Ok(ReadLinkOk { attr: object.post_op(), target }),
        Err(errno) => Err(Cause::from(errno).with(object.post_op())),
    }
}
