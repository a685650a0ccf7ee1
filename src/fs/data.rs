//! The content of files: reading and writing.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::Fs;
use super::attr::{Attr, FileKind};
use super::error::Error;
use super::guard::Guard;
use super::identity::Identity;
use super::node::Node;
use super::write_descriptor::Content;
use crate::errno::{Errno, Result};
use crate::sched::Patience;
use crate::sys;

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The number of bytes.
    pub count: usize,
    /// The attributes afterwards, if they can be read and the file still has a name.
    pub after: Option<Attr>,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The number of bytes that were appended to the buffer.
    pub count: usize,
    /// Whether they end where the file ends.
    pub eof: bool,
}

impl Fs {
    /// Appends up to `max` bytes of the content of `node`, which has `attr`, at `offset` to
    /// `buffer`.
    ///
    /// # Errors
    /// `EACCES`; `EISDIR` and `EINVAL` if it is no regular file; [`Error::WouldBlock`] if they are
    /// not in memory.
    pub fn read(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        buffer: &mut Vec<u8>,
        (offset, max): (u64, usize),
        patience: Patience,
    ) -> Result<Read, Error> {
        is_file(attr.kind)?;
        if !self.may_read(node, attr, caller)? {
            return Err(Errno::ACCES.into());
        }
        node.note_read(self.nodes.now());
        if offset >= attr.size {
            // Also for offsets beyond the largest that the kernel supports.
            return Ok(Read { count: 0, eof: true });
        }
        let read = match patience {
            Patience::None => {
                let content = node.opened().ok_or(Error::WouldBlock)?;
                sys::file::read_cached(content, buffer, max, offset)
            }
            Patience::Blocking => {
                sys::file::read_at(self.readable(node)?, buffer, max, offset).map(Some)
            }
        };
        let read = read.inspect_err(|errno| node.root.note(*errno))?;
        let count = read.ok_or(Error::WouldBlock)?;
        let end = offset + count as u64;
        if count < max && end < attr.size && patience == Patience::None {
            return Err(Error::WouldBlock); // the rest has to come from the disk
        }
        // A short read is the end, even if the file was longer a moment ago.
        Ok(Read { count, eof: count < max || end >= attr.size })
    }

    /// Writes `data` at `offset` of `node`, which has `attr`. Writes less only if the volume or the
    /// file system is full or fails half way. The file's lock is held (`guard`).
    ///
    /// # Errors
    /// `EACCES`; `EISDIR` and `EINVAL` if it is no regular file; `EFBIG` beyond the largest offset;
    /// `ENOSPC` if nothing fits into the volume; `ENOTCONN` if the export was reopened since the
    /// file was found; [`Error::WouldBlock`] if the file is not open for writing, or its volume may
    /// have room nevertheless; [`Error::NotCounted`] if its volume is not counted.
    pub fn write(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        (offset, data): (u64, &[u8]),
        patience: Patience,
        guard: &Guard<'_>,
    ) -> Result<Written, Error> {
        is_file(attr.kind)?;
        if !self.may_write(node, attr, caller)? {
            return Err(Errno::ACCES.into());
        }
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Errno::FBIG.into());
        }
        // After the caller read the verifier (`super::reopen`).
        node.root.check_current()?;
        let content = match patience {
            Patience::None => self.open_for_writing(node).ok_or(Error::WouldBlock)?,
            Patience::Blocking => self.writable(node)?,
        };
        let room = self.hold_write(node, attr, (offset, data.len()), guard)?;
        // Before the write: the node must not be closed meanwhile. And after it, because a flush
        // that began meanwhile did not cover this data.
        self.mark_dirty(node);
        // As the caller: the kernel clears set-id bits unless root writes.
        let count =
            self.switch.acting_as(caller, || write_all(&content, &data[..room.fits], offset))?;
        let after = count.is_ok().then(|| Attr::of(node).ok()).flatten();
        if let Some(after) = &after {
            node.charge_write(after, room);
        }
        // After the charge: the flush that this requests gives back what is held for the file.
        self.mark_dirty(node);
        let count = count.inspect_err(|errno| node.root.note(*errno))?;
        Ok(Written { count, after: after.filter(|attr| attr.links > 0) })
    }

    /// Whether too many files wait to be flushed. A further WRITE must be flushed at once.
    pub fn is_behind(&self) -> bool {
        self.flusher.unflushed().load(Ordering::Relaxed) > self.dirty_max
    }

    /// Returns the content of `node`, open for reading. Blocks if it is not open.
    pub(super) fn readable<'n>(&self, node: &'n Node) -> Result<Content<'n>> {
        if let Some(content) = node.opened() {
            return Ok(content);
        }
        let opened = self.open_own(node, OFlags::RDONLY, 0o400)?;
        // Unless another thread was quicker.
        let kept = node.read.get_or_init(|| opened);
        self.nodes.recount(&node.handle);
        Ok(Content::Reading(kept))
    }

    /// Returns the content of `node`, open for reading and writing. Blocks if it is not open. The
    /// file's lock is held.
    pub(super) fn writable(&self, node: &Node) -> Result<Content<'static>> {
        if let Some(content) = self.open_for_writing(node) {
            return Ok(content);
        }
        let opened = self.open_own(node, OFlags::RDWR, 0o600)?;
        node.write.set(opened, self.nodes.now());
        self.nodes.recount(&node.handle);
        node.write.get().ok_or(Errno::BADF)
    }

    /// Returns the content of `node`, if it is open for writing.
    fn open_for_writing(&self, node: &Node) -> Option<Content<'static>> {
        let content = node.write.get()?;
        node.write.touch(self.nodes.now());
        Some(content)
    }

    /// Opens the content as the server, which has checked the caller's access.
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
            // Part of the data is written; the client gets the error for the rest.
            Err(_) if written > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(written)
}
