//! The progress of an operation on a tree of files, and its cancellation.
//!
//! One thread does the work and adds to the counters; any other thread may read them or cancel. The
//! counters are independent of each other: a snapshot may include the entry of a file whose bytes
//! are not included yet.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

/// Bytes in a block, as stat(2) counts them.
const BLOCK: u64 = 512;

/// The progress of one operation.
#[derive(Debug, Default)]
pub struct TreeProgress {
    entries_done: AtomicU64,
    entries_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    cancelled: AtomicBool,
}

/// The progress at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressSnapshot {
    /// Entries that are done: files, directories and others, without the root of the tree.
    pub entries_done: u64,
    /// Entries that were counted in advance; 0 if they were not. Others may be added meanwhile.
    pub entries_total: u64,
    /// Bytes of content that are done. Holes of sparse files do not count.
    pub bytes_done: u64,
    /// Bytes that were counted in advance; 0 if they were not. Others may be added meanwhile.
    pub bytes_total: u64,
    /// Whether the operation was cancelled.
    pub cancelled: bool,
}

impl TreeProgress {
    /// Creates the progress of an operation that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the tree `dir`, and sets the totals. Reads all directories, and blocks until that is
    /// done or the operation is cancelled. May be repeated.
    ///
    /// The result is an estimate: whatever cannot be read is left out, and so are names deeper than
    /// PATH_MAX permits. A file with several names counts once for each.
    pub fn estimate(&self, dir: &Path) {
        let (mut entries, mut bytes) = (0, 0_u64);
        let walk = WalkDir::new(dir).min_depth(1).same_file_system(true);
        for entry in walk.into_iter().flatten().take_while(|_| !self.is_cancelled()) {
            entries += 1;
            if let Some(file) = entry.metadata().ok().filter(std::fs::Metadata::is_file) {
                bytes += file.len().min(file.blocks() * BLOCK);
            }
        }
        self.entries_total.store(entries, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Adds to what is done. Does not block.
    pub fn add(&self, entries: u64, bytes: u64) {
        self.entries_done.fetch_add(entries, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Cancels the operation, which ends at its next entry or chunk of a file. Does not block; may
    /// be repeated; cannot be undone.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the operation was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Returns the numbers at this moment.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        ProgressSnapshot {
            entries_done: read(&self.entries_done),
            entries_total: read(&self.entries_total),
            bytes_done: read(&self.bytes_done),
            bytes_total: read(&self.bytes_total),
            cancelled: self.is_cancelled(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use tempfile::tempdir;

    fn sample() -> tempfile::TempDir {
        let dir = tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("one"), [1; 4096]).unwrap();
        fs::write(dir.path().join("below/two"), [2; 8192]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("below/up")).unwrap();
        dir
    }

    #[test]
    fn an_estimate_counts_names_and_content() {
        let (dir, progress) = (sample(), TreeProgress::new());
        progress.estimate(dir.path());
        let snapshot = progress.snapshot();
        assert_eq!((snapshot.entries_total, snapshot.entries_done), (4, 0));
        // fs_extra also counts the length of the symbolic link's target.
        assert_eq!(snapshot.bytes_total + 1, fs_extra::dir::get_size(dir.path()).unwrap());
    }

    #[test]
    fn an_estimate_leaves_out_what_is_empty() {
        let (dir, progress) = (sample(), TreeProgress::new());
        File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        progress.estimate(dir.path());
        assert_eq!(progress.snapshot().bytes_total, 4096 + 8192);
    }

    #[test]
    fn cancelling_ends_an_estimate() {
        let (dir, progress) = (sample(), TreeProgress::new());
        progress.cancel();
        progress.estimate(dir.path());
        assert_eq!(progress.snapshot().entries_total, 0);
    }

    #[test]
    fn a_snapshot_has_what_was_added_and_is_json() {
        let progress = TreeProgress::new();
        progress.add(2, 10);
        progress.add(1, 5);
        let json = serde_json::to_value(progress.snapshot()).unwrap();
        assert_eq!((&json["entriesDone"], &json["bytesDone"]), (&3.into(), &15.into()));
        assert_eq!(json["cancelled"], false);
    }
}
