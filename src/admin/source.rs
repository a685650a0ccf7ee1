//! What the rest of the server tells its administrators.

use std::collections::HashSet;

use prometheus_client::registry::Registry;

use crate::telemetry::bounded::OFTEN;
use crate::telemetry::log::Chain;
use crate::telemetry::metrics::scrape::Gauges;
use crate::volume::promise::Promise;
use crate::volume::spec::Status;
use crate::volume::{Disk, Volumes, trash};

/// The parts of the server that are asked.
pub trait Source: Send + Sync {
    /// Numbers of this moment. Does not block.
    fn gauges(&self) -> Gauges;

    /// What is exported, but for these paths. May wait for a disk.
    fn exports(&self, but_for: &HashSet<&str>) -> Vec<Exported>;

    /// The volumes, if there may be any. May wait for a disk.
    fn volumes(&self) -> Option<Found>;

    /// Adds metrics that are nobody else's.
    fn register(&self, _registry: &mut Registry) {}
}

/// A directory that is exported by the command line or the exports file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// As clients name it.
    pub path: String,
    /// Where it is.
    pub directory: String,
    /// Who may use it, in the words of exports(5).
    pub clients: Vec<String>,
    /// The file system that it is on, if that could be asked.
    pub disk: Option<Disk>,
}

/// The volumes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Each volume, by name.
    pub volumes: Vec<Status>,
    /// What there is to remove.
    pub trash: trash::Status,
    /// What is wrong with the registry, in words.
    pub faults: Vec<String>,
    /// The disk that they share, if it could be asked.
    pub disk: Option<Disk>,
    /// Their capacities together, compared with it.
    pub promise: Promise,
}

impl Found {
    /// Asks the volumes. May wait for the disk.
    pub fn of(volumes: &Volumes) -> Self {
        let no_disk = |error| {
            tracing::warn!(name: OFTEN, error = %Chain(&error), "cannot look at the disk");
        };
        Self {
            volumes: volumes.list(),
            trash: volumes.trash(),
            faults: volumes.faults(),
            disk: volumes.disk().map_err(no_disk).ok(),
            promise: volumes.promise(),
        }
    }
}
