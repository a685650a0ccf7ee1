//! The handles of files that were listed or looked up, by export, inode number and birth time.

use quick_cache::sync::Cache;

use crate::export::ExportId;
use crate::fs::attr::{Attr, Time};
use crate::fs::handle::Handle;
use crate::fs::root::Root;

/// Handles that are remembered. They take 30 MB.
const HANDLES_MAX: usize = 200_000;

pub(super) struct HandleCache(Cache<(ExportId, u64, Time), Handle>);

impl HandleCache {
    pub(super) fn new() -> Self {
        Self(Cache::new(HANDLES_MAX))
    }

    /// Returns the handle of the file that has `attr`, if it is remembered.
    pub(super) fn get(&self, root: &Root, attr: &Attr) -> Option<Handle> {
        // A snapshot in the export has files of the same number and birth time.
        if attr.filesystem != root.filesystem {
            return None;
        }
        self.0.get(&(root.id, attr.fileid, attr.born?))
    }

    /// Remembers a handle. Returns whether it did: not without a birth time.
    pub(super) fn insert(&self, root: &Root, attr: &Attr, handle: Handle) -> bool {
        let Some(born) = attr.born else { return false };
        self.0.insert((root.id, attr.fileid, born), handle);
        true
    }
}
