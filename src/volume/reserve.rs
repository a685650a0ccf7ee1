//! The reserve of files and directories that lets volumes be reclaimed when the disk has neither
//! blocks nor inodes left.
//!
//! ```text
//!   .berth/spare/file.N    blocks for a record, which is written in place and then renamed
//!   .berth/spare/dir.N     an empty directory for a recycled volume
//! ```
//!
//! To delete or archive takes one record, to recycle takes two records and a directory. If the new
//! record cannot be written beside the old one, it is written into a spare file, which then swaps
//! names with the old one (RENAME_EXCHANGE). Nothing is allocated at any point, so clients that
//! fill the disk cannot interfere; the old record's file becomes the spare. The rename that follows
//! adds one name to a nearly empty folder.
//!
//! If there is no reserve, because an earlier version has filled the disk, a record of one block is
//! written over the old one. This is the least safe way: a crash during the write may leave a
//! record that cannot be read, which is then left alone.
//!
//! Creating volumes does not use the reserve. It is replenished when there is free space again.
//! File systems that never write in place (btrfs, ZFS) depend on their own reserve instead.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::Error;
use super::layout::{VolumeLayout, folder};
use super::mark::exists;
use crate::sys::durable;

/// Spare files. One is enough if the file system can swap names.
const FILES: usize = 4;

/// The size of a spare file in bytes. A larger record needs free space.
const FILE_SIZE: u64 = 16 * 1024;

/// The unit that file systems write at once, in bytes.
const BLOCK: usize = 4096;

/// Spare directories: the volumes that can be recycled before content has been removed from the
/// trash.
const DIRECTORIES: usize = 8;

impl VolumeLayout {
    /// Replenishes the reserve as far as there is free space.
    pub(super) fn stock(&self) {
        let _spare = self.spare.lock();
        let stock = || -> io::Result<()> {
            (0..FILES).try_for_each(|n| fill(&self.spare_file(n)))?;
            (0..DIRECTORIES)
                .map(|n| self.spare_directory(n))
                .filter(|path| !exists(path))
                .try_for_each(|path| DirBuilder::new().mode(0o700).create(path))
        };
        let made = folder(&self.spares(), 0o700);
        if let Err(error) = made.and_then(|()| stock().map_err(Error::io("fill", self.spares()))) {
            tracing::debug!(%error, "cannot keep a reserve now");
        }
    }

    /// Replaces the content of an existing file without taking space.
    ///
    /// # Errors
    /// No spare file has enough blocks; the file system fails. The old content remains.
    pub(super) fn replace_in_place(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let _spare = self.spare.lock();
        let mut failure = io::Error::from(io::ErrorKind::StorageFull);
        for spare in (0..FILES).map(|n| self.spare_file(n)) {
            match write_in_place(&spare, content).and_then(|()| change_places(&spare, path)) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Moves a spare directory to `path`. Returns whether there was one.
    pub(super) fn take_directory(&self, path: &Path) -> bool {
        let _spare = self.spare.lock();
        (0..DIRECTORIES).any(|n| fs::rename(self.spare_directory(n), path).is_ok())
    }

    fn spare_file(&self, n: usize) -> PathBuf {
        self.spares().join(format!("file.{n}"))
    }

    fn spare_directory(&self, n: usize) -> PathBuf {
        self.spares().join(format!("dir.{n}"))
    }
}

impl Error {
    /// Whether the disk is full, or the quota on it is used up.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// Whether an operation failed for lack of space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Creates a spare file, or adds the blocks that one lacks.
fn fill(path: &Path) -> io::Result<()> {
    let file = if exists(path) { durable::open_to_write(path)? } else { durable::create(path)? };
    let size = file.metadata()?.len();
    if size >= FILE_SIZE {
        return Ok(());
    }
    // Written, not only allocated: a write to an unwritten extent may need another block.
    let missing = usize::try_from(FILE_SIZE - size).unwrap_or_default();
    file.write_all_at(&vec![0; missing], size)?;
    file.sync_all()
}

/// Replaces the content of a spare file, within the blocks that it has.
fn write_in_place(spare: &Path, content: &[u8]) -> io::Result<()> {
    let file: File = durable::open_to_write(spare)?;
    if file.metadata()?.blocks() * 512 < content.len() as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Replaces the content of the file `path`, which is JSON, within its block and its length. A
/// record of more than one block could become half old and half new.
pub(super) fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let file: File = durable::open_to_write(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len > BLOCK || content.len() > len {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut padded = content.to_vec();
    padded.resize(len, b' ');
    file.write_all_at(&padded, 0)?;
    file.sync_all()
}

/// Swaps the names of the spare file and of the file `path`.
fn change_places(spare: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, spare, CWD, path, RenameFlags::EXCHANGE) {
        // The file system cannot swap names: the spare file replaces the other, whose blocks and
        // inode are freed.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(spare, path)?,
        exchanged => exchanged?,
    }
    for folder in [path, spare].into_iter().filter_map(Path::parent) {
        durable::flush_folder(folder)?;
    }
    Ok(())
}
