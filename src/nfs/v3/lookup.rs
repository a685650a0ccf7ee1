//! LOOKUP, READLINK (RFC 1813 §3.3.3, §3.3.5).

use super::reply::Reply;
use super::types::{DirOp, Fattr, PostOp};
use crate::fs::error::Error;
use crate::fs::handle::Handle;
use crate::fs::name::Name;
use crate::nfs::context::{CallContext, Fh};
use crate::nfs::failure::Failure;
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
            let (attr, dir) = (Fattr::of(&dir, attr), PostOp::of(&dir));
            Ok(LookupOk { handle: *node.handle(), attr, dir })
        }
        Err(errno) => Err(Failure::from(errno).with(PostOp::of(&dir))),
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
        Ok(target) => Ok(ReadLinkOk { attr: PostOp::of(&object), target }),
        Err(errno) => Err(Failure::from(errno).with(PostOp::of(&object))),
    }
}
