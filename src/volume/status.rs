//! The status of volumes, and the damaged records of the registry.

use std::net::IpAddr;

use super::damaged::DamagedRecord;
use super::error::Error;
use super::layout::VolumeLayout;
use super::name::VolumeId;
use super::registry::RecordFault;
use super::spec::{QuotaMode, Spec, VolumePhase, VolumeStatus};
use super::{Volume, VolumeEntry, Volumes};
use crate::export::traffic::TrafficTotals;

impl VolumeEntry {
    pub(super) fn status(
        &self,
        layout: &VolumeLayout,
        free: u64,
        mounted_by: Vec<IpAddr>,
    ) -> VolumeStatus {
        match self {
            Self::Volume(volume) => volume.status(layout, free, mounted_by),
            Self::Clone(job) => job.status(layout, free),
        }
    }
}

impl Volume {
    fn status(&self, layout: &VolumeLayout, free: u64, mounted_by: Vec<IpAddr>) -> VolumeStatus {
        let (record, usage) = (self.record(), self.account.usage());
        let phase = match self.lost() {
            Some(message) => VolumePhase::Lost { message },
            None if self.account.is_exact() => VolumePhase::Ready,
            None => VolumePhase::Counting,
        };
        let left = record.spec.capacity.saturating_sub(usage.bytes);
        VolumeStatus {
            used: usage.bytes,
            inodes_used: usage.inodes,
            free: if record.spec.quota == QuotaMode::Off { free } else { left.min(free) },
            phase,
            mounted_by,
            traffic: self.traffic.totals(),
            copy_of: record.copy_of,
            ..VolumeStatus::of(record.spec, layout, record.created)
        }
    }
}

impl VolumeStatus {
    /// Creates the status of a volume about which nothing else is known.
    pub(super) fn of(spec: Spec, layout: &VolumeLayout, created: jiff::Timestamp) -> Self {
        Self {
            path: spec.export_path(),
            directory: layout.volume(&spec).to_string_lossy().into_owned(),
            created,
            copy_of: None,
            access: None,
            full: false,
            phase: VolumePhase::Ready,
            used: 0,
            free: spec.capacity,
            inodes_used: 0,
            mounted_by: Vec::new(),
            traffic: TrafficTotals::default(),
            spec,
        }
    }
}

impl Volumes {
    /// Returns the records that could not be used at the start.
    pub fn damaged(&self) -> Vec<DamagedRecord> {
        self.faults.iter().map(RecordFault::damaged).collect()
    }

    /// Returns why there is no volume of this name: it does not exist, or its record is damaged. A
    /// record without a readable name is found by its id, which is the same as the name by default.
    pub(super) fn missing(&self, name: &str) -> Error {
        let mut all = self.faults.iter().map(RecordFault::damaged);
        let found = all.find(|of| of.name.as_deref().unwrap_or(&of.id) == name);
        found.map_or_else(|| Error::NotFound(name.to_owned()), Error::DamagedRecord)
    }

    /// Returns the error for an id that has a record but no volume.
    pub(super) fn unusable(&self, id: &VolumeId) -> Error {
        let mut all = self.faults.iter().map(RecordFault::damaged);
        Error::DamagedRecord(all.find(|of| of.id == id.as_str()).unwrap_or_else(|| DamagedRecord {
            id: id.to_string(),
            name: None,
            path: self.layout.file(id).display().to_string(),
            why: "it was put there while the server was running".into(),
        }))
    }
}
