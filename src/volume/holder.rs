//! Who has a volume besides its clients, and would be left without it: whoever ends a volume by
//! hand is told so first.
//!
//! The volumes themselves do not know: those who give them out are asked
//! ([`Volumes::set_holders`]).

use super::error::{Error, Result};
use super::name::VolumeName;
use super::registry::ReclaimStep;
use super::spec::{OnDelete, Spec};
use super::{VolumeEntry, Volumes};

/// Tells who has a volume, in words for people; nobody, if it may be ended at any time. Does not
/// block.
pub type HolderLookup = Box<dyn Fn(&Spec) -> Option<String> + Send + Sync>;

impl Volumes {
    /// Tells where to learn who has which volume, in place of what was told before.
    pub fn set_holders(&self, holders: HolderLookup) {
        *self.holders.write() = Some(holders);
    }

    /// Whether a volume may be ended without anybody being left without it. One whose end has begun
    /// may, and so may one to which nothing is going to happen.
    ///
    /// # Errors
    /// [`Error::Held`]; [`Error::NotFound`].
    pub fn check_not_held(&self, name: &VolumeName, how: Option<OnDelete>) -> Result<()> {
        let VolumeEntry::Volume(volume) = self.slot(name)? else { return Ok(()) };
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
