//! What all volumes may hold together, compared with the disk that they share.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::spec::{QuotaMode, Spec};
use super::{VolumeEntry, Volumes};

/// The capacities of all volumes, and what they may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedCapacity {
    /// The sum of the capacities, in bytes; volumes that show the disk's size have none.
    pub promised: u64,
    /// The size of the disk, in bytes, if it could be asked.
    pub disk: Option<u64>,
    /// What the sum may be, in percent of the disk; without it, anything.
    pub overcommit: Option<u32>,
}

impl CommittedCapacity {
    /// What the sum may be, in bytes, if that is limited and known.
    pub fn allowed(&self) -> Option<u64> {
        let (disk, percent) = (u128::from(self.disk?), u128::from(self.overcommit?));
        Some(u64::try_from(disk * percent / 100).unwrap_or(u64::MAX))
    }

    /// The sum in percent of the disk, if that is known.
    pub fn percent(&self) -> Option<u64> {
        let share = (u128::from(self.promised) * 100).checked_div(self.disk?.into())?;
        Some(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl Volumes {
    /// What all volumes may hold together. Asks the disk.
    pub fn committed_capacity(&self) -> CommittedCapacity {
        let disk = self.disk().ok().map(|disk| disk.size);
        CommittedCapacity { promised: self.promised(None), disk, overcommit: self.overcommit }
    }

    /// Whether a volume that has had the capacity `before` may have what `spec` says: a promise
    /// that does not grow is always kept.
    pub(super) fn check_overcommit(&self, spec: &Spec, before: u64) -> Result<()> {
        let wanted = capacity(spec);
        if self.overcommit.is_none() || wanted <= before {
            return Ok(());
        }
        let promised = self.promised(Some(spec)).saturating_add(wanted);
        let promise = CommittedCapacity { promised, ..self.committed_capacity() };
        match (promise.allowed(), promise.overcommit) {
            (Some(allowed), Some(percent)) if promised > allowed => {
                Err(Error::Overcommitted { wanted, promised, allowed, percent })
            }
            _ => Ok(()),
        }
    }

    fn promised(&self, but_for: Option<&Spec>) -> u64 {
        let table = self.table.read();
        let counts = |slot: &&VolumeEntry| !matches!(slot, VolumeEntry::Clone(job) if job.failed().is_some());
        let specs = table.slots.values().filter(counts).map(VolumeEntry::spec);
        let others = specs.filter(|spec| but_for.is_none_or(|not| not.name != spec.name));
        others.fold(0, |sum, spec| sum.saturating_add(capacity(&spec)))
    }
}

/// What a volume is promised.
fn capacity(spec: &Spec) -> u64 {
    if spec.quota == QuotaMode::Off { 0 } else { spec.capacity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_disk() {
        let promise = CommittedCapacity { promised: 300, disk: Some(200), overcommit: Some(150) };
        assert_eq!((promise.allowed(), promise.percent()), (Some(300), Some(150)));
        assert_eq!(CommittedCapacity { overcommit: None, ..promise }.allowed(), None);
        assert_eq!(CommittedCapacity { disk: None, ..promise }.percent(), None);
        assert_eq!(CommittedCapacity { disk: Some(0), ..promise }.percent(), None);
        let most = CommittedCapacity {
            promised: u64::MAX,
            disk: Some(u64::MAX),
            overcommit: Some(u32::MAX),
        };
        assert_eq!((most.allowed(), most.percent()), (Some(u64::MAX), Some(100)));
    }
}
