//! READ, WRITE, COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).
//!
//! What a megabyte costs is two copies each way and the loopback's or the card's work on it: a program
//! that does nothing but pread(2) and send(2) took 225-300 us for it where READ took 250, one of
//! recv(2) and pwrite(2) 115-150 us where WRITE took 150-165. Not copying costs more: splice(2) through
//! a pipe of a megabyte took 405-440 us on the loopback where pread and send took 270-330, three tenths
//! of it for waking who receives. Pieces that stay in the processor's cache do not pay: sending a
//! megabyte in four cost a third more, receiving it so nothing less. In the pool, where one is copied
//! while the next is received, WRITEs of a megabyte cost a third more and are a fifth slower, because
//! another processor has them in its cache; so only those go there that might have to wait.

use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::TRANSFER_MAX;
use super::call::{Call, Object, View};
use super::promise::Promise;
use super::status::{Reply, Why};
use super::types::{Decode, Fh, PostOp, Wcc};
use crate::fs::Fs;
use crate::fs::attr::Attr;
use crate::fs::flush::{Due, Extent};
use crate::fs::node::Node;
use crate::sys::Patience;
use crate::xdr::{Encode, Error, Reader, Writer};

/// Larger writes are what fills the memory.
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

/// READ: the data goes from the page cache straight into the reply, behind its header. Asking for
/// more than [`TRANSFER_MAX`] gets that much.
pub fn read(cx: &Call<'_>, args: ReadArgs<'_>, w: &mut Writer<'_>) -> Reply<(), PostOp> {
    let object = cx.object(args.file)?;
    let attr = object.node.attr_to_read()?;
    let post_op = PostOp(Some(object.fattr(attr)));
    w.u32(nfsstat3::NFS3_OK as u32);
    post_op.encode(w);
    let (count, eof, length) = (w.hole(), w.hole(), w.hole());
    let range = (args.offset, args.count.min(TRANSFER_MAX) as usize);
    let read = cx
        .fs()
        .read(&object.node, &attr, &object.who, w.buffer(), range, cx.patience())
        .map_err(|errno| Why::from(errno).with(post_op))?;
    w.pad(read.count);
    object.count_read(read.count);
    // Not more than TRANSFER_MAX.
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
        // The record that it came in is the bound.
        let data = r.opaque(r.rest().len())?;
        // The count is said twice. Less data than that cannot be written.
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

/// WRITE: into the page cache, or to the disk if the client asks for that.
pub fn write(cx: &Call<'_>, args: &WriteArgs<'_>) -> Reply<Promise<WriteOk, Wcc>, Wcc> {
    let object = cx.object_to_change(args.file)?;
    // Before anything is written: if a flush fails from now on, the client must see it.
    let (verifier, failures) = (cx.fs().verifier(), object.node.failures());
    // So many files wait to be flushed that this one must not be added to them.
    let stable = if cx.fs().is_behind() { Stable::FileSync } else { args.stable };
    // While a file is being flushed, changing it may wait for the journal. Of several durable writes,
    // the first would begin a flush that covers no other. One alone costs half as much here.
    let alone = stable == Stable::Unstable || object.node.is_seldom_flushed();
    let is_quick = || alone && cx.nfs.pace.is_quick() && has_room(cx, &object, args.data.len());
    match cx.patience() {
        Patience::None if !is_quick() => return Err(Why::Later.into()),
        Patience::None => {}
        Patience::Blocking => cx.nfs.credit.renew(),
    }
    let (count, wcc) = write_and_look(cx, &object, args)?;
    let extent = match stable {
        Stable::Unstable => None,
        Stable::DataSync => Some(Extent::Data),
        Stable::FileSync => Some(Extent::All),
    };
    let due = extent.map(|extent| Due::Content(Arc::clone(&object.node), extent, failures));
    Ok(Promise { result: WriteOk { wcc, count, stable, verifier }, otherwise: wcc, due })
}

/// Whether the kernel will take so many bytes without waiting for the disk, as far as that can be said.
fn has_room(cx: &Call<'_>, object: &Object<'_>, bytes: usize) -> bool {
    bytes <= SMALL || object.node.is_written_to_memory() && cx.nfs.credit.spend(bytes)
}

fn write_and_look(
    cx: &Call<'_>,
    object: &Object<'_>,
    args: &WriteArgs<'_>,
) -> Reply<(u32, Wcc), Wcc> {
    let guard = cx.fs().lock(&object.node, cx.patience())?;
    let before: Attr = object.node.attr()?;
    let part = (args.offset, args.data);
    let written = cx.nfs.pace.watch(cx.patience(), || {
        cx.fs().write(&object.node, &before, &object.who, part, cx.patience(), &guard)
    });
    let why = |errno| Why::from(errno).under(&guard).with(object.wcc(&before));
    let written = written.map_err(why)?;
    drop(guard);
    object.count_written(written.count);
    let after = PostOp(written.after.map(|attr| object.fattr(attr)));
    let wcc = Wcc { before: Some(before), after };
    Ok((u32::try_from(written.count).unwrap_or(u32::MAX), wcc))
}

/// `COMMIT3args`. The range is not looked at: the whole file is flushed.
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

/// `COMMIT3resok`, looked up as it is written.
pub struct CommitOk {
    fs: Arc<Fs>,
    node: Arc<Node>,
    view: View,
    before: Attr,
}

impl Encode for CommitOk {
    fn encode(&self, w: &mut Writer<'_>) {
        let after = self.node.attr().ok().map(|attr| self.view.of(attr));
        Wcc { before: Some(self.before), after: PostOp(after) }.encode(w);
        // After the flush: one that failed until now has changed it.
        w.u64(self.fs.verifier());
    }
}

/// COMMIT: what was written is on the disk afterwards.
pub fn commit(cx: &Call<'_>, args: CommitArgs<'_>) -> Reply<Promise<CommitOk, Wcc>, Wcc> {
    let object = cx.object(args.file)?;
    if cx.patience() == Patience::None && !cx.fs().is_open(&object.node) {
        return Err(Why::Later.into());
    }
    let before = object.node.attr()?;
    let otherwise = object.wcc(&before);
    let node = Arc::clone(&object.node);
    // A flush that failed before has changed the verifier, by which the client knows.
    let due = Some(Due::Content(Arc::clone(&node), Extent::All, node.failures()));
    let result = CommitOk { fs: Arc::clone(&cx.nfs.fs), node, view: object.view(), before };
    Ok(Promise { result, otherwise, due })
}
