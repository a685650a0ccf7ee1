//! Getting what was changed onto the disk, and what each file system promises about that.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{fdatasync, fsync, major, minor, syncfs};

use super::fault;
use super::filesystem::FileSystem;
use crate::errno::Result;

/// What flushing means to a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// A directory that was flushed has its new files on the disk with their names: both were made
    /// by one transaction of a journal. Otherwise as [`Discipline::Whole`].
    Journal,
    /// syncfs(2) has everything on the disk.
    Whole,
    /// It is known only of what was flushed itself: a file system in user space or on the network
    /// need not even be told of syncfs(2).
    Each,
}

/// The discipline of the file system that `fd` is on. One that is not known is taken for the one
/// that promises least.
pub fn discipline(fd: impl AsFd) -> Discipline {
    match FileSystem::of(&fd) {
        Ok(FileSystem::XFS | FileSystem::BTRFS) => Discipline::Journal,
        Ok(FileSystem::EXT) if has_journal(&fd) => Discipline::Journal,
        // overlayfs hands syncfs(2) on to what it lies over.
        Ok(FileSystem::EXT | FileSystem::TMPFS | FileSystem::OVERLAY) => Discipline::Whole,
        _ => Discipline::Each,
    }
}

/// Whether an ext3 or ext4 says that it has a journal. It can be made without one, and then a
/// directory may be on the disk with names of files that are not.
fn has_journal(fd: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    let device = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let Ok(device) = fs::canonicalize(device) else { return false };
    let Some(name) = device.file_name() else { return false };
    let task = std::path::Path::new("/sys/fs/ext4").join(name).join("journal_task");
    fs::read_to_string(task).is_ok_and(|task| task.trim().parse::<u32>().is_ok())
}

/// Has a file's content on the disk, and what is needed to read it again. Blocks.
///
/// # Errors
/// It may not be, and what the kernel could not write it may have given up.
pub fn flush_data(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(fdatasync(fd)?)
}

/// Has a file or directory on the disk with all that belongs to it. Blocks.
///
/// # Errors
/// As [`flush_data`].
pub fn flush(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(fsync(fd)?)
}

/// Has the file system on the disk. Blocks.
///
/// # Errors
/// As [`flush_data`]; before Linux 5.17 not all that goes wrong is told.
pub fn flush_whole(fd: impl AsFd) -> Result<()> {
    fault::flush()?;
    Ok(syncfs(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_no_disk_promises_least() {
        assert_eq!(discipline(File::open("/proc").unwrap()), Discipline::Each);
    }

    #[test]
    fn what_was_written_can_be_flushed_in_each_way() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("file")).unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert_eq!((flush_data(&file), flush(&file)), (Ok(()), Ok(())));
        assert_eq!((flush(&folder), flush_whole(&folder)), (Ok(()), Ok(())));
    }
}
