//! Volumes: a directory, an export and an enforced capacity, as one unit, made, grown, recycled,
//! archived and deleted. Knows nothing of Kubernetes.
//!
//! Every operation may be repeated, and the process may die at any point of it: what the registry
//! says ([`registry`]) is what was wanted, and is brought to its end at the next start, or when the
//! operation is asked for again. An operation has happened once its record is on the disk:
//!
//! | operation | before the record | the record | after it |
//! |---|---|---|---|
//! | create | directory in `making` | ready | into its place |
//! | adopt | - | ready | - |
//! | clone | a note that it is wanted; copy in `making` | ready | into its place |
//! | expand | - | ready, other limits | - |
//! | delete | - | deleting | out of its place; struck out; into the trash |
//! | archive | - | archiving as NAME | to that name; struck out |
//! | recycle | empty directory in `making` (as `ID~`) | recycling, other export | old one out, new one in; ready; into the trash |
//!
//! Giving back (delete, archive, recycle, a smaller capacity) takes no room on the disk
//! ([`reserve`]). Of several records that contradict each other, the most credible one is believed
//! ([`contest`]). What is in `making` or `leaving` without a record that needs it goes into the
//! trash at the next start. Where things are, [`layout`] says.

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

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::statvfs;
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

use crate::export::ExportId;
use crate::export::table::Exports;
use crate::export::traffic;
use crate::fs::Fs;
use crate::fs::root::HandleKind;
use crate::quota::ledger::Ledger;
use crate::quota::{Account, LimitRule, QuotaLimits};

/// The volumes of a server.
pub struct Volumes {
    layout: VolumeLayout,
    serving: DataPlane,
    ledger: Ledger,
    /// `None` before the start and after the end.
    trash: Mutex<Option<Trash>>,
    /// Held by whoever changes what volumes there are, from the first look to the last step.
    change: Mutex<()>,
    table: RwLock<VolumeTable>,
    faults: Vec<RecordFault>,
    overcommit: Option<u32>,
    scanner: OnceLock<Scanner>,
    copies: CopyQueue,
    mounts: OnceLock<MountLister>,
    holders: RwLock<Option<HolderLookup>>,
}

/// Tells who has mounted which path.
pub type MountLister = Box<dyn Fn() -> Vec<(IpAddr, Vec<u8>)> + Send + Sync>;

/// What serves volumes to clients.
pub struct DataPlane {
    /// The files.
    pub fs: Arc<Fs>,
    /// What is exported.
    pub exports: Arc<Exports>,
    /// The kind of handles, if only one is wanted.
    pub handles: Option<HandleKind>,
    /// Whether users of this machine can enter the directory of the volumes.
    pub open_to_users: bool,
}

/// How volumes are kept.
#[derive(Clone, Debug)]
pub struct VolumeSettings {
    /// The directory that they are in; made if it is not there.
    pub dir: PathBuf,
    /// How many files, directories and so on are removed from the trash in a second.
    pub purge_rate: u32,
    /// How long after it was counted a volume is counted again, because something may have been
    /// changed beside the server; zero: never.
    pub recount: std::time::Duration,
    /// How large the capacities of all volumes may be together, in percent of the disk; without it,
    /// as large as they like.
    pub overcommit: Option<u32>,
}

/// All volumes, by name and id.
#[derive(Default)]
struct VolumeTable {
    slots: BTreeMap<VolumeName, VolumeEntry>,
    names: HashMap<VolumeId, VolumeName>,
}

/// What there is of a name.
enum VolumeEntry {
    /// A volume.
    Volume(Arc<Volume>),
    /// One that is being made from another.
    Clone(Arc<CloneJob>),
}

/// A volume.
struct Volume {
    record: Mutex<VolumeRecord>,
    /// Its record before its end began: a recycled one's has another export.
    before: Mutex<Option<VolumeRecord>>,
    account: Arc<Account>,
    traffic: traffic::Traffic,
    /// Why it is not served.
    lost: Mutex<Option<String>>,
}

/// Where a new volume's content comes from.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeOrigin {
    /// It is empty.
    #[default]
    Fresh,
    /// It is the directory that is there.
    Adopt,
    /// It is a copy of another volume.
    Clone(VolumeName),
}

/// A wish for more, or less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityChange {
    /// The new capacity, in bytes.
    #[serde(default)]
    pub capacity: Option<u64>,
    /// The new limit of inodes; 0 for none. Without it, one that follows from the capacity
    /// ([`spec::inodes_of`]) goes on to do so.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// Whether it may be less than before.
    #[serde(default)]
    pub shrink: bool,
}

/// What became of a volume that is no longer wanted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "volume")]
pub enum Reclaimed {
    /// It is gone; its content is being removed.
    Deleted,
    /// It is gone; its content is in this directory.
    Archived(String),
    /// It is there for the next user, empty.
    Recycled(Box<VolumeStatus>),
    /// It is there as it was.
    Retained(Box<VolumeStatus>),
}

/// The disk that the volumes share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Its size, in bytes; what is kept back for root is not in it.
    pub size: u64,
    /// What is left of it, in bytes.
    pub free: u64,
}

/// Makes the directory for volumes if it is not there, so that what else belongs to it can be put
/// there.
///
/// # Errors
/// It cannot be made, or is no place for volumes: the root directory, or in another directory of
/// volumes.
pub fn prepare(dir: &Path) -> Result<()> {
    nested::check_directory(dir)?;
    layout::prepare(dir)
}

impl Volumes {
    /// All volumes, by name.
    pub fn list(&self) -> Vec<VolumeStatus> {
        let free = self.disk().map_or(u64::MAX, |disk| disk.free);
        let mut mounts = self.mounts_by_name();
        let table = self.table.read();
        let status = |(name, slot): (&VolumeName, &VolumeEntry)| {
            slot.status(&self.layout, free, mounts.remove(name.as_str()).unwrap_or_default())
        };
        table.slots.iter().map(status).collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show(&self, name: &VolumeName) -> Result<VolumeStatus> {
        let free = self.disk().map_or(u64::MAX, |disk| disk.free);
        let mounts = self.mounts_by_name().remove(name.as_str()).unwrap_or_default();
        let slot = self.slot(name)?;
        let mut status = slot.status(&self.layout, free, mounts);
        if let VolumeEntry::Volume(_) = slot {
            status.access = self.layout.access(&status.spec);
        }
        Ok(status)
    }

    /// Changes how much a volume may hold. Takes effect for its clients at once.
    ///
    /// # Errors
    /// Less than before without an explicit wish, or than what is used; more than the disk; the
    /// registry cannot be written, and then nothing has changed.
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

    /// Has what a volume uses counted again, in the background.
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

    /// Whether there is nothing in a volume's directory: read from the disk, because what is put
    /// there beside the server is not known before a count.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the directory cannot be read.
    pub fn is_empty(&self, name: &VolumeName) -> Result<bool> {
        let dir = self.layout.volume(&self.volume(name)?.record().spec);
        let mut entries = std::fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
        Ok(entries.next().is_none())
    }

    /// What there is to remove.
    pub fn trash(&self) -> trash::TrashStatus {
        let trash = self.trash.lock();
        trash.as_ref().map(Trash::status).unwrap_or_default()
    }

    /// What of the registry could not be read, and is left alone.
    pub fn faults(&self) -> Vec<String> {
        self.faults.iter().map(ToString::to_string).collect()
    }

    /// The disk that the volumes share.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn disk(&self) -> Result<DiskSpace> {
        let dir = self.layout.dir();
        let stat = statvfs(dir).map_err(|errno| Error::io("ask", dir)(errno.into()))?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace {
            size: bytes(used.saturating_add(stat.f_bavail)),
            free: bytes(stat.f_bavail),
        })
    }

    /// Tells where to learn who has mounted what.
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

    fn slot(&self, name: &VolumeName) -> Result<VolumeEntry> {
        let table = self.table.read();
        table.slots.get(name).map(VolumeEntry::share).ok_or_else(|| self.missing(name.as_str()))
    }

    fn volume(&self, name: &VolumeName) -> Result<Arc<Volume>> {
        match self.slot(name)? {
            VolumeEntry::Volume(volume) => Ok(volume),
            VolumeEntry::Clone(job) if job.failed().is_some() => {
                Err(Error::NotFound(name.to_string()))
            }
            VolumeEntry::Clone(_) => Err(Error::Cloning(name.clone())),
        }
    }

    fn enter(&self, name: &VolumeName, id: &VolumeId, slot: VolumeEntry) {
        let mut table = self.table.write();
        table.names.insert(id.clone(), name.clone());
        table.slots.insert(name.clone(), slot);
    }

    fn forget(&self, name: &VolumeName, id: &VolumeId) {
        let mut table = self.table.write();
        table.names.remove(id);
        table.slots.remove(name);
    }

    fn mounts_by_name(&self) -> HashMap<String, Vec<IpAddr>> {
        let mut found: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (client, path) in self.mounts.get().map(|mounts| mounts()).unwrap_or_default() {
            // Behind the name there may be a token.
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

    /// Whether its limits may become others; the account has them already, so that nothing can
    /// come in between.
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
