//! Listing directories.
//!
//! A cookie is the directory's own offset of the next entry, so that a page costs a page wherever
//! it starts, and entries that come and go move no others.
//!
//! Most of the cost of an entry with attributes is statx(2), which is more than twice as fast by
//! descriptor as by name. The files of a directory that is listed repeatedly are therefore kept
//! open, as far as there are descriptors. Opening and closing a file costs what six listings save,
//! so it begins with the sixth listing within seconds ([`super::pieces::OFTEN`]). Attributes are
//! never cached: the server is not notified of changes that other programs make (inotify(7) misses
//! changes through mapped memory and through other names of a file).
//!
//! Listings are cached while the directory is unchanged ([`super::pieces`], [`Fs::settled`]). Handles
//! cost more to get than the rest of an entry; they are cached with the listing, and separately for
//! directories that change ([`Fs::look`]).

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::SeekFrom;
use rustix::time::{ClockId, clock_gettime};

use super::Fs;
use super::attr::{Access, Attr, Kind, Time};
use super::handle::Handle;
use super::identity::Identity;
use super::node::Node;
use super::pieces::{List, Listed, Piece, Place};
use super::root::HandleKind;
use crate::errno::{Errno, Result};
use crate::sched::Patience;
use crate::sys;
use crate::sys::mounts::Mounts;

/// Bytes of a directory that are read at a time: at most, and at least, which is more than the
/// longest entry.
const PIECE: RangeInclusive<usize> = 4 * 1024..=32 * 1024;

/// Longer than the steps in which a file system keeps the time.
const TICK: Duration = Duration::from_millis(100);

/// The same where a file system may keep no more than seconds, or two of them: an ext4 with small
/// inodes does.
const SECONDS: Duration = Duration::from_millis(2100);

/// So many entries of a page stand for all, when the question is whether their files are open.
const FIRST: usize = 16;

/// Whether to go on with the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    More,
    /// There is no room: this entry comes again with the next page.
    Full,
}

impl Fs {
    /// Gives `each` the entries of `dir` from `cookie` on, 0 being the start, until it is full;
    /// answers whether the list ended. Blocks. `each` runs as the caller. About `wanted` bytes of
    /// the list are read at a time, unless what is read is remembered.
    ///
    /// # Errors
    /// `EACCES`, `ENOTDIR`; `EINVAL` for a cookie that cannot be one.
    pub fn list(
        &self,
        dir: &Node,
        caller: &Identity,
        (mut cookie, wanted): (u64, usize),
        mut each: impl FnMut(Listed<'_>) -> Step,
    ) -> Result<bool> {
        if dir.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.may(dir, caller, Access::Read)? {
            return Err(Errno::ACCES);
        }
        self.readable(dir, Patience::Blocking)?;
        let list = self.settled(dir)?;
        let certain = list.is_some_and(|list| list.mounts.is_some());
        // So that not every file asks in vain; those that do, ask again.
        let has_room = certain && self.nodes.has_room();
        let is_root = dir.fileid == dir.root.fileid;
        let mut each = |mut listed: Listed<'_>| {
            // Above the root of an export there is only the root.
            if is_root && listed.entry.name == c".." {
                listed.entry.fileid = dir.fileid;
            }
            each(listed)
        };
        self.switch.acting_as(caller, || {
            loop {
                let (piece, start) = self.piece(dir, list.as_ref(), cookie, wanted)?;
                if piece.is_empty() {
                    return Ok(true);
                }
                let quick = certain
                    && self.are_open(piece.known(start, FIRST))
                    && self.may(dir, caller, Access::Execute)?;
                let (end, step) = piece.give(start, &mut |mut listed| {
                    listed.quick = quick;
                    listed.often &= has_room;
                    each(listed)
                });
                if step == Step::Full {
                    if let Some(list) = &list {
                        self.pieces.mark(list, &piece, end);
                    }
                    return Ok(false);
                }
                cookie = end.cookie;
            }
        })?
    }

    /// The list of a directory as it is now, if no other list will ever be called the same.
    ///
    /// Every name that is made, removed or renamed gives its directory a new time of change, by a
    /// clock that has gone on if the last one is over. The kernel reads a list under a lock that
    /// keeps changes out, and who changes a directory sets the time before leaving the lock. So
    /// what is read after the time was asked for is the list of that time, or a newer one if it
    /// changes meanwhile, and then the next call asks for another. Each call asks for itself: what
    /// it is given lacks no change that was made before.
    ///
    /// What is mounted over a name changes no directory, and so is a part of what a list is called.
    fn settled(&self, dir: &Node) -> Result<Option<List>> {
        // Elsewhere, others may change a directory by a clock or in ways that this kernel cannot
        // know.
        if dir.root.handles != HandleKind::Kernel || !dir.is_written_to_memory() {
            return Ok(None);
        }
        let changed = dir.attr()?.changed;
        let mounts = self.mounts.as_ref().map(Mounts::changes);
        Ok(is_over(changed).then(|| List { dir: *dir.handle(), changed, mounts }))
    }

    /// A piece of the list with what follows `cookie`, and where in it that is.
    fn piece(
        &self,
        dir: &Node,
        list: Option<&List>,
        cookie: u64,
        wanted: usize,
    ) -> Result<(Arc<Piece>, Place)> {
        let remembered = || self.pieces.get(list?, cookie, self.nodes.now());
        if let Some(found) = remembered() {
            return Ok(found);
        }
        // What is remembered is read straight on, in few pieces.
        let len = if list.is_some() { usize::MAX } else { wanted };
        let mut buffer = vec![0; len.clamp(*PIECE.start(), *PIECE.end())];
        let start = i64::try_from(cookie).map_err(|_| Errno::INVAL)?.unsigned_abs();
        let directory = self.readable(dir, Patience::Blocking)?;
        // One position serves all who list this directory. It is held for this piece only, so that
        // they do not wait for each other while they look at the entries.
        let _position = dir.listing.lock();
        if let Some(found) = remembered() {
            return Ok(found); // somebody else read it meanwhile
        }
        rustix::fs::seek(&directory, SeekFrom::Start(start))?;
        let read = sys::dir::read(&directory, &mut buffer)?;
        let piece = Arc::new(Piece::new(&buffer[..read]));
        if let Some(list) = list {
            self.pieces.keep(list, cookie, &piece);
        }
        Ok((piece, Place::start(cookie)))
    }

    /// The attributes and the handle of what `listed` is in `dir`, as the thread's present
    /// identity. `None` if it is gone, or must not be seen.
    ///
    /// A handle means one file from its birth to its removal, so that it is remembered by number
    /// and time of birth, in the piece and apart from that; attributes never are.
    pub fn look(&self, dir: &Node, listed: &Listed<'_>) -> Option<(Attr, Handle)> {
        if let Some(found) = self.look_at_open(listed) {
            return Some(found);
        }
        let attr = Attr::of_entry(dir, listed.entry.name).ok()?;
        if let Some(handle) = listed.handle(&attr) {
            if listed.often {
                self.keep_open(dir, listed);
            }
            return Some((attr, handle));
        }
        if let Some(handle) = self.remembered(&dir.root, &attr) {
            listed.remember(&attr, handle);
            return Some((attr, handle));
        }
        let (attr, handle) = self.ask(dir, listed.entry.name, attr)?;
        if self.remember(&dir.root, &attr, handle) {
            listed.remember(&attr, handle);
        }
        Some((attr, handle))
    }

    /// Whether most of these files are open. Where they are not, to look for each cost a quarter
    /// more.
    fn are_open<'a>(&self, files: impl Iterator<Item = &'a Handle>) -> bool {
        let (mut all, mut open) = (0, 0);
        for file in files {
            all += 1;
            open += usize::from(self.nodes.peek(file).is_some());
        }
        2 * open > all
    }

    /// As [`Fs::look`], of a file that is open.
    fn look_at_open(&self, listed: &Listed<'_>) -> Option<(Attr, Handle)> {
        let attr = self.nodes.get(listed.quick()?)?.attr().ok()?;
        listed.handle(&attr).map(|handle| (attr, handle))
    }

    /// Opens what `listed` is in `dir`, so that it is found open when the list is asked for again.
    /// What cannot be opened is looked at by its name as before.
    fn keep_open(&self, dir: &Node, listed: &Listed<'_>) {
        if !self.nodes.has_room() {
            return;
        }
        let (name, flags) = (listed.entry.name.to_bytes(), rustix::fs::OFlags::empty());
        let opened = self.open_below(dir, name, flags, Patience::Blocking);
        let _ = opened.and_then(|place| self.adopt(dir, name, place));
    }

    /// The handle of what `name` is in `dir` and has `attr`, or with other attributes of what it is
    /// by now.
    ///
    /// Asked for by name it may be another file's, if the name changes hands in between, and so has
    /// to say the number; only where it does not, the file is opened, which takes three times as
    /// long.
    fn ask(&self, dir: &Node, name: &CStr, attr: Attr) -> Option<(Attr, Handle)> {
        if let (HandleKind::Kernel, Some(mount)) = (dir.root.handles, dir.root.mount)
            && let Some(kernel) = sys::handle::of_file(dir, name, attr.fileid, mount)
        {
            let body = dir.root.body(&attr, kernel).ok()?;
            return Some((attr, self.key.seal(dir.root.id, body)));
        }
        let flags = rustix::fs::OFlags::empty();
        let place = self.open_below(dir, name.to_bytes(), flags, Patience::Blocking).ok()?;
        let attr = Attr::of(&place).ok()?;
        let handle =
            self.handle_in(dir, name.to_bytes(), &attr, || sys::handle::of(&place)).ok()?;
        Some((attr, handle))
    }
}

/// Whether a moment is over for sure: what is made or changed from now on has a later time.
///
/// By the clock that the kernel takes the times of files from. It goes on with the timer's ticks,
/// and may stand for long where the processor that counts those is held up (another guest of the
/// same host has it), while others go on changing files.
pub(super) fn is_over(time: Time) -> bool {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    let now = Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default());
    is_before(time, now)
}

/// The same at another time than the present.
fn is_before(time: Time, now: Duration) -> bool {
    let tick = if time.nanoseconds == 0 { SECONDS } else { TICK };
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    now.checked_sub(Duration::new(seconds, time.nanoseconds)).is_some_and(|age| age > tick)
}

#[cfg(test)]
mod tests;
