//! The content of files: reading and writing.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::Fs;
use super::attr::{Attr, FileKind};
use super::guard::Guard;
use super::identity::Identity;
use super::node::Node;
use super::write_descriptor::Content;
use crate::errno::{Errno, Result};
use crate::sched::Patience;
use crate::sys;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes.
    pub count: usize,
    /// The attributes afterwards, if they can be read and the file still has a name.
    pub after: Option<Attr>,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// How many bytes were appended to the buffer.
    pub count: usize,
    /// Whether they end where the file ends.
    pub eof: bool,
}

impl Fs {
    /// Appends up to `max` bytes of the content of `node`, which has `attr`, at `offset` to
    /// `buffer`.
    ///
    /// # Errors
    /// `EACCES`; `EISDIR` and `EINVAL` for what is no file; `EAGAIN` without patience, if they
    /// are not in memory.
    pub fn read(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        buffer: &mut Vec<u8>,
        (offset, max): (u64, usize),
        patience: Patience,
    ) -> Result<Read> {
        is_file(attr.kind)?;
        if !self.may_read(node, attr, caller)? {
            return Err(Errno::ACCES);
        }
        node.note_read(self.nodes.now());
        if offset >= attr.size {
            // Also for offsets that the kernel does not know: there is nothing, and no error.
            return Ok(Read { count: 0, eof: true });
        }
        let content = self.readable(node, patience)?;
        let read = match patience {
            Patience::None => sys::file::read_cached(content, buffer, max, offset)
                .and_then(|read| read.ok_or(Errno::AGAIN)),
            Patience::Blocking => sys::file::read_at(content, buffer, max, offset),
        };
        let count = read.inspect_err(|errno| node.root.note(*errno))?;
        let end = offset + count as u64;
        if count < max && end < attr.size && patience == Patience::None {
            return Err(Errno::AGAIN); // the rest has to come from the disk
        }
        // A short read is the end, even if the file was longer a moment ago.
        Ok(Read { count, eof: count < max || end >= attr.size })
    }

    /// Writes `data` at `offset`; answers how much, which is less only if the volume or the file
    /// system is full or fails half way. The lock of `node`, which has `attr`, is held (`guard`).
    ///
    /// # Errors
    /// `EACCES`; `EISDIR` and `EINVAL` for what is no file; `EFBIG` beyond the largest offset;
    /// `ENOSPC` if nothing fits into the volume; `ENOTCONN` if the export was opened anew since the
    /// file was found; `EAGAIN` without patience, if the file is not open
    /// for writing, or its volume has to be looked at.
    pub fn write(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        (offset, data): (u64, &[u8]),
        patience: Patience,
        guard: &Guard<'_>,
    ) -> Result<Written> {
        is_file(attr.kind)?;
        if !self.may_write(node, attr, caller)? {
            return Err(Errno::ACCES);
        }
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Errno::FBIG);
        }
        // After the caller asked for the verifier, see `away`.
        node.root.check_current()?;
        let content = self.writable(node, patience)?;
        let room = self.hold_write(node, attr, (offset, data.len()), guard)?;
        // Before, so that the node is not closed in between; and after, because a flush that began
        // in between did not cover what is written now.
        self.mark_dirty(node);
        // As the caller, so that set-id bits go when somebody else than root writes.
        let count =
            self.switch.acting_as(caller, || write_all(&content, &data[..room.fits], offset))?;
        let after = count.is_ok().then(|| Attr::of(node).ok()).flatten();
        if let Some(after) = &after {
            node.charge_write(after, room);
        }
        // Behind the charge: what is held for the file is given back by the flush that this asks
        // for.
        self.mark_dirty(node);
        let count = count.inspect_err(|errno| node.root.note(*errno))?;
        Ok(Written { count, after: after.filter(|attr| attr.links > 0) })
    }

    /// Whether so many files wait to be flushed that one more must not.
    pub fn is_behind(&self) -> bool {
        self.flusher.unflushed().load(Ordering::Relaxed) > self.dirty_max
    }

    /// The content of `node`, open for reading.
    pub(super) fn readable<'n>(&self, node: &'n Node, patience: Patience) -> Result<Content<'n>> {
        if let Some(content) = node.opened() {
            return Ok(content);
        }
        if patience == Patience::None {
            return Err(Errno::AGAIN);
        }
        let opened = self.open_own(node, OFlags::RDONLY, 0o400)?;
        // Unless another thread was quicker.
        let kept = node.read.get_or_init(|| opened);
        self.nodes.recount(&node.handle);
        Ok(Content::Reading(kept))
    }

    /// The content of `node`, open for reading and writing. Its lock is held.
    pub(super) fn writable(&self, node: &Node, patience: Patience) -> Result<Content<'static>> {
        let now = self.nodes.now();
        if let Some(content) = node.write.get() {
            node.write.touch(now);
            return Ok(content);
        }
        if patience == Patience::None {
            return Err(Errno::AGAIN);
        }
        let opened = self.open_own(node, OFlags::RDWR, 0o600)?;
        node.write.set(opened, now);
        self.nodes.recount(&node.handle);
        node.write.get().ok_or(Errno::BADF)
    }

    /// Opens the content as the server, which decided before that the caller may.
    fn open_own(&self, node: &Node, flags: OFlags, bits: u32) -> Result<OwnedFd> {
        self.lender.open_with(node, bits, || self.open_as_server(|| node.open(flags)))
    }
}

fn is_file(kind: FileKind) -> Result<()> {
    match kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

fn write_all(content: &Content<'_>, data: &[u8], offset: u64) -> Result<usize> {
    let mut written = 0;
    while written < data.len() {
        match sys::file::write_at(content, &data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(n) => written += n,
            Err(Errno::INTR) => {}
            // What was written before is there; the client learns of the error with the rest.
            Err(_) if written > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(written)
}
