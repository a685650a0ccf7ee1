//! Flushing changes to stable storage, and what each file system guarantees about it.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{fdatasync, fsync, major, minor, syncfs};

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
    let task = std::path::Path::new("/sys/fs/ext4").join(name).join("journal_task");
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn proc_guarantees_least() {
        assert_eq!(discipline(File::open("/proc").unwrap()), Discipline::Each);
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
