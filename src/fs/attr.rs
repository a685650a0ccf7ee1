//! File attributes, and attributes to be set ([`super::change`] sets them).

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};

use crate::errno::{Errno, Result};

/// The set-user-id and the set-group-id bit of a mode.
pub const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A file with content.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    fn of(mode: u32) -> Result<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Ok(Self::Regular),
            libc::S_IFDIR => Ok(Self::Directory),
            libc::S_IFLNK => Ok(Self::Symlink),
            libc::S_IFBLK => Ok(Self::Block),
            libc::S_IFCHR => Ok(Self::Character),
            libc::S_IFIFO => Ok(Self::Fifo),
            libc::S_IFSOCK => Ok(Self::Socket),
            _ => Err(Errno::IO),
        }
    }
}

/// A time, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

/// The attributes of a file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The type of the file.
    pub kind: FileKind,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// The number of names.
    pub links: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of its content, in bytes.
    pub size: u64,
    /// The space that it takes on the disk, in bytes.
    pub used: u64,
    /// The major and minor number of a device.
    pub device: (u32, u32),
    /// The inode number.
    pub fileid: u64,
    /// The device number of its file system, or of the subvolume. The same inode number may be in
    /// several.
    pub filesystem: (u32, u32),
    /// The birth time, if the file system records it.
    pub born: Option<Time>,
    /// The time of the last access.
    pub accessed: Time,
    /// The time of the last change of the content.
    pub modified: Time,
    /// The time of the last change of content or attributes.
    pub changed: Time,
}

impl Attr {
    /// Returns the attributes of the file that `fd` refers to.
    ///
    /// # Errors
    /// As statx(2); `EIO` if it is of no known type.
    pub(super) fn of(fd: impl AsFd) -> Result<Self> {
        Self::from(&statx(fd, c"", AtFlags::EMPTY_PATH)?)
    }

    /// Returns the attributes of the entry `name` of `dir`, without following a symbolic link.
    ///
    /// # Errors
    /// As [`Self::of`]; `EXDEV` if another file system is mounted there.
    pub(super) fn of_entry(dir: impl AsFd, name: &CStr) -> Result<Self> {
        let stat = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Errno::XDEV);
        }
        Self::from(&stat)
    }

    fn from(stat: &Statx) -> Result<Self> {
        let time =
            |t: rustix::fs::StatxTimestamp| Time { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
        let has_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            kind: FileKind::of(stat.stx_mode.into())?,
            mode: u32::from(stat.stx_mode) & 0o7777,
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            used: stat.stx_blocks.saturating_mul(512),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            fileid: stat.stx_ino,
            filesystem: (stat.stx_dev_major, stat.stx_dev_minor),
            born: has_born.then(|| time(stat.stx_btime)),
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
        })
    }
}

/// Whether `name` is in `dir`.
pub(super) fn entry_exists(dir: impl AsFd, name: &[u8]) -> bool {
    CString::new(name).is_ok_and(|name| Attr::of_entry(dir, &name).is_ok())
}

fn statx(dir: impl AsFd, name: &CStr, flags: AtFlags) -> Result<Statx> {
    Ok(rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Set it to the server's time.
    Now,
    /// Set it to this time.
    To(Time),
}

/// Attributes to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    /// Permissions, set-id and sticky bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The length.
    pub size: Option<u64>,
    /// The time of the last access.
    pub accessed: SetTime,
    /// The time of the last change of the content.
    pub modified: SetTime,
}

impl Changes {
    /// Whether only an owner may make them.
    pub(super) fn needs_owner(&self) -> bool {
        let sets = |time| matches!(time, SetTime::To(_));
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || sets(self.accessed)
            || sets(self.modified)
    }
}
