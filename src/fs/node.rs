//! Open files: what a handle refers to while it is in use.
//!
//! A [`Node`] holds a descriptor without access to the content (O_PATH), which suffices for
//! attributes and for the names in a directory. The content is opened when it is first read or
//! written. The descriptor for writing is closed earlier than the node
//! ([`super::write_descriptor`]). Nodes are kept in the [`super::node_cache`].
//!
//! A node belongs to a [`Root`], and the root's group commit holds the nodes whose metadata is to
//! be flushed: these three files import each other in a circle. No node is kept alive by it,
//! because each flush takes the nodes out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::accounting::charge::Charge;
use super::attr::{Attr, FileKind};
use super::flush::content_request::ContentRequest;
use super::group_commit::GroupCommit;
use super::handle::Handle;
use super::root::Root;
use super::write_descriptor::{Content, WriteDescriptor};
use crate::errno::{Errno, Result};
use crate::quota::Account;
use crate::sys;

/// An open file of an export.
pub struct Node {
    /// The export through which it was reached.
    pub(super) root: Arc<Root>,
    /// Its handle.
    pub(super) handle: Handle,
    /// Its type, which never changes.
    pub kind: FileKind,
    /// Its inode number, which never changes.
    pub fileid: u64,
    /// The file, without access to its content.
    path_fd: OwnedFd,
    /// The content, for reading; the listing, if it is a directory.
    pub(super) read: OnceLock<OwnedFd>,
    /// The content, for reading and writing.
    pub(super) write: WriteDescriptor,
    /// Held while a directory is read through `read`, which has one position.
    pub(super) listing: Mutex<()>,
    /// Whether content was written that no flush covers.
    pub(super) dirty: AtomicBool,
    /// The callers that wait for the content to be flushed.
    pub(super) flush: GroupCommit<ContentRequest>,
    /// Held while it is flushed.
    pub(super) flushing: Mutex<()>,
    /// The number of flushes that failed.
    pub(super) failures: AtomicU64,
    pub(super) charge: Charge,
    /// The sweep at which it was last used.
    used_at: AtomicU32,
    /// The sweep at which its content was last read.
    read_at: AtomicU32,
    /// Whether it was found to have no name any more.
    nameless: AtomicBool,
    /// Whether it can be read although it has no name ([`super::orphans`]).
    orphan: AtomicBool,
}

impl Node {
    /// Creates the node of the file that `path_fd` refers to, and that has `attr`.
    pub(super) fn new(
        root: &Arc<Root>,
        handle: Handle,
        path_fd: OwnedFd,
        attr: &Attr,
    ) -> Arc<Self> {
        Arc::new(Self {
            root: Arc::clone(root),
            handle,
            kind: attr.kind,
            fileid: attr.fileid,
            path_fd,
            read: OnceLock::new(),
            write: WriteDescriptor::default(),
            listing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            flush: GroupCommit::default(),
            flushing: Mutex::new(()),
            failures: AtomicU64::new(0),
            charge: Charge::new(attr),
            used_at: AtomicU32::new(0),
            read_at: AtomicU32::new(0),
            nameless: AtomicBool::new(false),
            orphan: AtomicBool::new(false),
        })
    }

    /// The handle for clients.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether it is the directory that is exported.
    pub fn is_root(&self) -> bool {
        self.fileid == self.root.fileid
    }

    /// Returns the current attributes. Needs no privilege.
    ///
    /// # Errors
    /// `ESTALE` if the file has no name any more: for clients it is gone.
    pub fn attr(&self) -> Result<Attr> {
        let attr = self.any_attr()?;
        if attr.links == 0 { Err(self.gone()) } else { Ok(attr) }
    }

    /// As [`Node::attr`], for the calls that a reading client makes: also of an orphan.
    ///
    /// # Errors
    /// As [`Node::attr`].
    pub fn attr_to_read(&self) -> Result<Attr> {
        let attr = self.any_attr()?;
        let is_gone = attr.links == 0 && !self.orphan.load(Ordering::Relaxed);
        if is_gone { Err(self.gone()) } else { Ok(attr) }
    }

    fn any_attr(&self) -> Result<Attr> {
        Attr::of(self).inspect_err(|errno| self.root.note(*errno))
    }

    /// Has the next sweep close it, although it is in use: only then its space is freed.
    fn gone(&self) -> Errno {
        self.nameless.store(true, Ordering::Relaxed);
        Errno::STALE
    }

    /// Whether it has no name and is no orphan, as far as calls have noticed.
    pub(super) fn is_gone(&self) -> bool {
        self.nameless.load(Ordering::Relaxed) && !self.orphan.load(Ordering::Relaxed)
    }

    pub(super) fn set_orphan(&self, orphan: bool) {
        self.orphan.store(orphan, Ordering::Relaxed);
    }

    /// Notes that it is used at the sweep `now`.
    pub(super) fn note_use(&self, now: u32) {
        self.used_at.store(now, Ordering::Relaxed);
    }

    /// Returns the number of sweeps since it was last used.
    pub(super) fn idle(&self, now: u32) -> u32 {
        now.wrapping_sub(self.used_at.load(Ordering::Relaxed))
    }

    /// Notes that its content is read at the sweep `now`.
    pub(super) fn note_read(&self, now: u32) {
        if self.read_at.load(Ordering::Relaxed) != now {
            self.read_at.store(now, Ordering::Relaxed);
        }
    }

    /// Whether its content was read within the last `sweeps` sweeps.
    pub(super) fn was_read(&self, now: u32, sweeps: u32) -> bool {
        now.wrapping_sub(self.read_at.load(Ordering::Relaxed)) <= sweeps
    }

    /// A path to the file that works only in this process, and follows no link.
    pub(super) fn proc_path(&self) -> PathBuf {
        proc_path(self)
    }

    /// Opens the content. Blocks.
    ///
    /// # Errors
    /// As open(2); `EINVAL` if it is neither a file nor a directory.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        match self.kind {
            FileKind::Regular | FileKind::Directory => {}
            _ => return Err(Errno::INVAL),
        }
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::open(self.proc_path(), flags, Mode::empty())?)
    }

    /// Closes the write descriptor. Returns whether there was one. The file's lock is held.
    ///
    /// # Errors
    /// There are no descriptors left; the write descriptor is still open.
    pub(super) fn close_written(&self) -> Result<bool> {
        if !self.write.is_open() {
            return Ok(false);
        }
        // `path_fd` of a file that was created here is a duplicate of the write descriptor
        // (`Fs::create`).
        if !rustix::fs::fcntl_getfl(&self.path_fd)?.contains(OFlags::PATH) {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let path_fd = rustix::fs::open(self.proc_path(), flags, Mode::empty())?;
            sys::file::replace(&self.path_fd, &path_fd)?;
        }
        Ok(self.write.close())
    }

    /// Whether its content was written and not flushed, or is being flushed.
    pub(super) fn is_unflushed(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) || self.flush.is_busy()
    }

    /// Whether it must stay in the cache: it is unflushed, or room is held for it
    /// ([`super::flush::flusher`] finds it there).
    pub(super) fn is_pinned(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) || self.charge.delayed() > 0
    }

    /// Returns the number of its descriptors: one to three.
    pub(super) fn descriptors(&self) -> u64 {
        1 + u64::from(self.read.get().is_some()) + u64::from(self.write.is_open())
    }

    /// Returns the content, if it is open.
    pub(super) fn opened(&self) -> Option<Content<'_>> {
        self.write.get().or_else(|| self.read.get().map(Content::Reading))
    }

    /// The account of its volume.
    pub(super) fn account(&self) -> Option<&Account> {
        self.root.account.as_deref()
    }

    /// Gives back up to `most` of what is held for its delayed allocation.
    pub(super) fn give_back_delayed(&self, most: i64) {
        if let Some(account) = self.account() {
            account.give_back(self.charge.take_delayed(most));
        }
    }
}

impl Drop for Node {
    /// A file that is closed unflushed (it is gone) waits for no flush any more.
    fn drop(&mut self) {
        if *self.dirty.get_mut() {
            self.root.unflushed.fetch_sub(1, Ordering::Relaxed);
        }
        self.give_back_delayed(i64::MAX);
    }
}

/// Returns a path to the open `file` that works only in this process, and follows no link.
pub(super) fn proc_path(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.path_fd.as_fd()
    }
}
