//! READDIR, READDIRPLUS (RFC 1813 §3.3.16, §3.3.17).
//!
//! Cookies are the directory's own offsets and stay valid when the directory changes. The cookie
//! verifier is therefore always 0 and not checked.

use std::ops::ControlFlow;

use nfsserve::nfs::nfsstat3;

use super::reply::Reply;
use super::types::{Fattr, PostOp};
use crate::errno::Errno;
use crate::nfs::context::{CallContext, Fh, Object};
use crate::nfs::failure::Failure;
use crate::nfs::page::Page;
use crate::sched::Patience;
use crate::sys::dir::Entry;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// `READDIR3args`
#[derive(Clone, Copy, Debug)]
pub struct ReadDirArgs<'a> {
    dir: Fh<'a>,
    cookie: u64,
    count: u32,
}

impl<'a> Decode<'a> for ReadDirArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let (dir, cookie) = (Fh::decode(r)?, r.u64()?);
        let _verifier = r.u64()?;
        Ok(Self { dir, cookie, count: r.u32()? })
    }
}

/// READDIR: lists the names in a directory, one page per call.
pub fn readdir(
    cx: &CallContext<'_>,
    args: ReadDirArgs<'_>,
    w: &mut Writer<'_>,
) -> Reply<(), PostOp> {
    let dir = open(cx, args.dir)?;
    let mut page = begin(w, &dir, args.count, usize::MAX);
    let range = (args.cookie, args.count as usize); // an entry is about as long as in the directory
    let listed =
        cx.fs().list(&dir.node, &dir.caller, range, |listed| add(&mut page, &listed.entry, |_| ()));
    end(page, &dir, listed)
}

/// `READDIRPLUS3args`
#[derive(Clone, Copy, Debug)]
pub struct ReadDirPlusArgs<'a> {
    dir: Fh<'a>,
    cookie: u64,
    dir_count: u32,
    max_count: u32,
}

impl<'a> Decode<'a> for ReadDirPlusArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let (dir, cookie) = (Fh::decode(r)?, r.u64()?);
        let _verifier = r.u64()?;
        Ok(Self { dir, cookie, dir_count: r.u32()?, max_count: r.u32()? })
    }
}

/// READDIRPLUS: as READDIR, with attributes and file handles.
pub fn readdirplus(
    cx: &CallContext<'_>,
    args: ReadDirPlusArgs<'_>,
    w: &mut Writer<'_>,
) -> Reply<(), PostOp> {
    let dir = open(cx, args.dir)?;
    let mut page = begin(w, &dir, args.max_count, args.dir_count as usize);
    // With attributes and handle, an entry is about five times as long as in the directory.
    let range = (args.cookie, args.max_count as usize / 5);
    let listed = cx.fs().list(&dir.node, &dir.caller, range, |listed| {
        add(&mut page, &listed.entry, |w| {
            let seen = match listed.entry.name.to_bytes() {
                b"." => dir.node.attr().ok().map(|attr| (attr, *dir.node.handle())),
                b".." => None, // LOOKUP knows where the export ends
                _ => cx.fs().look_up_listed(&dir.node, &listed),
            };
            PostOp(seen.map(|(attr, _)| Fattr::of(&dir, attr))).encode(w);
            w.option(seen.map(|(_, handle)| handle).as_ref());
        })
    });
    end(page, &dir, listed)
}

fn open<'a>(cx: &CallContext<'a>, fh: Fh<'_>) -> Reply<Object<'a>, PostOp> {
    if cx.patience() == Patience::None {
        return Err(Failure::WouldBlock.into());
    }
    Ok(cx.object(fh)?)
}

/// Writes what stands before the entries.
fn begin<'w, 'b>(
    w: &'w mut Writer<'b>,
    dir: &Object<'_>,
    max: u32,
    names_max: usize,
) -> Page<'w, 'b> {
    w.u32(nfsstat3::NFS3_OK as u32);
    let start = w.mark();
    PostOp::of(dir).encode(w);
    w.u64(0); // cookie verifier
    Page::begin(w, start, max as usize, names_max)
}

/// Adds an entry and what `rest` appends to it, if both fit.
fn add(
    page: &mut Page<'_, '_>,
    entry: &Entry<'_>,
    rest: impl FnOnce(&mut Writer<'_>),
) -> ControlFlow<()> {
    let name = |w: &mut Writer<'_>| {
        w.u64(entry.fileid);
        w.opaque(entry.name.to_bytes());
        w.u64(entry.cookie);
    };
    page.add(name, rest)
}

fn end(page: Page<'_, '_>, dir: &Object<'_>, listed: Result<bool, Errno>) -> Reply<(), PostOp> {
    let ended = match listed {
        // The cookie is the only argument that can be invalid.
        Err(Errno::INVAL) => Err(Failure::BadCookie),
        listed => listed.map_err(Failure::from),
    };
    let done = ended.and_then(|ended| page.end(ended));
    done.map_err(|failure| failure.with(PostOp::of(dir)))
}
