//! Labels: words that others keep with a volume, such as whose it is, on the disk with its record.
//!
//! Looking them up waits for no disk: a caller may do it for every object that it sees.

use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::error::{Error, Result};
use super::name::{VolumeId, VolumeName};
use super::spec::Spec;
use super::{VolumeEntry, Volumes};

/// How much later than its record the clock of a file system may be, in seconds.
const CLOCK_SLACK: i64 = 2;

impl Volumes {
    /// What all volumes were asked to be, those that are still being made included. Does not block.
    pub fn specs(&self) -> Vec<Spec> {
        let table = self.table.read();
        table.slots.values().map(VolumeEntry::spec).collect()
    }

    /// The volume that clients mount by exactly this path, unless it is still being made. Does not
    /// block.
    pub fn at_path(&self, path: &str) -> Option<Spec> {
        // The name comes first, whatever follows.
        let name = path.strip_prefix('/')?.split('/').next()?;
        let VolumeEntry::Volume(volume) = self.slot(&VolumeName::new(name).ok()?).ok()? else {
            return None;
        };
        Some(volume.record().spec).filter(|spec| spec.export_path() == path)
    }

    /// When a volume was made, unless it is not there, or still being made. Does not block.
    pub fn created(&self, name: &VolumeName) -> Option<Timestamp> {
        self.volume(name).ok().map(|volume| volume.record().created)
    }

    /// Whether a volume is there and cannot be served, because its directory is not there or cannot
    /// be opened. Does not block.
    pub fn is_lost(&self, name: &VolumeName) -> bool {
        self.volume(name).is_ok_and(|volume| volume.lost().is_some())
    }

    /// Sets labels (`None` takes one away), and returns when that is on the disk. May be repeated;
    /// what changes nothing writes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no volume of this name with this id; the registry cannot be
    /// written, and then nothing has changed.
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
            // Labels say who may give the volume back, which must need no room.
            self.layout.write_giving_back(&record)?;
            *volume.record.lock() = record.clone();
        }
        Ok(record.spec)
    }

    /// Whether a volume's directory is as it was made: nothing is in it, and nothing ever was.
    /// Blocks; in doubt, something was.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the directory cannot be read.
    pub fn is_untouched(&self, name: &VolumeName) -> Result<bool> {
        let record = self.volume(name)?.record();
        let dir = self.layout.volume(&record.spec);
        let meta = std::fs::symlink_metadata(&dir).map_err(Error::io("look at", &dir))?;
        // Names that come and go leave the time of the last change.
        let changed = meta.mtime() > record.created.as_second().saturating_add(CLOCK_SLACK);
        Ok(!changed && self.is_empty(name)?)
    }
}
