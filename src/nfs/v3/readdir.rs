//! READDIR, READDIRPLUS (RFC 1813 §3.3.16, §3.3.17).
//!
//! Cookies are the directory's own offsets and stay valid when the directory changes. The cookie
//! verifier is therefore always 0 and not checked.

use std::ops::ControlFlow;

use nfsserve::nfs::nfsstat3;

use super::reply::{Fail, Reply};
use super::types::{Fattr, PostOp};
use crate::errno::Errno;
use crate::nfs::context::{CallContext, Fh, Object};
use crate::nfs::failure::Failure;
use crate::sched::Patience;
use crate::sys::dir::Entry;
use crate::xdr::{Decode, Encode, Error, Mark, Reader, Writer};

/// Largest page, in bytes, whatever a client requests: a reply must fit into memory.
const PAGE_MAX: u32 = 256 * 1024;

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
    let mut page = Page::begin(w, &dir, args.count);
    let range = (args.cookie, args.count as usize); // an entry is about as long as in the directory
    let listed =
        cx.fs().list(&dir.node, &dir.caller, range, |listed| page.add(&listed.entry, |_| ()));
    page.end(&dir, listed)
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
    let mut page = Page::begin(w, &dir, args.max_count);
    page.names_max = args.dir_count as usize;
    // With attributes and handle, an entry is about five times as long as in the directory.
    let range = (args.cookie, args.max_count as usize / 5);
    let listed = cx.fs().list(&dir.node, &dir.caller, range, |listed| {
        page.add(&listed.entry, |w| {
            let seen = match listed.entry.name.to_bytes() {
                b"." => dir.node.attr().ok().map(|attr| (attr, *dir.node.handle())),
                b".." => None, // LOOKUP knows where the export ends
                _ => cx.fs().look_up_listed(&dir.node, &listed),
            };
            PostOp(seen.map(|(attr, _)| Fattr::of(&dir, attr))).encode(w);
            w.option(seen.map(|(_, handle)| handle).as_ref());
        })
    });
    page.end(&dir, listed)
}

fn open<'a>(cx: &CallContext<'a>, fh: Fh<'_>) -> Reply<Object<'a>, PostOp> {
    if cx.patience() == Patience::None {
        return Err(Failure::WouldBlock.into());
    }
    Ok(cx.object(fh)?)
}

/// A reply under construction.
struct Page<'w, 'b> {
    w: &'w mut Writer<'b>,
    /// The start of the data that counts against the client's limit: after the status.
    start: Mark,
    /// The client's limit, without the end of the list.
    max: usize,
    /// Bytes of names, file ids and cookies, and their limit.
    names: usize,
    names_max: usize,
    is_empty: bool,
}

/// Bytes after the last entry: the end of the list, and whether the directory ends.
const END: usize = 8;

impl<'w, 'b> Page<'w, 'b> {
    fn begin(w: &'w mut Writer<'b>, dir: &Object<'_>, max: u32) -> Self {
        w.u32(nfsstat3::NFS3_OK as u32);
        let start = w.mark();
        PostOp::of(dir).encode(w);
        w.u64(0); // cookie verifier
        let max = (max.min(PAGE_MAX) as usize).saturating_sub(END);
        Self { w, start, max, names: 0, names_max: usize::MAX, is_empty: true }
    }

    /// Adds an entry and what `rest` appends to it, if both fit.
    fn add(&mut self, entry: &Entry<'_>, rest: impl FnOnce(&mut Writer<'_>)) -> ControlFlow<()> {
        let before = self.w.mark();
        self.w.bool(true);
        self.w.u64(entry.fileid);
        self.w.opaque(entry.name.to_bytes());
        self.w.u64(entry.cookie);
        let names = self.names + self.w.since(before);
        // The first entry may exceed `names_max`, or the client would make no progress.
        if names <= self.names_max || self.is_empty {
            rest(self.w);
            if self.w.since(self.start) <= self.max {
                self.names = names;
                self.is_empty = false;
                return ControlFlow::Continue(());
            }
        }
        self.w.rewind(before);
        ControlFlow::Break(())
    }

    fn end(self, dir: &Object<'_>, listed: Result<bool, Errno>) -> Reply<(), PostOp> {
        let fail = |failure: Failure| -> Fail<PostOp> { failure.with(PostOp::of(dir)) };
        let ended = match listed {
            // The cookie is the only argument that can be invalid.
            Err(Errno::INVAL) => return Err(fail(Failure::BadCookie)),
            Err(errno) => return Err(fail(errno.into())),
            Ok(ended) => ended,
        };
        if self.is_empty && !ended {
            return Err(fail(Failure::TooSmall));
        }
        self.w.bool(false);
        self.w.bool(ended);
        Ok(())
    }
}
