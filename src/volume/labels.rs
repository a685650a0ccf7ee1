//! Labels: pairs of key and value that callers keep with a volume, such as its claim. They are
//! stored in the record.
//!
//! Lookups do not wait for the disk, so a caller may do one for each object that it sees.

use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::error::{Error, Result};
use super::name::{VolumeId, VolumeName};
use super::spec::Spec;
use super::{VolumeEntry, Volumes};

/// How far the clock of a file system may be ahead of the server's, in seconds.
const CLOCK_SLACK: i64 = 2;

impl Volumes {
    /// Returns the specifications of all volumes, including those that are being cloned. Does not
    /// block.
    pub fn specs(&self) -> Vec<Spec> {
        let table = self.table.read();
        table.entries.values().map(VolumeEntry::spec).collect()
    }

    /// Returns the volume that clients mount by exactly this path, unless it is still being cloned.
    /// Does not block.
    pub fn at_path(&self, path: &str) -> Option<Spec> {
        // The path begins with the name, with or without a token.
        let name = path.strip_prefix('/')?.split('/').next()?;
        let VolumeEntry::Volume(volume) = self.entry(&VolumeName::new(name).ok()?).ok()? else {
            return None;
        };
        Some(volume.record().spec).filter(|spec| spec.export_path() == path)
    }

    /// Returns when a volume was created, unless it does not exist or is still being cloned. Does
    /// not block.
    pub fn created(&self, name: &VolumeName) -> Option<Timestamp> {
        self.volume(name).ok().map(|volume| volume.record().created)
    }

    /// Whether a volume exists but cannot be served, because its directory is missing or cannot be
    /// opened. Does not block.
    pub fn is_lost(&self, name: &VolumeName) -> bool {
        self.volume(name).is_ok_and(|volume| volume.lost().is_some())
    }

    /// Sets labels, or removes those whose value is `None`. Returns when the change is on the disk.
    /// May be repeated; writes nothing if nothing changes.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no volume of this name with this id. The registry cannot be
    /// written; then nothing has changed.
    pub fn set_labels(
        &self,
        name: &VolumeName,
        id: &VolumeId,
        changes: &[(&str, Option<&str>)],
    ) -> Result<Spec> {
        let _change = self.lock();
        let volume = self.volume(name)?;
        let mut record = volume.record();
        if record.spec.id != *id {
            return Err(Error::NotFound(format!("{name} with the id {id}")));
        }
        for (key, value) in changes {
            match value {
                Some(value) => record.spec.labels.insert((*key).into(), (*value).into()),
                None => record.spec.labels.remove(*key),
            };
        }
        if record != volume.record() {
            // Labels decide who may reclaim the volume, and to reclaim must need no free space.
            self.layout.write_giving_back(&record)?;
            *volume.record.lock() = record.clone();
        }
        Ok(record.spec)
    }

    /// Whether a volume's directory is as it was created: empty, and never changed. Returns `false`
    /// in doubt. Blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the directory cannot be read.
    pub fn is_untouched(&self, name: &VolumeName) -> Result<bool> {
        let record = self.volume(name)?.record();
        let dir = self.layout.volume(&record.spec);
        let meta = std::fs::symlink_metadata(&dir).map_err(Error::io("examine", &dir))?;
        // To create and remove a name changes the modification time.
        let changed = meta.mtime() > record.created.as_second().saturating_add(CLOCK_SLACK);
        Ok(!changed && self.is_empty(name)?)
    }
}
