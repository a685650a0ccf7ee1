//! READ, WRITE, COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).

use nfsserve::nfs::nfsstat3;

use super::TRANSFER_MAX;
use super::call::{Call, Object};
use super::status::{Reply, Why};
use super::types::{Decode, Fh, PostOp, Wcc};
use crate::fs::attr::Attr;
use crate::fs::flush::Extent;
use crate::sys::Patience;
use crate::xdr::{Encode, Error, Reader, Writer};

/// Larger writes go to the pool: while they are copied there, the next one is received here.
const WRITE_HERE_MAX: usize = 64 * 1024;

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
    let attr = object.node.attr()?;
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
pub fn write(cx: &Call<'_>, args: &WriteArgs<'_>) -> Reply<WriteOk, Wcc> {
    let object = cx.object_to_change(args.file)?;
    // Before anything is written: if a flush fails from now on, the client must see it.
    let verifier = cx.fs().verifier();
    // So many files wait to be flushed that this one must not be added to them.
    let stable = if cx.fs().is_behind() { Stable::FileSync } else { args.stable };
    let here =
        stable == Stable::Unstable && args.data.len() <= WRITE_HERE_MAX && cx.nfs.pace.is_quick();
    if cx.patience() == Patience::None && !here {
        return Err(Why::Later.into());
    }
    let (count, wcc) = write_and_look(cx, &object, args)?;
    match stable {
        Stable::Unstable => {}
        Stable::DataSync => flush(cx, &object, Extent::Data, wcc)?,
        Stable::FileSync => flush(cx, &object, Extent::All, wcc)?,
    }
    Ok(WriteOk { wcc, count, stable, verifier })
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
    let written = written.map_err(|errno| Why::from(errno).with(object.wcc(&before)))?;
    drop(guard);
    object.count_written(written.count);
    let after = PostOp(written.after.map(|attr| object.fattr(attr)));
    let wcc = Wcc { before: Some(before), after };
    Ok((u32::try_from(written.count).unwrap_or(u32::MAX), wcc))
}

fn flush(cx: &Call<'_>, object: &Object<'_>, extent: Extent, wcc: Wcc) -> Reply<(), Wcc> {
    cx.fs().flush(&object.node, extent).map_err(|errno| Why::from(errno).with(wcc))
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

/// `COMMIT3resok`
#[derive(Clone, Copy, Debug)]
pub struct CommitOk {
    wcc: Wcc,
    verifier: u64,
}

impl Encode for CommitOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.wcc.encode(w);
        w.u64(self.verifier);
    }
}

/// COMMIT: what was written is on the disk afterwards.
pub fn commit(cx: &Call<'_>, args: CommitArgs<'_>) -> Reply<CommitOk, Wcc> {
    let object = cx.object(args.file)?;
    if cx.patience() == Patience::None {
        return Err(Why::Later.into());
    }
    let before = object.node.attr()?;
    let flushed = cx.fs().flush(&object.node, Extent::All);
    let wcc = object.wcc(&before);
    flushed.map_err(|errno| Why::from(errno).with(wcc))?;
    // After the flush: one that failed until now has changed it.
    Ok(CommitOk { wcc, verifier: cx.fs().verifier() })
}
