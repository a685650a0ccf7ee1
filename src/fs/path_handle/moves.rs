//! What helps a search: the moves of files, and directory entries that were seen lately.

use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quick_cache::sync::Cache;

use super::move_log::{DirEntry, FileKey, MoveLog};
use super::trail::{Trail, generation};
use crate::errno::Result;
use crate::fs::attr::Attr;
use crate::fs::root::Root;

/// Directory entries that are remembered.
const RECENT_MAX: usize = 200_000;

/// The moves, and recent directory entries.
pub(in crate::fs) struct Moves {
    log: Mutex<MoveLog>,
    recent: Cache<FileKey, Arc<DirEntry>>,
}

impl Moves {
    /// Reads the log in the folder `state`.
    pub(in crate::fs) fn open(state: &Path) -> Result<Self> {
        let log = MoveLog::open(state)?;
        Ok(Self { log: Mutex::new(log), recent: Cache::new(RECENT_MAX) })
    }

    pub(super) fn log(&self) -> MutexGuard<'_, MoveLog> {
        self.log.lock()
    }

    /// Returns the trail of a file of `root` in the directory with the trail `dir`: its first one,
    /// if it was moved there.
    pub(super) fn trail_in(&self, root: &Root, dir: &Trail, attr: &Attr) -> Trail {
        if attr.fileid == root.fileid {
            return Trail::root(attr);
        }
        let id = (root.id.0, attr.fileid, generation(attr));
        let moved = self.log().trail(&id);
        moved.unwrap_or_else(|| dir.below(root, attr))
    }

    /// Remembers the name under which a file was seen.
    pub(super) fn remember_entry(&self, root: &Root, dir: &Trail, trail: &Trail, name: &[u8]) {
        let entry = DirEntry { dir: dir.to_bytes(), name: name.to_vec() };
        self.recent.insert((root.id.0, trail.fileid, trail.generation), Arc::new(entry));
    }

    pub(super) fn forget_entry(&self, id: &FileKey) {
        self.recent.remove(id);
    }

    /// Returns the entries under which a file may be found: the recent one, and those of its moves.
    pub(super) fn entries(&self, id: &FileKey) -> impl Iterator<Item = DirEntry> + use<> {
        let recent = self.recent.get(id).map(|entry| vec![(*entry).clone()]);
        let moved = self.log().entries(id);
        recent.into_iter().chain(moved).flatten()
    }
}
