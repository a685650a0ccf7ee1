//! The interface through which the listener reads the state of the server.

use std::collections::HashSet;

use prometheus_client::registry::Registry;

use crate::telemetry::bounded::OFTEN;
use crate::telemetry::log::Chain;
use crate::telemetry::metrics::scrape::Gauges;
use crate::volume::overcommit::CommittedCapacity;
use crate::volume::spec::VolumeStatus;
use crate::volume::{DiskSpace, Volumes, trash};

/// The state of the server.
pub trait ServerView: Send + Sync {
    /// Returns the current values of the gauges. Does not block.
    fn gauges(&self) -> Gauges;

    /// Returns the exports, except those with these paths. May block on a disk.
    fn exports(&self, but_for: &HashSet<&str>) -> Vec<StaticExport>;

    /// Returns the volumes; `None` if the server runs without. May block on a disk.
    fn volumes(&self) -> Option<VolumesSnapshot>;

    /// Registers further metrics of the server.
    fn register(&self, _registry: &mut Registry) {}
}

/// A directory that is exported by the command line or the exports file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticExport {
    /// The path that clients mount.
    pub path: String,
    /// The directory on the server.
    pub directory: String,
    /// The clients that may mount it, as in exports(5).
    pub clients: Vec<String>,
    /// The file system of the directory, if its statistics could be read.
    pub disk: Option<DiskSpace>,
}

/// The volumes at one moment.
#[derive(Clone, Debug, Default)]
pub struct VolumesSnapshot {
    /// Each volume, by name.
    pub volumes: Vec<VolumeStatus>,
    /// The state of the trash.
    pub trash: trash::TrashStatus,
    /// Descriptions of the registry's faults.
    pub faults: Vec<String>,
    /// The disk that they share, if its statistics could be read.
    pub disk: Option<DiskSpace>,
    /// The sum of their capacities, compared with the disk.
    pub promise: CommittedCapacity,
}

impl VolumesSnapshot {
    /// Reads the state of the volumes. May block on the disk.
    pub fn of(volumes: &Volumes) -> Self {
        let no_disk = |error| {
            let error = Chain(&error);
            tracing::warn!(name: OFTEN, %error, "cannot read the statistics of the disk");
        };
        Self {
            volumes: volumes.list(),
            trash: volumes.trash(),
            faults: volumes.faults(),
            disk: volumes.disk().map_err(no_disk).ok(),
            promise: volumes.committed_capacity(),
        }
    }
}
