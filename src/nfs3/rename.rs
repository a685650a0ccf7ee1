//! RENAME, LINK (RFC 1813 §3.3.14, §3.3.15).

use super::context::{CallContext, FlushScope};
use super::durable::{Durable, same_body};
use super::status::{Cause, Reply};
use super::types::{Decode, DirOp, Fh, PostOp, Wcc};
use crate::errno::Errno;
use crate::fs::name::Name;
use crate::xdr::{Encode, Error, Reader, Writer};

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
    let moved = cx.nfs.pace.measure(cx.patience(), || -> Result<(), Cause> {
        if from.node.handle().export() != to.node.handle().export() {
            return Err(Errno::XDEV.into());
        }
        let from_name = Name::new(args.from.name)?.entry(Errno::INVAL)?;
        let to_name = Name::new(args.to.name)?.entry(Errno::INVAL)?;
        let (from_at, to_at) = ((&from.node, from_name), (&to.node, to_name));
        Ok(cx.fs().rename(from_at, to_at, &from.caller, &guard)?)
    });
    let wcc = BothWcc { from: from.wcc(&before.0), to: to.wcc(&before.1) };
    drop(guard);
    moved.map_err(|cause| cause.with(wcc))?;
    // The new name first: a crash in between may leave both names, but never none.
    same_body(wcc, from.due([&to.node, &from.node]))
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
    let linked = cx.nfs.pace.measure(cx.patience(), || -> Result<(), Cause> {
        if file.node.handle().export() != dir.node.handle().export() {
            return Err(Errno::XDEV.into());
        }
        let name = Name::new(args.link.name)?.entry(Errno::EXIST)?;
        Ok(cx.fs().link(&file.node, &dir.node, name, &dir.caller, &guard)?)
    });
    let body = FileAndDir { file: file.post_op(), dir: dir.wcc(&before) };
    drop(guard);
    linked.map_err(|cause| cause.with(body))?;
    same_body(body, dir.due_with(&file.node, FlushScope::WithDirectory))
}
