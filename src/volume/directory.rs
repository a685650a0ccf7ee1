//! The directories of volumes: how one is created, and whether it is in nobody else's.
//!
//! HEADER

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
    /// Makes the empty directory `path` that is going to be a volume's.
    pub(super) fn create_directory(&self, record: &VolumeRecord, path: &Path) -> Result<()> {
        self.create_empty(path)?;
        self.step()?;
        self.set_up_directory(record, path)
    }

    /// Gives an empty directory what a volume's has.
    pub(super) fn set_up_directory(&self, record: &VolumeRecord, path: &Path) -> Result<()> {
        let spec = &record.spec;
        self.mark(record, path);
        // First the owner: changing it takes set-id bits away.
        chown(path, spec.uid, spec.gid).map_err(Error::io("give an owner to", path))?;
        let mode = Mode::from_raw_mode(spec.mode);
        rustix::fs::chmod(path, mode)
            .map_err(|errno| Error::io("set the mode of", path)(errno.into()))?;
        durable::flush_folder(path).map_err(Error::io("flush", path))
    }

    /// Notes in a directory whose it is: evidence for the case that two records name it, which no
    /// client can change, because NFSv3 has no extended attributes. Nothing else depends on it, so
    /// that a file system may lack them.
    pub(super) fn mark(&self, record: &VolumeRecord, path: &Path) {
        mark::set_export(path, record.export);
    }

    /// Whether a record's directory is known to be its own.
    pub(super) fn is_marked(&self, record: &VolumeRecord) -> bool {
        self.marked_export(&record.spec) == Some(record.export)
    }

    /// The export that a volume's directory was made for, if it says so.
    pub(super) fn marked_export(&self, spec: &Spec) -> Option<ExportId> {
        mark::export_of(&self.volume(spec))
    }

    /// Makes the empty directory that is going to be a recycled volume's. Takes no room if there is
    /// none.
    pub(super) fn renew(&self, record: &VolumeRecord) -> Result<()> {
        let path = self.renewing(&record.spec.id);
        match self.create_directory(record, &path) {
            Err(error) if error.is_full() && self.take_directory(&path) => {
                self.set_up_directory(record, &path)
            }
            made => made,
        }
    }

    /// Whether no directory on the way to a volume's was made for another one. That may be one of
    /// which nothing else is known, because its record cannot be read.
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

    /// Checks that no directory on the way to a volume's, nor that itself, holds volumes of its
    /// own.
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
