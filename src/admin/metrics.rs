//! Converts the status of the volumes into their metrics.

use super::source::Found;
use crate::telemetry::metrics::scrape;
use crate::volume::spec::VolumeStatus;

/// The metrics of all volumes.
pub fn of_volumes(found: Found) -> scrape::Volumes {
    scrape::Volumes {
        volumes: found.volumes.into_iter().map(of_volume).collect(),
        trash_entries: found.trash.waiting,
        trash_removed: found.trash.removed,
        trash_freed: found.trash.freed,
        faults: found.faults.len(),
        disk: found.disk.map(|disk| (disk.size, disk.free)),
        promised: found.promise.promised,
        allowed: found.promise.allowed(),
    }
}

fn of_volume(status: VolumeStatus) -> scrape::Volume {
    scrape::Volume {
        name: status.spec.name.as_str().to_owned(),
        used: status.used,
        capacity: status.spec.capacity,
        inodes: status.inodes_used,
        calls: status.traffic.calls,
        read: status.traffic.read,
        written: status.traffic.written,
    }
}
