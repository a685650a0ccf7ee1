//! Flushing changes to stable storage, what each file system guarantees about it, and how large and
//! full a file system is.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{StatVfs, fdatasync, fstatvfs, fsync, major, minor, statvfs, syncfs};

use super::fault;
use super::filesystem::FileSystem;
use crate::errno::Result;

/// The guarantees of flushes on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// A flush of a directory includes its new files: a transaction of the journal holds both. Also
    /// [`Discipline::Whole`].
    Journal,
    /// syncfs(2) flushes everything.
    Whole,
    /// Each file must be flushed itself: a file system in user space or on the network may not even
    /// be told of syncfs(2).
    Each,
}

/// Returns the discipline of the file system of `fd`. An unknown one gets the one that guarantees
/// least.
pub fn discipline(fd: impl AsFd) -> Discipline {
    match FileSystem::of(&fd) {
        Ok(FileSystem::XFS | FileSystem::BTRFS) => Discipline::Journal,
        Ok(FileSystem::EXT) if has_journal(&fd) => Discipline::Journal,
        // overlayfs passes syncfs(2) on to the upper file system.
        Ok(FileSystem::EXT | FileSystem::TMPFS | FileSystem::OVERLAY) => Discipline::Whole,
        _ => Discipline::Each,
    }
}

/// Whether an ext3 or ext4 has a journal. Without one, a directory may be on the disk with names of
/// files that are not.
fn has_journal(fd: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    let device = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let Ok(device) = fs::canonicalize(device) else { return false };
    let Some(name) = device.file_name() else { return false };
    let task = Path::new("/sys/fs/ext4").join(name).join("journal_task");
    fs::read_to_string(task).is_ok_and(|task| task.trim().parse::<u32>().is_ok())
}

/// Flushes a file's content, and what is needed to read it again. Blocks.
///
/// # Errors
/// The content may not be on the disk, and the kernel may have dropped what it could not write.
pub fn flush_data(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(fdatasync(fd)?)
}

/// Flushes a file or directory with all its attributes. Blocks.
///
/// # Errors
/// As [`flush_data`].
pub fn flush(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(fsync(fd)?)
}

/// Flushes the file system. Blocks.
///
/// # Errors
/// As [`flush_data`]; before Linux 5.17 not every failure is reported.
pub fn flush_whole(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(syncfs(fd)?)
}

/// The size of a file system, and what is left of it, as statvfs(3) reports them.
///
/// What is available is free and not reserved for root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatistics {
    /// Size in bytes.
    pub total_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Free bytes that every user may use.
    pub available_bytes: u64,
    /// Number of inodes.
    pub total_inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// Free inodes that every user may use.
    pub available_inodes: u64,
    /// Longest name of a file, in bytes.
    pub name_max_bytes: u64,
}

impl DiskStatistics {
    /// Reads the statistics of the file system of an open file. May block.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn of(fd: impl AsFd) -> Result<Self> {
        Ok(Self::from(fstatvfs(fd)?))
    }

    /// Reads the statistics of the file system of `path`. May block.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn at(path: &Path) -> Result<Self> {
        Ok(Self::from(statvfs(path)?))
    }

    /// The size without what is reserved for root, in bytes, as df(1) computes the percentage of
    /// use: the file system is full when its users are out of space.
    pub const fn usable_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes).saturating_add(self.available_bytes)
    }
}

impl From<StatVfs> for DiskStatistics {
    fn from(stat: StatVfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Self {
            total_bytes: bytes(stat.f_blocks),
            free_bytes: bytes(stat.f_bfree),
            available_bytes: bytes(stat.f_bavail),
            total_inodes: stat.f_files,
            free_inodes: stat.f_ffree,
            available_inodes: stat.f_favail,
            name_max_bytes: stat.f_namemax,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn proc_guarantees_least() {
        assert_eq!(discipline(File::open("/proc").unwrap()), Discipline::Each);
    }

    #[test]
    fn statistics_of_a_path_and_of_an_open_file_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (at, of) =
            (DiskStatistics::at(dir.path()), DiskStatistics::of(File::open(dir.path()).unwrap()));
        let (at, of) = (at.unwrap(), of.unwrap());
        assert_eq!((at.total_bytes, at.total_inodes), (of.total_bytes, of.total_inodes));
        assert!(at.available_bytes <= at.free_bytes && at.free_bytes <= at.total_bytes, "{at:?}");
        assert!(at.name_max_bytes >= 255, "{at:?}");
        assert!(DiskStatistics::at(Path::new("/no/such/directory")).is_err());
    }

    #[test]
    fn space_that_is_reserved_for_root_is_not_usable() {
        let statistics = DiskStatistics {
            total_bytes: 100,
            free_bytes: 40,
            available_bytes: 35,
            total_inodes: 0,
            free_inodes: 0,
            available_inodes: 0,
            name_max_bytes: 255,
        };
        assert_eq!(statistics.usable_bytes(), 95);
    }

    #[test]
    fn each_flush_works() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("file")).unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert_eq!((flush_data(&file), flush(&file)), (Ok(()), Ok(())));
        assert_eq!((flush(&folder), flush_whole(&folder)), (Ok(()), Ok(())));
    }
}
