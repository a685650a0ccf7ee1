//! The sum of all capacities, compared with the disk that the volumes share.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::spec::{QuotaMode, Spec};
use super::{VolumeEntry, Volumes};

/// The sum of all capacities, and its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedCapacity {
    /// The sum of the capacities in bytes. Volumes that show the disk's size do not count.
    pub promised: u64,
    /// The size of the disk in bytes, if it is known.
    pub disk: Option<u64>,
    /// The limit of the sum, as a percentage of the disk; `None`: no limit.
    pub overcommit: Option<u32>,
}

impl CommittedCapacity {
    /// Returns the limit of the sum in bytes, if there is one and the size of the disk is known.
    pub fn allowed(&self) -> Option<u64> {
        let (disk, percent) = (u128::from(self.disk?), u128::from(self.overcommit?));
        Some(u64::try_from(disk * percent / 100).unwrap_or(u64::MAX))
    }

    /// Returns the sum as a percentage of the disk, if its size is known.
    pub fn percent(&self) -> Option<u64> {
        let share = (u128::from(self.promised) * 100).checked_div(self.disk?.into())?;
        Some(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl Volumes {
    /// Returns the sum of all capacities and its limit. Calls statvfs(2).
    pub fn committed_capacity(&self) -> CommittedCapacity {
        let disk = self.disk().ok().map(|disk| disk.size_bytes);
        CommittedCapacity { promised: self.promised(None), disk, overcommit: self.overcommit }
    }

    /// Checks that the capacity in `spec` keeps the sum within its limit. A capacity that does not
    /// exceed `before`, which the volume has now, is always accepted.
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
        let counts = |entry: &&VolumeEntry| match entry {
            VolumeEntry::Clone(job) => job.failed().is_none(),
            VolumeEntry::Volume(_) => true,
        };
        let specs = table.entries.values().filter(counts).map(VolumeEntry::spec);
        let others = specs.filter(|spec| but_for.is_none_or(|not| not.name != spec.name));
        others.fold(0, |sum, spec| sum.saturating_add(capacity(&spec)))
    }
}

/// Returns the capacity that counts towards the sum.
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
