//! The holders of volumes: objects, such as PersistentVolumes, that depend on a volume and would
//! break without it. Commands that reclaim a volume check this first.
//!
//! The volumes do not know their holders: the part that hands volumes out provides a lookup
//! ([`Volumes::set_holders`]).

use super::error::{Error, Result};
use super::name::VolumeName;
use super::registry::ReclaimStep;
use super::spec::{OnDelete, Spec};
use super::{VolumeEntry, Volumes};

/// Returns the holder of a volume as text for people, or `None` if the volume may be reclaimed at
/// any time. Does not block.
pub type HolderLookup = Box<dyn Fn(&Spec) -> Option<String> + Send + Sync>;

impl Volumes {
    /// Sets the function that returns the holder of a volume, and replaces an earlier one.
    pub fn set_holders(&self, holders: HolderLookup) {
        *self.holders.write() = Some(holders);
    }

    /// Checks that a volume has no holder, so it may be reclaimed. Also succeeds if the volume
    /// would be retained, or if its reclaim has begun already.
    ///
    /// # Errors
    /// [`Error::Held`]; [`Error::NotFound`].
    pub fn check_not_held(&self, name: &VolumeName, how: Option<OnDelete>) -> Result<()> {
        let VolumeEntry::Volume(volume) = self.entry(name)? else { return Ok(()) };
        let record = volume.record();
        let kept = how.unwrap_or(record.spec.on_delete) == OnDelete::Retain;
        if kept || record.step != ReclaimStep::Ready {
            return Ok(());
        }
        let holders = self.holders.read();
        match holders.as_ref().and_then(|holders| holders(&record.spec)) {
            Some(holder) => Err(Error::Held { name: name.clone(), holder }),
            None => Ok(()),
        }
    }
}
