//! What is shown of a volume.

use std::net::IpAddr;

use super::layout::Layout;
use super::spec::{Phase, Quota, Spec, VolumeStatus};
use super::{Slot, Volume};
use crate::export::traffic::TrafficTotals;

impl Slot {
    pub(super) fn status(
        &self,
        layout: &Layout,
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
    fn status(&self, layout: &Layout, free: u64, mounted_by: Vec<IpAddr>) -> VolumeStatus {
        let (record, usage) = (self.record(), self.account.usage());
        let phase = match self.lost() {
            Some(message) => Phase::Lost { message },
            None if self.account.is_exact() => Phase::Ready,
            None => Phase::Counting,
        };
        let left = record.spec.capacity.saturating_sub(usage.bytes);
        VolumeStatus {
            used: usage.bytes,
            inodes_used: usage.inodes,
            free: if record.spec.quota == Quota::Off { free } else { left.min(free) },
            phase,
            mounted_by,
            traffic: self.traffic.totals(),
            copy_of: record.copy_of,
            ..VolumeStatus::of(record.spec, layout, record.created)
        }
    }
}

impl VolumeStatus {
    /// A volume of which only this is known.
    pub(super) fn of(spec: Spec, layout: &Layout, created: jiff::Timestamp) -> Self {
        Self {
            path: spec.export_path(),
            directory: layout.volume(&spec).to_string_lossy().into_owned(),
            created,
            copy_of: None,
            access: None,
            full: false,
            phase: Phase::Ready,
            used: 0,
            free: spec.capacity,
            inodes_used: 0,
            mounted_by: Vec::new(),
            traffic: TrafficTotals::default(),
            spec,
        }
    }
}
