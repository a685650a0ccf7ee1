//! Types of file systems, and what is known of them.

use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::fstatfs;

use crate::errno::Result;

/// A type of file system, by its number of statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem(u32);

/// The file systems whose handles never come to mean another file, each with the reason.
///
/// Not in the list, and why:
/// - FUSE (0x65735546: GlusterFS, ceph-fuse, sshfs, virtiofs): a handle is a node id, with many
///   daemons an address in their memory that another file gets once the first is forgotten;
/// - overlayfs (0x794c7630): a handle is one of a layer, which may lie on any file system;
/// - NFS (0x6969) and SMB: a handle is that of another server;
/// - FAT, exFAT: a handle is a place in a directory, which the next file gets.
const KEEPS_HANDLES: &[FileSystem] = &[
    // Number and generation of the inode, both on the disk; the kernel compares them.
    FileSystem::EXT,
    FileSystem::XFS,
    FileSystem::F2FS,
    FileSystem::JFS,
    FileSystem::OCFS2,
    // Numbers are not reused: the object, its subvolume and the transaction that created it.
    FileSystem::BTRFS,
    FileSystem::BCACHEFS,
    FileSystem::ZFS,
    // A second number, which counts all inodes that were ever created.
    FileSystem::GFS2,
    // Numbers that the cluster assigns once. This is the kernel's client, not the one in user
    // space.
    FileSystem::CEPH,
    FileSystem::LUSTRE,
    // Number and random generation, in memory like the files.
    FileSystem::TMPFS,
];

impl FileSystem {
    /// ext2, ext3, ext4.
    pub const EXT: Self = Self(0xef53);
    /// XFS.
    pub const XFS: Self = Self(0x5846_5342);
    /// btrfs.
    pub const BTRFS: Self = Self(0x9123_683e);
    /// F2FS.
    pub const F2FS: Self = Self(0xf2f5_2010);
    /// tmpfs: files in memory.
    pub const TMPFS: Self = Self(0x0102_1994);
    /// overlayfs: layers over other file systems.
    pub const OVERLAY: Self = Self(0x794c_7630);
    /// FUSE: file systems in user space.
    pub const FUSE: Self = Self(0x6573_5546);
    const JFS: Self = Self(0x3153_464a);
    const OCFS2: Self = Self(0x7461_636f);
    const BCACHEFS: Self = Self(0xca45_1a4e);
    const ZFS: Self = Self(0x2fc1_2fc1);
    const GFS2: Self = Self(0x0116_1970);
    const CEPH: Self = Self(0x00c3_6400);
    const LUSTRE: Self = Self(0x0bd0_0bd0);

    /// Returns the type of the file system of `fd`.
    ///
    /// # Errors
    /// As fstatfs(2).
    pub fn of(fd: impl AsFd) -> Result<Self> {
        // The type of the field differs from one architecture to another, its low half does not.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(fstatfs(fd)?.f_type as u32))
    }

    /// Whether it never gives a handle to another file, however long clients keep it.
    pub fn keeps_handles(self) -> bool {
        KEEPS_HANDLES.contains(&self)
    }

    /// Whether [`super::handle::KernelHandle::fileid`] is correct for its handles.
    pub fn has_numbers_in_handles(self) -> bool {
        [Self::EXT, Self::XFS, Self::F2FS, Self::BTRFS].contains(&self)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FUSE => f.write_str("FUSE"),
            Self::OVERLAY => f.write_str("overlayfs"),
            Self(number) => write!(f, "file system of type {number:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_not_known_is_not_believed() {
        for number in [0x6573_5546, 0x794c_7630, 0x6969, 0x4d44, 0] {
            assert!(!FileSystem(number).keeps_handles(), "{number:#x}");
        }
        let proc = FileSystem::of(File::open("/proc").unwrap()).unwrap();
        assert!(!proc.keeps_handles());
        assert_eq!(proc.to_string(), "file system of type 0x9fa0");
    }

    #[test]
    fn the_file_systems_of_a_host_are_believed() {
        for known in [FileSystem::EXT, FileSystem::XFS, FileSystem::BTRFS, FileSystem::TMPFS] {
            assert!(known.keeps_handles(), "{known}");
        }
    }
}
