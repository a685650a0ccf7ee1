//! Trying out whether a file system keeps its handles.
//!
//! That a handle never comes to mean another file can only be known of a file system, not tried out
//! ([`crate::sys::filesystem`]). What can be tried is whether it fails to: the directory has to be
//! found by its handle, and a file that is gone must not be. For the latter a file without a name
//! is made, where the file system can do that: nothing is to be seen of it, and the directory does
//! not change.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::attr::Attr;
use super::handle::Stamp;
use crate::errno::{Errno, Result};
use crate::sys::handle;

/// Whether `directory` is found by its handle, and no file by that of one that is gone. Blocks.
///
/// # Errors
/// The file system has no handles, or does not keep them (`ESTALE`); `EPERM` without the privilege.
pub(super) fn keeps(directory: &OwnedFd) -> Result<()> {
    let own = handle::of(directory)?;
    let again = handle::open(directory, &own)?;
    if Stamp::of(&Attr::of(&again)?) != Stamp::of(&Attr::of(directory)?) {
        return Err(Errno::STALE);
    }
    forgets(directory)
}

/// Whether the handle of a file that is gone leads nowhere. Where no such file can be made (on a
/// full or read-only disk, or on a file system that has no files without names), there is nothing
/// to say.
fn forgets(directory: &OwnedFd) -> Result<()> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, c".", flags, Mode::empty()) else {
        return Ok(());
    };
    let Ok(gone) = handle::of(&file) else { return Ok(()) };
    drop(file);
    match handle::open(directory, &gone).and_then(Attr::of) {
        // It may still be on its way out.
        Ok(attr) if attr.links > 0 => Err(Errno::STALE),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_disk_keeps_its_handles() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap().into();
        let before = Attr::of(&directory).unwrap();
        match keeps(&directory) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => eprintln!("skipped: no handles here"),
            kept => assert_eq!(kept, Ok(())),
        }
        assert_eq!(Attr::of(&directory).unwrap().changed, before.changed, "nothing is to be seen");
    }

    #[test]
    fn what_has_no_files_on_a_disk_does_not() {
        assert!(keeps(&File::open("/proc").unwrap().into()).is_err());
    }
}
