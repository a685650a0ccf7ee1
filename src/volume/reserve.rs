//! What is kept so that volumes can be given back when the disk has no block and no inode left.
//!
//! ```text
//!   .berth/spare/file.N    blocks for a record, which is written in place and takes its name
//!   .berth/spare/dir.N     an empty directory for a volume that is recycled
//! ```
//!
//! Deleting and archiving take one record, recycling takes two and a directory. A record that
//! cannot be written beside the old one is written into a spare file, which then changes places
//! with it (RENAME_EXCHANGE): nothing is allocated at any point, so that no client that fills the
//! disk can come in between, and the old record is the spare file from then on. The renaming that
//! follows adds one name to a folder that is nearly empty.
//!
//! Where there is no reserve, because an earlier version has filled the disk, a record of one block
//! is written over the old one, which is the least safe of these: a crash that tears it leaves a
//! record that cannot be read, and is left alone.
//!
//! Creating volumes uses none of this. What was used is replaced when there is room again. Where
//! the file system never writes in place (btrfs, ZFS), its own reserve has to do.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::Error;
use super::layout::{VolumeLayout, folder};
use super::mark::exists;
use crate::sys::durable;

/// Spare files. One is enough where two files can change places.
const FILES: usize = 4;

/// What each of them has, in bytes; a record with more in it needs room.
const FILE_SIZE: u64 = 16 * 1024;

/// What file systems write as a whole, in bytes.
const BLOCK: usize = 4096;

/// Spare directories: volumes that can be recycled before something of them has been removed.
const DIRECTORIES: usize = 8;

impl VolumeLayout {
    /// Makes what is missing of the reserve, as far as there is room.
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

    /// Replaces the file `path`, which is there, without taking room.
    ///
    /// # Errors
    /// No spare file has enough blocks; the file system fails. The old content is still there.
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
    /// Whether the disk has no room, or the quota on it is used up.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// Whether something failed because there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a spare file, or gives one the blocks that it lacks.
fn fill(path: &Path) -> io::Result<()> {
    let file = if exists(path) { durable::open_to_write(path)? } else { durable::create(path)? };
    let size = file.metadata()?.len();
    if size >= FILE_SIZE {
        return Ok(());
    }
    // Written, and not only reserved: that an unwritten block is written may take another one.
    let missing = usize::try_from(FILE_SIZE - size).unwrap_or_default();
    file.write_all_at(&vec![0; missing], size)?;
    file.sync_all()
}

/// Makes `content` that of a spare file, in blocks that it has.
fn write_in_place(spare: &Path, content: &[u8]) -> io::Result<()> {
    let file: File = durable::open_to_write(spare)?;
    if file.metadata()?.blocks() * 512 < content.len() as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Makes `content`, which is JSON, that of the file `path`, in the block and with the length that
/// it has. A record of more than one block could be left half old and half new.
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

/// Gives `path` to the spare file, and its file the spare one's name.
fn change_places(spare: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, spare, CWD, path, RenameFlags::EXCHANGE) {
        // The file system cannot do that: the old file goes, with its blocks and its inode.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(spare, path)?,
        exchanged => exchanged?,
    }
    for folder in [path, spare].into_iter().filter_map(Path::parent) {
        durable::flush_folder(folder)?;
    }
    Ok(())
}
