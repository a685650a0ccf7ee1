//! What is known of a file, what may be changed of it ([`super::change`] does), and who may access
//! it.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};

use super::Fs;
use super::identity::Identity;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::sys;

/// The set-user-id and the set-group-id bit of a mode.
pub const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
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

impl Kind {
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

/// A moment, since 1970.
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
    /// Its kind.
    pub kind: Kind,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Names of the file.
    pub links: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of its content, in bytes.
    pub size: u64,
    /// What it takes on the disk, in bytes.
    pub used: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Number of the file in its file system.
    pub fileid: u64,
    /// Which file system that is, or which subvolume of it: the same number may be in several.
    pub filesystem: (u32, u32),
    /// When it was made, if the file system says.
    pub born: Option<Time>,
    /// Last access.
    pub accessed: Time,
    /// Last change of its content.
    pub modified: Time,
    /// Last change of anything about it.
    pub changed: Time,
}

impl Attr {
    /// The attributes of the file that `fd` refers to.
    pub(super) fn of(fd: impl AsFd) -> Result<Self> {
        Self::from(&statx(fd, c"", AtFlags::EMPTY_PATH)?)
    }

    /// The attributes of the file that `name` has in `dir`, links not followed.
    ///
    /// # Errors
    /// `EXDEV` if another file system is mounted there.
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
            kind: Kind::of(stat.stx_mode.into())?,
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

fn statx(dir: impl AsFd, name: &CStr, flags: AtFlags) -> Result<Statx> {
    Ok(rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The server's present.
    Now,
    /// What the client says.
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
    /// Last access.
    pub accessed: SetTime,
    /// Last change of the content.
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

/// What a caller may want to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read its content, or list it.
    Read,
    /// Write its content, or change names in it.
    Write,
    /// Execute it, or find names in it.
    Execute,
}

impl Access {
    const fn bit(self) -> i32 {
        match self {
            Self::Read => libc::R_OK,
            Self::Write => libc::W_OK,
            Self::Execute => libc::X_OK,
        }
    }
}

impl Fs {
    /// Whether the mode, the groups and the ACL of `node` allow `caller` the access.
    pub fn may(&self, node: &Node, caller: &Identity, access: Access) -> Result<bool> {
        let answer = self.switch.acting_as(caller, || sys::file::access(node, access.bit()))?;
        match answer {
            Ok(()) => Ok(true),
            Err(Errno::ACCES | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Whether `caller` may read the content of `node`, which has `attr`: its owner may whatever
    /// the mode says by now, because the client checked when the file was opened, and who may
    /// execute a file must be able to read it.
    pub fn may_read(&self, node: &Node, attr: &Attr, caller: &Identity) -> Result<bool> {
        Ok(self.owns(attr, caller)
            || self.may(node, caller, Access::Read)?
            || self.may(node, caller, Access::Execute)?)
    }

    /// Whether `caller` may write the content of `node`, which has `attr`; as [`Fs::may_read`].
    pub fn may_write(&self, node: &Node, attr: &Attr, caller: &Identity) -> Result<bool> {
        Ok(self.owns(attr, caller) || self.may(node, caller, Access::Write)?)
    }

    /// Whether `caller` is root or the owner. Without the privilege to act as others, everybody
    /// is the server's user.
    pub(super) fn owns(&self, attr: &Attr, caller: &Identity) -> bool {
        let who = if self.switch.can_switch() { caller } else { self.switch.server() };
        who.is_root() || who.uid == attr.uid
    }
}
