//! The attributes of one file onto another of the same kind.
//!
//! The order matters. A change of the owner takes set-id bits and file capabilities away, and a
//! change of the ACL may take the set-group-id bit, so that these follow. Times come last: every
//! other change touches one. Everything goes by descriptors that need no access to the content
//! (O_PATH), so that it works for all kinds and follows no link.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::errno::{Errno, Result};
use crate::volume::tree::file::{FileStat, proc_path};

/// The longest list of names, and the longest value, that Linux has (xattr(7)).
const XATTR_MAX: usize = 64 * 1024;

/// The ACLs of a file: what applies to it, and what a directory gives to what is made in it.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// Applies attributes; keeps memory for the long ones.
pub(super) struct AttributeCopier {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl AttributeCopier {
    pub(super) fn new() -> Self {
        Self { list: vec![0; XATTR_MAX], value: vec![0; XATTR_MAX] }
    }

    /// Gives the file `to` what `from` has: the extended attributes as they are now, all others as
    /// in `stat`.
    pub(super) fn apply(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &FileStat,
    ) -> Result<()> {
        let mode = own(to, stat)?;
        self.extended(&proc_path(from), &proc_path(to))?;
        if stat.kind != FileType::Symlink {
            rustix::fs::chmod(proc_path(to), mode)?;
        }
        let time = |(tv_sec, nanoseconds)| Timespec { tv_sec, tv_nsec: i64::from(nanoseconds) };
        let times =
            Timestamps { last_access: time(stat.accessed), last_modification: time(stat.modified) };
        Ok(rustix::fs::utimensat(to, c"", &times, AtFlags::EMPTY_PATH)?)
    }

    fn extended(&mut self, from: &Path, to: &Path) -> Result<()> {
        let len = match rustix::fs::listxattr(from, &mut self.list) {
            Err(rustix::io::Errno::NOTSUP) => return Ok(()),
            len => len?,
        };
        for name in self.list[..len].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let kept = match rustix::fs::getxattr(from, name, &mut self.value) {
                Ok(len) => rustix::fs::setxattr(to, name, &self.value[..len], XattrFlags::empty()),
                Err(rustix::io::Errno::NODATA) => Ok(()), // it was removed meanwhile
                Err(errno) => Err(errno),
            };
            // The others belong to the system, which may not let us: labels, capabilities.
            if kept.is_err() && is_of_users(name) {
                kept?;
            }
        }
        Ok(())
    }
}

/// Removes the ACLs of the directory `to`, so that what is made in it gets none from there.
pub(super) fn clear_acls(to: BorrowedFd<'_>) -> Result<()> {
    for name in ACLS {
        match rustix::fs::removexattr(proc_path(to), name) {
            Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn is_of_users(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"user.") || ACLS.contains(&name)
}

/// Sets the owner and the group. Answers the mode that the file may have: a program that runs as
/// its owner must not run as another one.
fn own(to: BorrowedFd<'_>, stat: &FileStat) -> Result<Mode> {
    let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
    let chown = |uid, gid| rustix::fs::chownat(to, c"", uid, gid, AtFlags::EMPTY_PATH);
    match chown(Some(uid), Some(gid)) {
        Ok(()) => return Ok(stat.mode),
        Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => {}
        Err(errno) => return Err(errno.into()),
    }
    // A group that we are in may be given without a privilege.
    let _ = chown(None, Some(gid));
    let now = FileStat::of(to)?;
    Ok(allowed(stat, &now))
}

/// The mode of `wanted` without the set-id bits that would be those of somebody else.
fn allowed(wanted: &FileStat, now: &FileStat) -> Mode {
    let mut mode = wanted.mode;
    mode.set(Mode::SUID, mode.contains(Mode::SUID) && wanted.uid == now.uid);
    mode.set(Mode::SGID, mode.contains(Mode::SGID) && wanted.gid == now.gid);
    mode
}

/// The target of the symbolic link that `place` refers to.
pub(super) fn target(place: BorrowedFd<'_>) -> Result<CString> {
    rustix::fs::readlinkat(place, c"", Vec::new()).map_err(Errno::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_go_with_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let top = crate::volume::tree::file::root(dir.path()).unwrap();
        let now = FileStat::of(&top).unwrap();
        let wanted = |uid, gid, mode| FileStat { uid, gid, mode: Mode::from_raw_mode(mode), ..now };
        let check = |wanted: FileStat, mode| assert_eq!(allowed(&wanted, &now).as_raw_mode(), mode);
        check(wanted(now.uid, now.gid, 0o6755), 0o6755);
        check(wanted(now.uid + 1, now.gid, 0o6755), 0o2755);
        check(wanted(now.uid, now.gid + 1, 0o7755), 0o5755);
        check(wanted(now.uid + 1, now.gid + 1, 0o1777), 0o1777);
    }
}
