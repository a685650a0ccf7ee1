//! Volumes: a directory, an export and an enforced capacity as one unit, which is created,
//! expanded, recycled, archived and deleted. Knows nothing of Kubernetes.
//!
//! Each operation may be repeated, and the process may die at any point of it. The registry
//! ([`registry`]) records what was requested, which is completed at the next start or when the
//! request is repeated. An operation has happened once its record is on the disk:
//!
//! | operation | before the record | the record | after the record |
//! |---|---|---|---|
//! | create | directory in `making` | ready | moved to its place |
//! | adopt | - | ready | - |
//! | clone | a note of the request; copy in `making` | ready | moved to its place |
//! | expand | - | ready, other limits | - |
//! | delete | - | deleting | moved out; record removed; into the trash |
//! | archive | - | archiving as NAME | renamed; record removed |
//! | recycle | empty `making/ID~` | recycling, new export | old out, new in; ready; into trash |
//!
//! To reclaim a volume or to reduce a capacity needs no free space on the disk ([`reserve`]). Of
//! records that contradict each other, the most credible one is accepted ([`conflict`]). Content of
//! `making` or `leaving` that no record needs goes into the trash at the next start. [`layout`]
//! describes the files.
//!
//! The files of operations (`create`, `clone`, `reclaim`, `recovery`, `status` and others) extend
//! [`Volumes`], which this file defines; apart from that, no files here import each other in a
//! circle.

mod clone;
mod clone_note;
mod conflict;
pub mod copy;
mod copy_queue;
mod create;
pub mod damaged;
mod directory;
pub mod error;
pub mod holder;
mod labels;
mod layout;
mod lock;
mod mark;
pub mod name;
pub mod nested;
pub mod overcommit;
pub mod progress;
mod reclaim;
mod recovery;
mod registry;
mod reserve;
mod scanner;
pub mod spec;
mod status;
#[cfg(test)]
mod tests;
pub mod trash;
pub mod tree;
pub mod words;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard, RwLock};
use serde::{Deserialize, Serialize};

use clone::CloneJob;
use copy_queue::CopyQueue;
use error::{Error, Result};
use holder::HolderLookup;
use layout::VolumeLayout;
use name::{VolumeId, VolumeName};
pub use registry::fresh_token;
use registry::{RecordFault, VolumeRecord};
use scanner::Scanner;
use spec::{QuotaMode, Spec, VolumeStatus, inodes_of};
use trash::Trash;

use crate::errno;
use crate::export::ExportId;
use crate::export::table::Exports;
use crate::export::traffic;
use crate::fs::Fs;
use crate::fs::root::HandleKind;
use crate::quota::ledger::Ledger;
use crate::quota::{Account, LimitRule, QuotaLimits};
use crate::sys::disk::DiskStatistics;

/// The volumes of a server.
pub struct Volumes {
    layout: VolumeLayout,
    serving: DataPlane,
    ledger: Ledger,
    /// `None` before the start and after the stop.
    trash: Mutex<Option<Trash>>,
    /// Held during each operation that changes the set of volumes, from its first check to its last
    /// step.
    change: Mutex<()>,
    table: RwLock<VolumeTable>,
    faults: Vec<RecordFault>,
    overcommit: Option<u32>,
    scanner: OnceLock<Scanner>,
    copies: CopyQueue,
    mounts: OnceLock<MountLister>,
    holders: RwLock<Option<HolderLookup>>,
}

/// Returns which client has mounted which path.
pub type MountLister = Box<dyn Fn() -> Vec<(IpAddr, Vec<u8>)> + Send + Sync>;

/// The parts of the server that serve volumes to clients.
pub struct DataPlane {
    /// The files.
    pub fs: Arc<Fs>,
    /// The exports.
    pub exports: Arc<Exports>,
    /// The kind of file handles, if it is prescribed.
    pub handles: Option<HandleKind>,
    /// Whether local users can enter the directory with the volumes.
    pub open_to_users: bool,
}

/// The settings of the volumes.
#[derive(Clone, Debug)]
pub struct VolumeSettings {
    /// The directory with the volumes; created if it is missing.
    pub dir: PathBuf,
    /// The most files, directories and other entries that are removed from the trash in a second.
    pub purge_rate: u32,
    /// The interval after which a volume is counted again, because its content may have been
    /// changed outside of the server; zero: never.
    pub recount: std::time::Duration,
    /// The most that all capacities may be together, as a percentage of the disk; `None`: no limit.
    pub overcommit: Option<u32>,
}

/// All volumes, by name and by id.
#[derive(Default)]
struct VolumeTable {
    entries: BTreeMap<VolumeName, VolumeEntry>,
    names: HashMap<VolumeId, VolumeName>,
}

/// An entry of the table.
enum VolumeEntry {
    /// A volume.
    Volume(Arc<Volume>),
    /// A volume that is being copied from another, or whose copy has failed.
    Clone(Arc<CloneJob>),
}

/// A volume.
struct Volume {
    record: Mutex<VolumeRecord>,
    /// Its record before its reclaim began: the export of a recycled volume changes.
    before: Mutex<Option<VolumeRecord>>,
    account: Arc<Account>,
    traffic: traffic::Traffic,
    /// The reason why it is not served, if it is not.
    lost: Mutex<Option<String>>,
}

/// The source of a new volume's content.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeOrigin {
    /// The volume is empty.
    #[default]
    Fresh,
    /// An existing directory becomes the volume.
    Adopt,
    /// The volume is a copy of another volume.
    Clone(VolumeName),
}

/// A request to change the limits of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityChange {
    /// The new capacity, in bytes. If absent, it stays.
    #[serde(default)]
    pub capacity: Option<u64>,
    /// The new limit of inodes; 0 for none. If absent, it stays, or follows the capacity as before
    /// if it is the default ([`spec::inodes_of`]).
    #[serde(default)]
    pub inodes: Option<u64>,
    /// Whether a limit may be reduced.
    #[serde(default)]
    pub shrink: bool,
}

/// The outcome of a reclaim.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "volume")]
pub enum Reclaimed {
    /// The volume is gone, and its content is being removed.
    Deleted,
    /// The volume is gone. Its content is in the directory of this name.
    Archived(String),
    /// The volume is empty and ready for its next use.
    Recycled(Box<VolumeStatus>),
    /// The volume is unchanged.
    Retained(Box<VolumeStatus>),
}

/// The size and the free space of a disk, without what is reserved for root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Size in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Free bytes.
    #[serde(rename = "free")]
    pub free_bytes: u64,
}

impl DiskSpace {
    /// Reads the space of the disk on which `path` lies. May block.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn at(path: &Path) -> errno::Result<Self> {
        let statistics = DiskStatistics::at(path)?;
        Ok(Self { size_bytes: statistics.usable_bytes(), free_bytes: statistics.available_bytes })
    }

    /// Returns the bytes in use.
    pub const fn used_bytes(&self) -> u64 {
        self.size_bytes.saturating_sub(self.free_bytes)
    }
}

/// Creates the directory for volumes if it is missing, so that other files may be put there before
/// the volumes are opened.
///
/// # Errors
/// The directory cannot be created, or cannot hold volumes: it is the root directory, or lies in
/// another directory with volumes.
pub fn prepare(dir: &Path) -> Result<()> {
    nested::check_directory(dir)?;
    layout::prepare(dir)
}

impl Volumes {
    /// Returns all volumes, sorted by name.
    pub fn list(&self) -> Vec<VolumeStatus> {
        let free = self.disk().map_or(u64::MAX, |disk| disk.free_bytes);
        let mut mounts = self.mounts_by_name();
        let table = self.table.read();
        let status = |(name, entry): (&VolumeName, &VolumeEntry)| {
            entry.status(&self.layout, free, mounts.remove(name.as_str()).unwrap_or_default())
        };
        table.entries.iter().map(status).collect()
    }

    /// Returns one volume.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show(&self, name: &VolumeName) -> Result<VolumeStatus> {
        let free = self.disk().map_or(u64::MAX, |disk| disk.free_bytes);
        let mounts = self.mounts_by_name().remove(name.as_str()).unwrap_or_default();
        let entry = self.entry(name)?;
        let mut status = entry.status(&self.layout, free, mounts);
        if let VolumeEntry::Volume(_) = entry {
            status.access = self.layout.access(&status.spec);
        }
        Ok(status)
    }

    /// Changes the limits of a volume. Takes effect for its clients at once.
    ///
    /// # Errors
    /// A limit would be reduced without `shrink`, or below the usage; the capacity is larger than
    /// the disk; the registry cannot be written. Then nothing has changed.
    pub fn expand(&self, name: &VolumeName, growth: CapacityChange) -> Result<VolumeStatus> {
        let change = self.lock();
        let volume = self.volume(name)?;
        let before = volume.record();
        let mut record = before.clone();
        record.spec.capacity = growth.capacity.unwrap_or(record.spec.capacity);
        record.spec.inodes = match growth.inodes {
            Some(0) => None,
            None if before.spec.has_default_inodes() => Some(inodes_of(record.spec.capacity)),
            wanted => wanted.or(record.spec.inodes),
        };
        self.check_spec(&record.spec)?;
        self.check_overcommit(&record.spec, before.spec.capacity)?;
        volume.account.set_limits(record.spec.limits());
        let kept = volume.check_limits(&before.spec, &record.spec, growth).and_then(|()| {
            match record.spec.capacity.cmp(&before.spec.capacity) {
                Ordering::Equal if record == before => Ok(()),
                Ordering::Less => self.layout.write_giving_back(&record),
                Ordering::Equal | Ordering::Greater => self.layout.write(&record),
            }
        });
        if let Err(error) = kept {
            volume.account.set_limits(before.spec.limits());
            return Err(error);
        }
        *volume.record.lock() = record;
        drop(change);
        self.show(name)
    }

    /// Requests a new count of what a volume uses, in the background.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn recount(&self, name: &VolumeName) -> Result<()> {
        let export = self.volume(name)?.record().export;
        if let Some(scanner) = self.scanner.get() {
            scanner.ask(export);
            self.ledger.wake();
        }
        Ok(())
    }

    /// Whether a volume's directory is empty. Reads the disk, because files that were made outside
    /// of the server are not known before a count.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the directory cannot be read.
    pub fn is_empty(&self, name: &VolumeName) -> Result<bool> {
        let dir = self.layout.volume(&self.volume(name)?.record().spec);
        let mut entries = std::fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
        Ok(entries.next().is_none())
    }

    /// Returns what is left to remove.
    pub fn trash(&self) -> trash::TrashStatus {
        let trash = self.trash.lock();
        trash.as_ref().map(Trash::status).unwrap_or_default()
    }

    /// Describes the files of the registry that cannot be used and are left alone.
    pub fn faults(&self) -> Vec<String> {
        self.faults.iter().map(ToString::to_string).collect()
    }

    /// Returns the space of the disk that the volumes share.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn disk(&self) -> Result<DiskSpace> {
        let dir = self.layout.dir();
        DiskSpace::at(dir).map_err(|errno| Error::io("get the free space of", dir)(errno.into()))
    }

    /// Sets the function that lists the mounts of clients.
    pub fn set_mounts(&self, mounts: MountLister) {
        let _ = self.mounts.set(mounts);
    }

    fn nudge_trash(&self) {
        let trash = self.trash.lock();
        if let Some(trash) = &*trash {
            trash.nudge();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.change.lock()
    }

    fn entry(&self, name: &VolumeName) -> Result<VolumeEntry> {
        let table = self.table.read();
        table.entries.get(name).map(VolumeEntry::share).ok_or_else(|| self.missing(name.as_str()))
    }

    fn volume(&self, name: &VolumeName) -> Result<Arc<Volume>> {
        match self.entry(name)? {
            VolumeEntry::Volume(volume) => Ok(volume),
            VolumeEntry::Clone(job) if job.failed().is_some() => {
                Err(Error::NotFound(name.to_string()))
            }
            VolumeEntry::Clone(_) => Err(Error::Cloning(name.clone())),
        }
    }

    fn enter(&self, name: &VolumeName, id: &VolumeId, entry: VolumeEntry) {
        let mut table = self.table.write();
        table.names.insert(id.clone(), name.clone());
        table.entries.insert(name.clone(), entry);
    }

    fn forget(&self, name: &VolumeName, id: &VolumeId) {
        let mut table = self.table.write();
        table.names.remove(id);
        table.entries.remove(name);
    }

    fn mounts_by_name(&self) -> HashMap<String, Vec<IpAddr>> {
        let mut found: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (client, path) in self.mounts.get().map(|mounts| mounts()).unwrap_or_default() {
            // The name may be followed by a token.
            let mut names = path.split(|byte| *byte == b'/');
            let name = names.find(|name| !matches!(*name, b"" | b"."));
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            let clients = found.entry(name).or_default();
            if !clients.contains(&client) {
                clients.push(client);
            }
        }
        found
    }
}

impl VolumeEntry {
    fn share(&self) -> Self {
        match self {
            Self::Volume(volume) => Self::Volume(Arc::clone(volume)),
            Self::Clone(job) => Self::Clone(Arc::clone(job)),
        }
    }

    fn spec(&self) -> Spec {
        match self {
            Self::Volume(volume) => volume.record().spec,
            Self::Clone(job) => job.spec().clone(),
        }
    }
}

impl Volume {
    fn record(&self) -> VolumeRecord {
        self.record.lock().clone()
    }

    fn export_id(&self) -> ExportId {
        self.record.lock().export
    }

    fn lost(&self) -> Option<String> {
        self.lost.lock().clone()
    }

    fn set_lost(&self, why: Option<String>) {
        *self.lost.lock() = why;
    }

    /// Checks that the limits may change. The account has the new ones already, so usage cannot
    /// grow beyond them meanwhile.
    fn check_limits(&self, old: &Spec, new: &Spec, growth: CapacityChange) -> Result<()> {
        let most = |inodes: Option<u64>| inodes.unwrap_or(u64::MAX);
        if new.capacity >= old.capacity && most(new.inodes) >= most(old.inodes) {
            return Ok(());
        }
        let (wanted, now) = (new.capacity, old.capacity);
        if !growth.shrink {
            return Err(Error::WouldShrink { wanted, now });
        }
        if !self.account.is_exact() {
            return Err(Error::Counting(new.name.clone()));
        }
        let usage = self.account.taken();
        if usage.bytes > wanted {
            return Err(Error::InUse { wanted, used: usage.bytes });
        }
        if usage.inodes > most(new.inodes) {
            let used = usage.inodes;
            let limit = most(new.inodes);
            return Err(Error::Invalid(format!(
                "{used} inodes are used, more than {limit}; allow more (--inodes)"
            )));
        }
        Ok(())
    }
}

impl Spec {
    fn limits(&self) -> QuotaLimits {
        let rule = match self.quota {
            QuotaMode::Enforce => LimitRule::Enforce,
            QuotaMode::Report => LimitRule::Report,
            QuotaMode::Off => LimitRule::Off,
        };
        QuotaLimits { bytes: self.capacity, inodes: self.inodes, rule }
    }
}
