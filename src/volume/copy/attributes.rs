//! Copies the attributes of a file to another one of the same kind.
//!
//! The order matters. A change of the owner clears set-id bits and file capabilities, and a change
//! of the ACL may clear the set-group-id bit, so these follow. Times come last, because every other
//! change sets one. All system calls use descriptors that need no access to the content (O_PATH),
//! so they work for all kinds of files and follow no symbolic link.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::errno::{Errno, Result};
use crate::volume::tree::file::{FileStat, proc_path};

/// The longest list of names, and the longest value, in Linux (xattr(7)).
const XATTR_MAX: usize = 64 * 1024;

/// The ACLs of a file: its own, and the default ACL that a directory passes on to new entries.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// Copies attributes. Keeps buffers for long ones.
pub(super) struct AttributeCopier {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl AttributeCopier {
    pub(super) fn new() -> Self {
        Self { list: vec![0; XATTR_MAX], value: vec![0; XATTR_MAX] }
    }

    /// Gives the file `to` the attributes of `from`: the present extended attributes, and the
    /// others as in `stat`.
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
            // Other attributes belong to the system, which may refuse them: security labels,
            // capabilities.
            if kept.is_err() && is_of_users(name) {
                kept?;
            }
        }
        Ok(())
    }
}

/// Removes the ACLs of the directory `to`, so that new entries inherit none.
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

/// Sets the owner and the group. Returns the mode that the file may have: a set-id program of one
/// user must not become that of another user.
fn own(to: BorrowedFd<'_>, stat: &FileStat) -> Result<Mode> {
    let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
    let chown = |uid, gid| rustix::fs::chownat(to, c"", uid, gid, AtFlags::EMPTY_PATH);
    match chown(Some(uid), Some(gid)) {
        Ok(()) => return Ok(stat.mode),
        Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => {}
        Err(errno) => return Err(errno.into()),
    }
    // Without privilege, a group of which the process is a member can be set.
    let _ = chown(None, Some(gid));
    let now = FileStat::of(to)?;
    Ok(allowed(stat, &now))
}

/// Returns the mode of `wanted`, without the set-id bits that would apply to another owner.
fn allowed(wanted: &FileStat, now: &FileStat) -> Mode {
    let mut mode = wanted.mode;
    mode.set(Mode::SUID, mode.contains(Mode::SUID) && wanted.uid == now.uid);
    mode.set(Mode::SGID, mode.contains(Mode::SGID) && wanted.gid == now.gid);
    mode
}

/// Returns the target of the symbolic link that `place` refers to.
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
