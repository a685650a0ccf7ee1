//! System calls for files that get their name last.
//!
//! Not every file system has files without a name (O_TMPFILE) or renames without replacing
//! (RENAME_NOREPLACE): FUSE, NFS, and overlayfs before Linux 6.1 lack one or both.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags};

use super::fault;
use crate::errno::{Errno, Result};

/// Marks a step of creating a file. A test can end the process here.
pub fn step() {
    fault::step();
}

/// Creates a file without a name in `dir`, open for reading and writing. It inherits from `dir` as
/// every file there, and is deleted with its descriptor unless [`give_name`] gives it a name.
///
/// # Errors
/// As open(2) with O_TMPFILE; `EOPNOTSUPP` if the file system has no such files.
pub fn unnamed(dir: impl AsFd, mode: Mode) -> Result<OwnedFd> {
    step();
    if fault::is_old() {
        return Err(Errno::OPNOTSUPP);
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, c".", flags, mode)?)
}

/// Gives a file that [`unnamed`] has created its name in `dir`.
///
/// # Errors
/// As link(2); `EEXIST` if the name is taken.
pub fn give_name(file: impl AsFd, dir: impl AsFd, name: &[u8]) -> Result<()> {
    step();
    let linked = match rustix::fs::linkat(&file, c"", &dir, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 this requires a privilege that the caller lacks. Linking through /proc
        // does not, but costs twice as much.
        Err(rustix::io::Errno::NOENT) => {
            let file = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            rustix::fs::linkat(CWD, file, dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    };
    step();
    Ok(linked?)
}

/// Renames `from` to `to` in `dir`, where `to` must not exist.
///
/// Where the file system cannot rename without replacing, a file is linked and unlinked; if it
/// cannot be unlinked, it keeps both names. A directory is renamed after a check that the name is
/// free. If another program takes the name in between, rename(2) replaces an empty directory at
/// most.
///
/// # Errors
/// As renameat2(2); `EEXIST` if the name is taken; `EOPNOTSUPP` if the file system supports none of
/// these.
pub fn rename_new(dir: impl AsFd + Copy, from: &[u8], to: &[u8], is_directory: bool) -> Result<()> {
    step();
    let renamed = if fault::is_old() {
        Err(rustix::io::Errno::INVAL)
    } else {
        rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE)
    };
    match renamed.map_err(Errno::from) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => {
            step();
            return renamed;
        }
    }
    if !is_directory {
        return rename_by_link(dir, from, to);
    }
    if rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Errno::EXIST);
    }
    rustix::fs::renameat(dir, from, dir, to)?;
    step();
    Ok(())
}

/// Whether no entry of `dir` can be renamed or removed (`chattr +a`).
pub fn gives_no_name_up(dir: impl AsFd) -> bool {
    let flags = AtFlags::EMPTY_PATH;
    let of = rustix::fs::statx(dir, c"", flags, StatxFlags::empty());
    of.is_ok_and(|of| of.stx_attributes.contains(StatxAttributes::APPEND))
}

fn rename_by_link(dir: impl AsFd + Copy, from: &[u8], to: &[u8]) -> Result<()> {
    link(dir, from, to)?;
    step();
    // The file exists, is complete, and may be in use already: from here on this is a success.
    let _ = rustix::fs::unlinkat(dir, from, AtFlags::empty());
    Ok(())
}

fn link(dir: impl AsFd + Copy, from: &[u8], to: &[u8]) -> Result<()> {
    if fault::is_bare() {
        return Err(Errno::OPNOTSUPP);
    }
    match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()).map_err(Errno::from) {
        Err(Errno::NOSYS | Errno::PERM | Errno::MLINK) => Err(Errno::OPNOTSUPP),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user;
    use std::fs::{self, File};

    #[test]
    fn a_name_that_is_taken_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        fs::write(temp.path().join("taken"), "content").unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        assert_eq!(rename_new(&dir, b"file", b"taken", false), Err(Errno::EXIST));
        if let Ok(file) = unnamed(&dir, 0o600.into()) {
            assert_eq!(give_name(file, &dir, b"taken"), Err(Errno::EXIST));
        }
        assert_eq!(fs::read(temp.path().join("taken")).unwrap(), b"content");
        rename_new(&dir, b"file", b"free", false).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_has_its_name_is_made_though_it_keeps_the_other_one() {
        if user::fs_ids().0 != 0 {
            return; // nobody else has a directory in which this user may link and not unlink
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        fs::write(temp.path().join("file"), "content").unwrap();
        rustix::fs::chmod(temp.path().join("file"), 0o666.into()).unwrap();
        rustix::fs::chmod(temp.path(), 0o1777.into()).unwrap();
        let as_another = || {
            user::set_fsuid(1000)?; // of this thread only, which ends
            let unlinked = rustix::fs::unlinkat(&dir, "file", AtFlags::empty());
            assert_eq!(unlinked, Err(rustix::io::Errno::PERM));
            rename_by_link(&dir, b"file", b"name")
        };
        std::thread::scope(|scope| scope.spawn(as_another).join().unwrap()).unwrap();
        assert_eq!(fs::read(temp.path().join("name")).unwrap(), b"content");
    }
}
