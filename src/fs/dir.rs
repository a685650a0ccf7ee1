//! Listing directories.
//!
//! A cookie is the directory's own offset of the next entry, so that a page costs a page wherever
//! it starts, and entries that come and go move no others.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::PoisonError;

use rustix::fs::{RawDir, SeekFrom};

use super::Fs;
use super::attr::{Access, Attr, Kind};
use super::handle::Handle;
use super::identity::Identity;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::sys::{self, Patience};

/// Bytes of a directory that are read at a time.
const PIECE: usize = 32 * 1024;

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The number of the file.
    pub fileid: u64,
    /// Its name.
    pub name: &'a CStr,
    /// Where the next entry is.
    pub cookie: u64,
}

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
    /// answers whether the list ended. Blocks. `each` runs as the caller.
    ///
    /// # Errors
    /// `EACCES`, `ENOTDIR`; `EINVAL` for a cookie that cannot be one.
    pub fn list(
        &self,
        dir: &Node,
        caller: &Identity,
        cookie: u64,
        mut each: impl FnMut(Entry<'_>) -> Step,
    ) -> Result<bool> {
        if dir.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.may(dir, caller, Access::Read)? {
            return Err(Errno::ACCES);
        }
        let list = self.readable(dir, Patience::Blocking)?;
        let mut piece = vec![MaybeUninit::uninit(); PIECE];
        // One position serves all who list this directory, each from where it wants.
        let _position = dir.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let start = i64::try_from(cookie).map_err(|_| Errno::INVAL)?;
        rustix::fs::seek(list, SeekFrom::Start(start.unsigned_abs()))?;
        let mut entries = RawDir::new(list, &mut piece);
        let is_root = dir.fileid == dir.root.fileid;
        self.switch.acting_as(caller, || {
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name();
                // Above the root of an export there is only the root.
                let fileid = if is_root && name == c".." { dir.fileid } else { entry.ino() };
                let cookie = entry.next_entry_cookie();
                if each(Entry { fileid, name, cookie }) == Step::Full {
                    return Ok(false);
                }
            }
            Ok(true)
        })?
    }

    /// The attributes and the handle of what `name` is in `dir`, as the thread's present identity.
    /// `None` if it is gone, or must not be seen.
    ///
    /// Two calls look at the name, and it may be renamed in between: see [`Fs::look_closely`].
    pub fn look(&self, dir: &Node, name: &CStr) -> Option<(Attr, Handle)> {
        let attr = Attr::of_entry(dir, name).ok()?;
        let handle = self.handle_in(dir, name.to_bytes(), &attr, || {
            let (handle, mount) = sys::handle::of_entry(dir, name)?;
            // Another file system is mounted there. It is not exported.
            if mount == dir.root.mount { Ok(handle) } else { Err(Errno::XDEV) }
        });
        Some((attr, handle.ok()?))
    }

    /// As [`Fs::look`], of one and the same file for sure, and at twice the cost.
    pub fn look_closely(&self, dir: &Node, name: &CStr) -> Option<(Attr, Handle)> {
        let flags = rustix::fs::OFlags::empty();
        let place = self.open_below(dir, name.to_bytes(), flags, Patience::Blocking).ok()?;
        let attr = Attr::of(&place).ok()?;
        let handle =
            self.handle_in(dir, name.to_bytes(), &attr, || sys::handle::of(&place)).ok()?;
        Some((attr, handle))
    }
}
