//! Directory listings, and everything that is remembered of directory entries.
//!
//! A cookie is the directory's own offset of the next entry. A page therefore costs the same
//! wherever it starts, and entries that come and go do not move others.
//!
//! | remembered | where | until | becomes wrong when | saves per entry |
//! |---|---|---|---|---|
//! | entries, as getdents64(2) returned them | [`listing_cache`] | evicted, or the directory changes | an entry comes or goes, or something is mounted: the version is part of the key ([`Fs::current_version`]) | 0.3 to 0.5 us |
//! | where pages ended in a chunk | [`listing_cache`] | as the chunk | as the chunk | reading each chunk once per page |
//! | handle of an entry | the chunk, from its second use | as the chunk | a name gets another file: used only with the inode number and birth time of the file | 0.1 us beside the next row; finds open files, below |
//! | handle of a file | [`handle_cache`] | evicted | never: only where no other file gets that inode number and birth time | 1.1 us, for listings of directories that change, and LOOKUP |
//! | open files | [`super::node_cache`], from the sixth listing within seconds | some seconds without use | never: attributes are read from the descriptor, and the name belongs to the file in this version | 0.6 us |
//!
//! Attributes are never remembered: the server is not notified of changes that other programs make
//! (inotify(7) misses changes through mapped memory and through other names of a file).

mod handle_cache;
mod listing_cache;

use std::ffi::CStr;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::SeekFrom;
use rustix::time::{ClockId, clock_gettime};

use super::Fs;
use super::access::Access;
use super::attr::{Attr, FileKind, Time};
use super::handle::Handle;
use super::identity::Identity;
use super::node::Node;
use super::root::{HandleKind, Root};
use crate::errno::{Errno, Result};
use crate::sys;
use crate::sys::mounts::Mounts;
use handle_cache::HandleCache;
use listing_cache::{Chunk, DirectoryVersion, Listed, ListingCache, Position};

/// Bytes of a directory that one system call reads. The least is more than the longest entry.
const CHUNK_BYTES: RangeInclusive<usize> = 4 * 1024..=32 * 1024;

/// Longer than the steps in which a file system keeps time.
const TICK: Duration = Duration::from_millis(100);

/// The same for a file system that may keep only seconds, or every other second: ext4 with small
/// inodes does.
const COARSE_TICK: Duration = Duration::from_millis(2100);

/// Entries of a page that are examined to estimate whether the files of the page are open.
const SAMPLE: usize = 16;

/// What is remembered of directory entries, except open files.
pub(super) struct Listings {
    chunks: ListingCache,
    handles: HandleCache,
}

impl Listings {
    pub(super) fn new() -> Self {
        Self { chunks: ListingCache::new(), handles: HandleCache::new() }
    }

    /// Returns the handle of the file that has `attr`, if it is remembered.
    pub(super) fn handle(&self, root: &Root, attr: &Attr) -> Option<Handle> {
        self.handles.get(root, attr)
    }

    /// Remembers the handle of the file that has `attr`, if no other file will ever have that inode
    /// number and birth time. Returns whether it did.
    pub(super) fn remember_handle(&self, root: &Root, attr: &Attr, handle: Handle) -> bool {
        let is_unique = attr.born.is_some_and(is_over) && root.keeps_files_apart(attr);
        is_unique && self.handles.insert(root, attr, handle)
    }
}

impl Fs {
    /// Passes the entries of `dir` from `cookie` on to `each`, until it breaks; 0 is the start of
    /// the directory. Returns whether the end was reached. Entries for which `each` breaks come
    /// again with the next page. `each` runs as the caller. Reads about `wanted` bytes of the
    /// directory at a time if they are not to be remembered. Blocks.
    ///
    /// # Errors
    /// `EACCES`, `ENOTDIR`; `EINVAL` for a cookie that no directory can have.
    pub fn list(
        &self,
        dir: &Node,
        caller: &Identity,
        (mut cookie, wanted): (u64, usize),
        mut each: impl FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        if dir.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.may(dir, caller, Access::Read)? {
            return Err(Errno::ACCES);
        }
        self.readable(dir)?;
        let version = self.current_version(dir)?;
        // Without a count of mounts, a mount point may hide the file that the name had before.
        let names_are_certain = version.is_some_and(|version| version.mounts.is_some());
        // Examined once for all entries; each file that is to be opened examines it again.
        let has_room = names_are_certain && self.nodes.has_room();
        let is_root = dir.fileid == dir.root.fileid;
        let mut each = |mut listed: Listed<'_>| {
            // The parent of an export's root is the root itself.
            if is_root && listed.entry.name == c".." {
                listed.entry.fileid = dir.fileid;
            }
            each(listed)
        };
        self.switch.acting_as(caller, || {
            loop {
                let (chunk, start) = self.chunk(dir, version.as_ref(), cookie, wanted)?;
                if chunk.is_empty() {
                    return Ok(true);
                }
                let likely_open = names_are_certain
                    && self.are_mostly_open(chunk.known_handles(start, SAMPLE))
                    && self.may(dir, caller, Access::Execute)?;
                let (end, flow) = chunk.for_each_from(start, &mut |mut listed| {
                    listed.likely_open = likely_open;
                    listed.is_hot &= has_room;
                    each(listed)
                });
                if flow.is_break() {
                    if let Some(version) = &version {
                        self.listings.chunks.mark(version, &chunk, end);
                    }
                    return Ok(false);
                }
                cookie = end.cookie;
            }
        })?
    }

    /// Returns the version of a directory, if its listing may be remembered: if no other listing
    /// will ever have the same version.
    ///
    /// Creating, removing or renaming an entry sets the directory's change time, by a clock that
    /// has moved on if the last change time is over ([`is_over`]). The kernel reads a listing under
    /// a lock that excludes changes, and a change sets the time before it releases the lock. A
    /// listing that is read after the time was read is therefore the listing of that time, or a
    /// newer one; in the latter case the next call gets another version. Each call reads the time
    /// itself, so that its listing includes every change made before the call.
    ///
    /// Mounting something over a name changes no directory. The count of mounts is therefore a part
    /// of the version.
    fn current_version(&self, dir: &Node) -> Result<Option<DirectoryVersion>> {
        // On a network file system, other machines may change a directory by their own clocks.
        if dir.root.handles != HandleKind::Kernel || !dir.is_written_to_memory() {
            return Ok(None);
        }
        let changed = dir.attr()?.changed;
        let mounts = self.mounts.as_ref().map(Mounts::changes);
        Ok(is_over(changed).then(|| DirectoryVersion { dir: *dir.handle(), changed, mounts }))
    }

    /// Returns the chunk that holds what follows `cookie`, and the position in it.
    fn chunk(
        &self,
        dir: &Node,
        version: Option<&DirectoryVersion>,
        cookie: u64,
        wanted: usize,
    ) -> Result<(Arc<Chunk>, Position)> {
        let remembered = || self.listings.chunks.get(version?, cookie, self.nodes.now());
        if let Some(found) = remembered() {
            return Ok(found);
        }
        // A listing that is remembered is read in large chunks, whatever the page size.
        let len = if version.is_some() { usize::MAX } else { wanted };
        let mut buffer = vec![0; len.clamp(*CHUNK_BYTES.start(), *CHUNK_BYTES.end())];
        let start = i64::try_from(cookie).map_err(|_| Errno::INVAL)?.unsigned_abs();
        let directory = self.readable(dir)?;
        // The descriptor has one position for all callers. The lock is held for this chunk only, so
        // that callers do not wait while others process their entries.
        let _position = dir.listing.lock();
        if let Some(found) = remembered() {
            return Ok(found); // another thread has read it meanwhile
        }
        rustix::fs::seek(&directory, SeekFrom::Start(start))?;
        let read = sys::dir::read(&directory, &mut buffer)?;
        let chunk = Arc::new(Chunk::new(&buffer[..read]));
        if let Some(version) = version {
            self.listings.chunks.insert(version, cookie, &chunk);
        }
        Ok((chunk, Position::start(cookie)))
    }

    /// Returns the attributes and the handle of an entry of `dir`, as the thread's current
    /// identity. `None` if the file is gone, or must not be seen. Blocks.
    pub fn look_up_listed(&self, dir: &Node, listed: &Listed<'_>) -> Option<(Attr, Handle)> {
        if let Some(found) = self.look_up_open(listed) {
            return Some(found);
        }
        let attr = Attr::of_entry(dir, listed.entry.name).ok()?;
        if let Some(handle) = listed.handle(&attr) {
            if listed.is_hot {
                self.keep_open(dir, listed);
            }
            return Some((attr, handle));
        }
        if let Some(handle) = self.listings.handle(&dir.root, &attr) {
            listed.remember(&attr, handle);
            return Some((attr, handle));
        }
        let (attr, handle) = self.query_handle(dir, listed.entry.name, attr)?;
        if self.listings.remember_handle(&dir.root, &attr, handle) {
            listed.remember(&attr, handle);
        }
        Some((attr, handle))
    }

    /// Whether most of these files are open. If they are not, looking for each of them costs more
    /// than it saves.
    fn are_mostly_open<'a>(&self, files: impl Iterator<Item = &'a Handle>) -> bool {
        let (mut all, mut open) = (0, 0);
        for file in files {
            all += 1;
            open += usize::from(self.nodes.peek(file).is_some());
        }
        2 * open > all
    }

    /// As [`Fs::look_up_listed`], for a file that is open.
    fn look_up_open(&self, listed: &Listed<'_>) -> Option<(Attr, Handle)> {
        let attr = self.nodes.get(listed.handle_if_likely_open()?)?.attr().ok()?;
        listed.handle(&attr).map(|handle| (attr, handle))
    }

    /// Opens the file of an entry, so that the next listing finds it open. A file that cannot be
    /// opened is looked up by name, as before.
    fn keep_open(&self, dir: &Node, listed: &Listed<'_>) {
        if !self.nodes.has_room() {
            return;
        }
        let (name, flags) = (listed.entry.name.to_bytes(), rustix::fs::OFlags::empty());
        let opened = self.open_below(dir, name, flags);
        let _ = opened.and_then(|path_fd| self.adopt(dir, name, path_fd));
    }

    /// Asks the file system for the handle of the entry `name`, which has `attr`. Returns it with
    /// the attributes that belong to it.
    ///
    /// A handle that is asked for by name may be that of another file, if the name gets another
    /// file in between. It is therefore accepted only if it contains the inode number. Otherwise
    /// the file is opened, which takes three times as long.
    fn query_handle(&self, dir: &Node, name: &CStr, attr: Attr) -> Option<(Attr, Handle)> {
        if let (HandleKind::Kernel, Some(mount)) = (dir.root.handles, dir.root.mount)
            && let Some(kernel) = sys::handle::of_file(dir, name, attr.fileid, mount)
        {
            let body = dir.root.body(&attr, kernel).ok()?;
            return Some((attr, self.key.seal(dir.root.id, body)));
        }
        let flags = rustix::fs::OFlags::empty();
        let path_fd = self.open_below(dir, name.to_bytes(), flags).ok()?;
        let attr = Attr::of(&path_fd).ok()?;
        let handle =
            self.handle_in(dir, name.to_bytes(), &attr, || sys::handle::of(&path_fd)).ok()?;
        Some((attr, handle))
    }
}

/// Whether `time` is over for certain: whatever is created or changed from now on has a later time.
///
/// Reads the clock from which the kernel takes file times. It advances with timer ticks, and may
/// stand still for long while the processor that counts them is held up (by another guest of the
/// same host) and other processors go on changing files.
fn is_over(time: Time) -> bool {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    let now = Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default());
    is_over_at(time, now)
}

/// As [`is_over`], at the time `now`.
fn is_over_at(time: Time, now: Duration) -> bool {
    let tick = if time.nanoseconds == 0 { COARSE_TICK } else { TICK };
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    now.checked_sub(Duration::new(seconds, time.nanoseconds)).is_some_and(|age| age > tick)
}

#[cfg(test)]
mod tests;
