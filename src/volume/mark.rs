//! The marks of the directories that belong to Berth: an extended attribute.
//!
//! NFSv3 has no extended attributes, so no client of an export can set, change or remove a mark. A
//! file system may lack them too; then nothing is marked, and nothing may depend on it alone.

use std::path::Path;

use rustix::fs::XattrFlags;

use crate::export::ExportId;

/// The folder with everything that is Berth's own, inside a directory with volumes.
pub(super) const OWN: &str = ".berth";

/// The extended attribute. A short one, which fits into the inode.
pub(super) const MARK: &str = "user.berth";

/// Marks a directory. Ignores errors, such as those of a file system without extended attributes.
pub(super) fn set(path: &Path, value: &[u8]) {
    let _ = rustix::fs::lsetxattr(path, MARK, value, XattrFlags::empty());
}

/// Marks a directory as that of the volume with this export.
pub(super) fn set_export(path: &Path, export: ExportId) {
    set(path, format!("{:016x}", export.0).as_bytes());
}

/// Returns the export that the mark of a volume's directory names, if there is one.
pub(super) fn export_of(path: &Path) -> Option<ExportId> {
    let mut mark = [0; 16];
    let len = rustix::fs::lgetxattr(path, MARK, &mut mark).ok()?;
    let mark = std::str::from_utf8(mark.get(..len)?).ok()?;
    u64::from_str_radix(mark, 16).ok().map(ExportId)
}

/// Whether there is anything at `path`, of whatever kind.
pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
