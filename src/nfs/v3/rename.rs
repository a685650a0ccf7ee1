//! RENAME, LINK (RFC 1813 §3.3.14, §3.3.15).

use super::reply::Reply;
use super::types::{DirOp, PostOp, Wcc};
use crate::errno::Errno;
use crate::fs::name::Name;
use crate::nfs::context::{CallContext, Fh};
use crate::nfs::durability::{Durable, FlushScope};
use crate::nfs::failure::Failure;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// `RENAME3args`
#[derive(Clone, Copy, Debug)]
pub struct RenameArgs<'a> {
    from: DirOp<'a>,
    to: DirOp<'a>,
}

impl<'a> Decode<'a> for RenameArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { from: DirOp::decode(r)?, to: DirOp::decode(r)? })
    }
}

/// The results of RENAME, the same for success and failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct BothWcc {
    from: Wcc,
    to: Wcc,
}

impl Encode for BothWcc {
    fn encode(&self, w: &mut Writer<'_>) {
        self.from.encode(w);
        self.to.encode(w);
    }
}

/// RENAME: renames atomically, replacing the target if it exists.
pub fn rename(
    cx: &CallContext<'_>,
    args: RenameArgs<'_>,
) -> Reply<Durable<BothWcc, BothWcc>, BothWcc> {
    let from = cx.object_to_change(args.from.dir)?;
    let to = cx.object_to_change(args.to.dir)?;
    cx.defer_if_slow(&from)?;
    let guard = cx.fs().lock_both(&from.node, &to.node, cx.patience())?;
    let before = (from.node.attr()?, to.node.attr()?);
    let moved = cx.core.pace.measure(cx.patience(), || -> Result<(), Failure> {
        if from.node.handle().export() != to.node.handle().export() {
            return Err(Errno::XDEV.into());
        }
        let from_name = Name::new(args.from.name)?.entry(Errno::INVAL)?;
        let to_name = Name::new(args.to.name)?.entry(Errno::INVAL)?;
        let (from_at, to_at) = ((&from.node, from_name), (&to.node, to_name));
        Ok(cx.fs().rename(from_at, to_at, &from.caller, &guard)?)
    });
    let wcc = BothWcc {
        from: Wcc::of(&from, from.since(before.0)),
        to: Wcc::of(&to, to.since(before.1)),
    };
    drop(guard);
    moved.map_err(|failure| failure.with(wcc))?;
    // The new name first: a crash in between may leave both names, but never none.
    Ok(Durable::same_body(wcc, from.due([&to.node, &from.node])))
}

/// `LINK3args`
#[derive(Clone, Copy, Debug)]
pub struct LinkArgs<'a> {
    file: Fh<'a>,
    link: DirOp<'a>,
}

impl<'a> Decode<'a> for LinkArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { file: Fh::decode(r)?, link: DirOp::decode(r)? })
    }
}

/// The results of LINK, the same for success and failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileAndDir {
    file: PostOp,
    dir: Wcc,
}

impl Encode for FileAndDir {
    fn encode(&self, w: &mut Writer<'_>) {
        self.file.encode(w);
        self.dir.encode(w);
    }
}

/// LINK: adds a name to a file.
pub fn link(
    cx: &CallContext<'_>,
    args: LinkArgs<'_>,
) -> Reply<Durable<FileAndDir, FileAndDir>, FileAndDir> {
    let file = cx.object_to_change(args.file)?;
    let dir = cx.object_to_change(args.link.dir)?;
    cx.defer_if_slow(&dir)?;
    let guard = cx.fs().lock_both(&file.node, &dir.node, cx.patience())?;
    let before = dir.node.attr()?;
    let linked = cx.core.pace.measure(cx.patience(), || -> Result<(), Failure> {
        if file.node.handle().export() != dir.node.handle().export() {
            return Err(Errno::XDEV.into());
        }
        let name = Name::new(args.link.name)?.entry(Errno::EXIST)?;
        Ok(cx.fs().link(&file.node, &dir.node, name, &dir.caller, &guard)?)
    });
    let body = FileAndDir { file: PostOp::of(&file), dir: Wcc::of(&dir, dir.since(before)) };
    drop(guard);
    linked.map_err(|failure| failure.with(body))?;
    Ok(Durable::same_body(body, dir.due_with(&file.node, FlushScope::WithDirectory)))
}
