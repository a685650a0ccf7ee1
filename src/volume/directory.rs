//! The directories of volumes: creates and marks them, and checks that one does not lie inside the
//! directory of another volume or of another server.
//!
//! A directory is made under `making` with owner, mode and mark, and is then moved to its place
//! ([`VolumeLayout::install`]).

use std::os::unix::fs::chown;
use std::path::Path;

use rustix::fs::Mode;

use super::error::{Error, Result};
use super::layout::VolumeLayout;
use super::mark::{self, MARK, OWN};
use super::nested;
use super::registry::VolumeRecord;
use super::spec::Spec;
use crate::export::ExportId;
use crate::sys::durable;

impl VolumeLayout {
    /// Creates the empty directory `path` for a volume.
    pub(super) fn create_directory(&self, record: &VolumeRecord, path: &Path) -> Result<()> {
        self.create_empty(path)?;
        self.step()?;
        self.set_up_directory(record, path)
    }

    /// Gives an empty directory the owner, the mode and the mark of a volume's directory.
    pub(super) fn set_up_directory(&self, record: &VolumeRecord, path: &Path) -> Result<()> {
        let spec = &record.spec;
        self.mark(record, path);
        // The owner first: chown(2) clears set-id bits.
        chown(path, spec.uid, spec.gid).map_err(Error::io("set the owner of", path))?;
        let mode = Mode::from_raw_mode(spec.mode);
        rustix::fs::chmod(path, mode)
            .map_err(|errno| Error::io("set the mode of", path)(errno.into()))?;
        durable::flush_folder(path).map_err(Error::io("flush", path))
    }

    /// Marks a directory with the export of its volume, as evidence for the case that two records
    /// name the same directory ([`super::conflict`]). Nothing else depends on the mark, because a
    /// file system may lack extended attributes.
    pub(super) fn mark(&self, record: &VolumeRecord, path: &Path) {
        mark::set_export(path, record.export);
    }

    /// Whether the record's directory is marked with its export.
    pub(super) fn is_marked(&self, record: &VolumeRecord) -> bool {
        self.marked_export(&record.spec) == Some(record.export)
    }

    /// Returns the export in the mark of a volume's directory, if it has one.
    pub(super) fn marked_export(&self, spec: &Spec) -> Option<ExportId> {
        mark::export_of(&self.volume(spec))
    }

    /// Creates the empty directory for a volume that is recycled. Uses a spare directory if the
    /// disk is full.
    pub(super) fn renew(&self, record: &VolumeRecord) -> Result<()> {
        let path = self.renewing(&record.spec.id);
        match self.create_directory(record, &path) {
            Err(error) if error.is_full() && self.take_directory(&path) => {
                self.set_up_directory(record, &path)
            }
            made => made,
        }
    }

    /// Checks that no directory above a volume's is marked as that of another volume. That volume
    /// may be unknown otherwise, because its record cannot be read.
    ///
    /// # Errors
    /// [`Error::Faulty`]
    pub(super) fn check_not_inside_another(&self, spec: &Spec) -> Result<()> {
        match self.parents(spec).iter().find(|path| mark::export_of(path).is_some()) {
            None => Ok(()),
            Some(path) => Err(Error::Faulty(format!(
                "{path} was made for a volume whose record is missing or damaged; choose another \
                 directory, or if it is a volume's no more: setfattr -x {MARK} {path}",
                path = path.display(),
            ))),
        }
    }

    /// Checks that neither a volume's directory nor one above it is a directory with volumes of
    /// another server.
    ///
    /// # Errors
    /// [`Error::Invalid`]
    pub(super) fn check_holds_no_volumes(&self, spec: &Spec) -> Result<()> {
        let volume = self.volume(spec);
        let way = volume.ancestors().take_while(|path| *path != self.dir());
        let Some(holder) = way.into_iter().find(|path| nested::is_own(&path.join(OWN))) else {
            return Ok(());
        };
        let holder = holder.display();
        Err(Error::Invalid(format!(
            "{holder} holds volumes of its own ({holder}/{OWN}); serve it with --volumes \
             {holder}, or choose another directory"
        )))
    }
}
