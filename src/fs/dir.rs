//! Listing directories.
//!
//! A cookie is the directory's own offset of the next entry, so that a page costs a page wherever
//! it starts, and entries that come and go move no others.
//!
//! What an entry with attributes costs is the file system's work: of 2.2 us, half is statx(2) by its
//! name, a fifth reading the list, a tenth all that is done here. Asking for every handle anew would
//! cost 3.3 us, so that those are remembered ([`Fs::look`]); beyond what is remembered it is 3.4.

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::SeekFrom;

use super::Fs;
use super::attr::{Access, Attr, Kind, Time};
use super::handle::{Body, Handle};
use super::identity::Identity;
use super::node::Node;
use super::root::HandleKind;
use crate::errno::{Errno, Result};
use crate::sys::dir::Entry;
use crate::sys::{self, Patience};

/// Bytes of a directory that are read at a time: at most, and at least, which is more than the
/// longest entry.
const PIECE: RangeInclusive<usize> = 4 * 1024..=32 * 1024;

/// Longer than any kernel takes between two readings of the time for files.
const TICK: Duration = Duration::from_millis(100);

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
    /// the list are read at a time.
    ///
    /// # Errors
    /// `EACCES`, `ENOTDIR`; `EINVAL` for a cookie that cannot be one.
    pub fn list(
        &self,
        dir: &Node,
        caller: &Identity,
        (mut cookie, wanted): (u64, usize),
        mut each: impl FnMut(Entry<'_>) -> Step,
    ) -> Result<bool> {
        if dir.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.may(dir, caller, Access::Read)? {
            return Err(Errno::ACCES);
        }
        self.readable(dir, Patience::Blocking)?;
        let mut piece = vec![0; wanted.clamp(*PIECE.start(), *PIECE.end())];
        let is_root = dir.fileid == dir.root.fileid;
        self.switch.acting_as(caller, || {
            loop {
                let read = self.read_piece(dir, cookie, &mut piece)?;
                if read == 0 {
                    return Ok(true);
                }
                for mut entry in sys::dir::entries(&piece[..read]) {
                    // Above the root of an export there is only the root.
                    if is_root && entry.name == c".." {
                        entry.fileid = dir.fileid;
                    }
                    cookie = entry.cookie;
                    if each(entry) == Step::Full {
                        return Ok(false);
                    }
                }
            }
        })?
    }

    /// Reads a piece of the list; answers how many bytes that is.
    fn read_piece(&self, dir: &Node, cookie: u64, piece: &mut [u8]) -> Result<usize> {
        let list = self.readable(dir, Patience::Blocking)?;
        let start = i64::try_from(cookie).map_err(|_| Errno::INVAL)?.unsigned_abs();
        // One position serves all who list this directory. It is held for this piece only, so that
        // they do not wait for each other while they look at the entries.
        let _position = dir.listing.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::seek(list, SeekFrom::Start(start))?;
        sys::dir::read(list, piece)
    }

    /// The attributes and the handle of what `name` is in `dir`, as the thread's present identity.
    /// `None` if it is gone, or must not be seen.
    ///
    /// A handle means one file from its birth to its removal, so that it is remembered by number and
    /// time of birth; attributes and names are not. Asked for by name it may be another file's, if
    /// the name changes hands in between, and so has to say the number; only where it does not, the
    /// file is opened, which takes three times as long.
    pub fn look(&self, dir: &Node, name: &CStr) -> Option<(Attr, Handle)> {
        let attr = Attr::of_entry(dir, name).ok()?;
        let id = attr.born.map(|born| (dir.root.id, attr.fileid, born));
        if let Some(handle) = id.and_then(|id| self.handles.get(&id)) {
            return Some((attr, handle));
        }
        if let (HandleKind::Kernel, Some(mount)) = (dir.root.handles, dir.root.mount)
            && let Some(kernel) = sys::handle::of_file(dir, name, attr.fileid, mount)
        {
            let handle = self.key.seal(dir.root.id, Body::Kernel(kernel));
            self.remember(dir, &attr, handle);
            return Some((attr, handle));
        }
        let flags = rustix::fs::OFlags::empty();
        let place = self.open_below(dir, name.to_bytes(), flags, Patience::Blocking).ok()?;
        let attr = Attr::of(&place).ok()?;
        let handle =
            self.handle_in(dir, name.to_bytes(), &attr, || sys::handle::of(&place)).ok()?;
        self.remember(dir, &attr, handle);
        Some((attr, handle))
    }

    fn remember(&self, dir: &Node, attr: &Attr, handle: Handle) {
        if let Some(born) = attr.born
            && dir.root.handles == HandleKind::Kernel
            && is_past(born)
        {
            self.handles.insert((dir.root.id, attr.fileid, born), handle);
        }
    }
}

/// Whether a moment is over for sure: a file that is made from now on, maybe with the number of
/// one that was removed, is born later. The clock of births goes on every few milliseconds.
fn is_past(born: Time) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u64::try_from(born.seconds).unwrap_or_default();
    now.checked_sub(Duration::new(seconds, born.nanoseconds)).is_some_and(|age| age > TICK)
}
