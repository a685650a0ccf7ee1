//! Probes whether a file system keeps its handles.
//!
//! A probe cannot show that a handle never comes to mean another file; that must be known of the
//! file system ([`crate::sys::filesystem`]). It can show the contrary: the directory must be found
//! by its handle, and a deleted file must not. For the latter, a file without a name is created
//! (O_TMPFILE) where possible. It is invisible, and does not change the directory.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::attr::Attr;
use super::handle::Stamp;
use crate::errno::{Errno, Result};
use crate::sys::handle;

/// Checks that `directory` is found by its handle, and a deleted file is not. Blocks.
///
/// # Errors
/// The file system has no handles, or does not keep them (`ESTALE`); `EPERM` without the privilege.
pub(super) fn check(directory: &OwnedFd) -> Result<()> {
    let own = handle::of(directory)?;
    let again = handle::open(directory, &own)?;
    if Stamp::of(&Attr::of(&again)?) != Stamp::of(&Attr::of(directory)?) {
        return Err(Errno::STALE);
    }
    check_deleted(directory)
}

/// Checks that the handle of a deleted file is stale. Passes if no file without a name can be
/// created (on a full or read-only disk, or a file system that does not support it).
fn check_deleted(directory: &OwnedFd) -> Result<()> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, c".", flags, Mode::empty()) else {
        return Ok(());
    };
    let Ok(gone) = handle::of(&file) else { return Ok(()) };
    drop(file);
    match handle::open(directory, &gone).and_then(Attr::of) {
        // Without links, it may still be in the process of deletion.
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
        match check(&directory) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                crate::sys::testing::not_tried("the file system has no handles");
            }
            kept => assert_eq!(kept, Ok(())),
        }
        assert_eq!(Attr::of(&directory).unwrap().changed, before.changed, "the probe is invisible");
    }

    #[test]
    fn proc_does_not_keep_handles() {
        assert!(check(&File::open("/proc").unwrap().into()).is_err());
    }
}
