//! Converts the status of the volumes into their metrics.

use super::server_view::VolumesSnapshot;
use crate::telemetry::metrics::scrape;
use crate::volume::DiskSpace;
use crate::volume::spec::VolumeStatus;

/// The metrics of all volumes.
pub fn of_volumes(snapshot: VolumesSnapshot) -> scrape::VolumesSample {
    scrape::VolumesSample {
        volumes: snapshot.volumes.into_iter().map(of_volume).collect(),
        trash_entries: snapshot.trash.waiting,
        trash_removed: snapshot.trash.removed,
        trash_freed: snapshot.trash.freed,
        faults: snapshot.faults.len(),
        disk: snapshot.disk.map(disk_sample),
        promised: snapshot.promise.promised,
        allowed: snapshot.promise.allowed(),
    }
}

fn disk_sample(disk: DiskSpace) -> scrape::DiskSample {
    scrape::DiskSample { size_bytes: disk.size_bytes, free_bytes: disk.free_bytes }
}

fn of_volume(status: VolumeStatus) -> scrape::VolumeSample {
    scrape::VolumeSample {
        name: status.spec.name.as_str().to_owned(),
        used: status.used,
        capacity: status.spec.capacity,
        inodes: status.inodes_used,
        calls: status.traffic.calls,
        read: status.traffic.read,
        written: status.traffic.written,
    }
}
