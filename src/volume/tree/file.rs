//! Opens the files of a tree one step at a time, and reads their attributes.
//!
//! Each step is one name in an open directory. It never follows a symbolic link, and never enters
//! another file system.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags};

use crate::errno::{Errno, Result};

/// Identifies a file, also against a later one that reuses its inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: (u32, u32),
    number: u64,
    born: Option<(i64, u32)>,
}

/// The attributes of a file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its identity.
    pub id: FileId,
    /// Its kind.
    pub kind: FileType,
    /// Permissions, set-id and sticky bits.
    pub mode: Mode,
    /// The number of its names.
    pub links: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of its content, in bytes.
    pub size: u64,
    /// The space that it takes on the disk, in bytes.
    pub used: u64,
    /// The number, if it is a device.
    pub device: u64,
    /// The last access: seconds since 1970, and nanoseconds of the second.
    pub accessed: (i64, u32),
    /// The last change of the content, in the same form.
    pub modified: (i64, u32),
}

impl FileStat {
    /// Reads the attributes of the file that `fd` refers to. An O_PATH descriptor suffices.
    ///
    /// # Errors
    /// As statx(2).
    pub fn of(fd: impl AsFd) -> Result<Self> {
        Self::read(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// Reads the attributes of `name` in `dir`. A symbolic link is not followed.
    ///
    /// # Errors
    /// As statx(2).
    pub fn of_entry(dir: impl AsFd, name: &CStr) -> Result<Self> {
        Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    fn read(dir: impl AsFd, name: &CStr, flags: AtFlags) -> Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(dir, name, flags, wanted)?;
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let has_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            id: FileId {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                number: stat.stx_ino,
                born: has_born.then(|| time(stat.stx_btime)),
            },
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777),
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            used: stat.stx_blocks.saturating_mul(512),
            device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
        })
    }
}

/// Opens the directory `path` for reading, as the root of a tree. Symbolic links above it are
/// followed, but it must not be one itself.
///
/// # Errors
/// As open(2); `ENOTDIR` if it is not a directory.
pub fn root(path: &Path) -> Result<OwnedFd> {
    quietly(|flags| rustix::fs::openat(CWD, path, flags | directory_flags(), Mode::empty()))
}

/// Opens `name` in `dir` without access to its content (O_PATH), whatever its kind. The descriptor
/// stays the same file if the name is reused.
///
/// # Errors
/// As openat2(2); `EXDEV` if it is a mount point.
pub fn open_path(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), within())?)
}

/// Opens the content of a regular file from a descriptor, such as that of [`open_path`]. The caller
/// must have checked that it is a regular file: a device or a pipe would be opened as well.
///
/// # Errors
/// As open(2).
pub fn content(place: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = proc_path(place);
    quietly(|quiet| rustix::fs::open(&path, flags | quiet, Mode::empty()))
}

/// Opens the directory `name` in `dir` for reading. The name may be `.`.
///
/// # Errors
/// As openat2(2); `EXDEV` if it is a mount point, `ENOTDIR` or `ELOOP` if it is not a directory.
pub fn directory(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let dir = dir.as_fd();
    let open =
        |flags| rustix::fs::openat2(dir, name, flags | directory_flags(), Mode::empty(), within());
    quietly(open)
}

/// Returns a path to the file that `fd` refers to, for system calls that take no descriptor. It is
/// valid in this process while the descriptor is open, and refers to a symbolic link itself.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Returns the start and the end of the next part of a file between `from` and `end` that is not a
/// hole. If the file system does not know its holes, that is everything. Moves the file's offset.
///
/// # Errors
/// As lseek(2).
pub fn data(fd: impl AsFd, from: u64, end: u64) -> Result<Option<(u64, u64)>> {
    let (fd, all) = (fd.as_fd(), (from < end).then_some((from, end)));
    let start = match rustix::fs::seek(fd, SeekFrom::Data(from)).map_err(Errno::from) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(all),
        Err(errno) => return Err(errno),
    };
    // The file may have become shorter between the two calls.
    let stop = match rustix::fs::seek(fd, SeekFrom::Hole(start)).map_err(Errno::from) {
        Ok(stop) => stop.min(end),
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok((start < stop).then_some((start, stop)))
}

/// The restrictions on every step in a tree.
pub(super) fn within() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
}

pub(super) fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens a file so that reading does not change its access time, if that is permitted: to the owner
/// and to privileged processes.
pub(super) fn quietly(open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>) -> Result<OwnedFd> {
    match open(OFlags::NOATIME) {
        Err(rustix::io::Errno::PERM) => Ok(open(OFlags::empty())?),
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::tempdir;

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempdir().unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let top = root(dir.path()).unwrap();
        let refused = directory(&top, c"link").unwrap_err();
        assert!([Errno::LOOP, Errno::NOTDIR].contains(&refused), "{refused:?}");
        let link = open_path(&top, c"link").unwrap();
        assert_eq!(FileStat::of(&link).unwrap().kind, FileType::Symlink);
        assert!(root(&dir.path().join("link")).is_err());
    }

    #[test]
    fn another_file_system_is_not_entered() {
        let top = root(Path::new("/")).unwrap(); // everywhere, /proc is mounted
        assert_eq!(directory(&top, c"proc").unwrap_err(), Errno::XDEV);
        assert_eq!(open_path(&top, c"proc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn nothing_above_is_reached() {
        let dir = tempdir().unwrap();
        let top = root(dir.path()).unwrap();
        assert_eq!(directory(&top, c"..").unwrap_err(), Errno::XDEV);
    }
}
