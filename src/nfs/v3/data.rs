//! READ, WRITE, COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).
//!
//! A large transfer costs two copies each way plus the network's work; avoiding the copies or
//! splitting the transfer costs more (tests/bench/README.md). A WRITE runs on the thread that
//! received its data, where the data is in the processor's cache, unless it might block.

use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::reply::Reply;
use super::types::{Fattr, PostOp, Wcc};
use crate::fs::Fs;
use crate::fs::attr::Attr;
use crate::fs::flush::{Due, Extent};
use crate::fs::node::Node;
use crate::nfs::context::{CallContext, Fh, Object, Transition, View};
use crate::nfs::core::TRANSFER_MAX;
use crate::nfs::durability::Durable;
use crate::nfs::failure::Failure;
use crate::sched::Patience;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// Larger writes, in bytes, spend the dirty budget: these are the ones that fill the page cache.
const SMALL: usize = 64 * 1024;

/// `READ3args`
#[derive(Clone, Copy, Debug)]
pub struct ReadArgs<'a> {
    file: Fh<'a>,
    offset: u64,
    count: u32,
}

impl<'a> Decode<'a> for ReadArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { file: Fh::decode(r)?, offset: r.u64()?, count: r.u32()? })
    }
}

/// READ: reads from the page cache directly into the reply, after its header. A request for more
/// than [`TRANSFER_MAX`] bytes is cut to that.
pub fn read(cx: &CallContext<'_>, args: ReadArgs<'_>, w: &mut Writer<'_>) -> Reply<(), PostOp> {
    let object = cx.object(args.file)?;
    let attr = object.node.attr_to_read()?;
    let post_op = PostOp(Some(Fattr::of(&object, attr)));
    w.u32(nfsstat3::NFS3_OK as u32);
    post_op.encode(w);
    let (count, eof, length) = (w.hole(), w.hole(), w.hole());
    let range = (args.offset, args.count.min(TRANSFER_MAX) as usize);
    let read = cx
        .fs()
        .read(&object.node, &attr, &object.caller, w.buffer(), range, cx.patience())
        .map_err(|errno| Failure::from(errno).with(post_op))?;
    w.pad(read.count);
    object.count_read(read.count);
    // At most TRANSFER_MAX.
    let bytes = u32::try_from(read.count).unwrap_or(TRANSFER_MAX);
    w.fill(count, bytes);
    w.fill(eof, read.eof.into());
    w.fill(length, bytes);
    Ok(())
}

/// `stable_how`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stable {
    Unstable,
    DataSync,
    FileSync,
}

/// `WRITE3args`
#[derive(Clone, Copy, Debug)]
pub struct WriteArgs<'a> {
    file: Fh<'a>,
    offset: u64,
    stable: Stable,
    data: &'a [u8],
}

impl<'a> Decode<'a> for WriteArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let (file, offset, count) = (Fh::decode(r)?, r.u64()?, r.u32()? as usize);
        let stable = match r.u32()? {
            0 => Stable::Unstable,
            1 => Stable::DataSync,
            2 => Stable::FileSync,
            _ => return Err(Error::Unknown),
        };
        // Bounded by the record.
        let data = r.opaque(r.rest().len())?;
        // `count` repeats the length of the data. Data beyond it is ignored; less data is an error.
        let data = data.get(..count).ok_or(Error::Short)?;
        Ok(Self { file, offset, stable, data })
    }
}

/// `WRITE3resok`
#[derive(Clone, Copy, Debug)]
pub struct WriteOk {
    wcc: Wcc,
    count: u32,
    stable: Stable,
    verifier: u64,
}

impl Encode for WriteOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.wcc.encode(w);
        w.u32(self.count);
        w.u32(self.stable as u32);
        w.u64(self.verifier);
    }
}

/// WRITE: writes to the page cache and, as `stable_how` requests, to stable storage.
pub fn write(cx: &CallContext<'_>, args: WriteArgs<'_>) -> Reply<Durable<WriteOk, Wcc>, Wcc> {
    let object = cx.object_to_change(args.file)?;
    // Read before the write: if a flush fails from now on, the client must see it.
    let (verifier, failures) = (cx.fs().verifier(), object.node.failures());
    // Too many files wait to be flushed to add this one.
    let stable = if cx.fs().is_behind() { Stable::FileSync } else { args.stable };
    // While a file is being flushed, a change of it may wait for the journal. The first of several
    // durable writes must not start a flush that covers none of the others; a single one is
    // cheaper here than in the pool.
    let alone = stable == Stable::Unstable || object.node.is_seldom_flushed();
    let is_quick = || alone && cx.core.pace.is_quick() && has_room(cx, &object, args.data.len());
    match cx.patience() {
        Patience::None if !is_quick() => return Err(Failure::WouldBlock.into()),
        Patience::None => {}
        Patience::Blocking => cx.core.dirty_budget.refill(),
    }
    let (count, wcc) = write_with_wcc(cx, &object, &args)?;
    let extent = match stable {
        Stable::Unstable => None,
        Stable::DataSync => Some(Extent::Data),
        Stable::FileSync => Some(Extent::All),
    };
    let due = extent.map(|extent| Due::Content(Arc::clone(&object.node), extent, failures));
    Ok(Durable { result: WriteOk { wcc, count, stable, verifier }, failure_body: wcc, due })
}

/// Whether the kernel is expected to accept so many bytes without blocking on the disk.
fn has_room(cx: &CallContext<'_>, object: &Object<'_>, bytes: usize) -> bool {
    bytes <= SMALL || object.node.is_written_to_memory() && cx.core.dirty_budget.spend(bytes)
}

fn write_with_wcc(
    cx: &CallContext<'_>,
    object: &Object<'_>,
    args: &WriteArgs<'_>,
) -> Reply<(u32, Wcc), Wcc> {
    let guard = cx.fs().lock(&object.node, cx.patience())?;
    let before: Attr = object.node.attr()?;
    let part = (args.offset, args.data);
    let written = cx.core.pace.measure(cx.patience(), || {
        cx.fs().write(&object.node, &before, &object.caller, part, cx.patience(), &guard)
    });
    let failed =
        |errno| Failure::from(errno).under(&guard).with(Wcc::of(object, object.since(before)));
    let written = written.map_err(failed)?;
    drop(guard);
    object.count_written(written.count);
    let wcc = Wcc::of(object, Transition { before, after: written.after });
    Ok((u32::try_from(written.count).unwrap_or(u32::MAX), wcc))
}

/// `COMMIT3args`. The range is ignored: the whole file is flushed.
#[derive(Clone, Copy, Debug)]
pub struct CommitArgs<'a> {
    file: Fh<'a>,
}

impl<'a> Decode<'a> for CommitArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let file = Fh::decode(r)?;
        let _range = (r.u64()?, r.u32()?);
        Ok(Self { file })
    }
}

/// `COMMIT3resok`. Attributes and write verifier are read when it is encoded, after the flush.
pub struct CommitOk {
    fs: Arc<Fs>,
    node: Arc<Node>,
    view: View,
    before: Attr,
}

impl Encode for CommitOk {
    fn encode(&self, w: &mut Writer<'_>) {
        let after = self.node.attr().ok().map(|attr| Fattr::new(self.view, attr));
        Wcc { before: Some(self.before), after: PostOp(after) }.encode(w);
        // Read after the flush: a failed flush changes the write verifier.
        w.u64(self.fs.verifier());
    }
}

/// COMMIT: flushes earlier writes to stable storage.
pub fn commit(cx: &CallContext<'_>, args: CommitArgs<'_>) -> Reply<Durable<CommitOk, Wcc>, Wcc> {
    let object = cx.object(args.file)?;
    if cx.patience() == Patience::None && !cx.fs().is_open(&object.node) {
        return Err(Failure::WouldBlock.into());
    }
    let before = object.node.attr()?;
    let failure_body = Wcc::of(&object, object.since(before));
    let node = Arc::clone(&object.node);
    // Earlier failures are reported by the changed write verifier.
    let due = Some(Due::Content(Arc::clone(&node), Extent::All, node.failures()));
    let result = CommitOk { fs: Arc::clone(&cx.core.fs), node, view: object.view(), before };
    Ok(Durable { result, failure_body, due })
}
