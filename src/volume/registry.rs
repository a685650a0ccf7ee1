//! The registry: what volumes there are, on the disk.
//!
//! One JSON file for each volume, called by its id and replaced whole. A file that is damaged, is
//! no regular file or has another format is reported and left alone: neither it nor the directory
//! that it may be about is touched, and the other volumes go on. So is a record that contradicts a
//! more credible one ([`super::conflict`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::damaged::DamagedRecord;
use super::error::{Error, Result};
use super::layout::VolumeLayout;
use super::mark::exists;
use super::name::{MountToken, VolumeId, VolumeName};
use super::reserve::{is_full, overwrite};
use super::spec::Spec;
use crate::export::ExportId;
use crate::sys::durable;

/// The format of the files.
const FORMAT: u32 = 1;

/// Largest file that is read.
const FILE_MAX: u64 = 256 * 1024;

/// In front of the names of archived directories.
pub(super) const ARCHIVED: &str = "archived-";

/// Behind the id in a file's name.
const EXTENSION: &str = "json";

/// What the registry says of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VolumeRecord {
    format: u32,
    /// What it was asked to be.
    pub(super) spec: Spec,
    /// Its export, which is another one after each recycling.
    #[serde(with = "hex")]
    pub(super) export: ExportId,
    /// When it was made.
    pub(super) created: Timestamp,
    /// The volume of which it is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<VolumeName>,
    /// What is being done to it.
    #[serde(default)]
    pub(super) step: ReclaimStep,
}

/// What is being done to a volume. Whatever is not [`ReclaimStep::Ready`] goes on to its end, after a
/// crash too.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReclaimStep {
    /// Nothing.
    #[default]
    Ready,
    /// Its directory goes into the trash.
    Deleting,
    /// Its directory goes to this name.
    Archiving(String),
    /// Its directory goes into the trash, and an empty one into its place.
    Recycling,
}

/// A file of the registry that is left alone, and why.
#[derive(Clone, Debug)]
pub(super) struct RecordFault {
    path: PathBuf,
    why: String,
    /// The volume that it names, if that can be read.
    name: Option<VolumeName>,
    /// The directory that it names below that of the volumes, if that can be read.
    pub(super) place: Option<PathBuf>,
}

impl VolumeRecord {
    /// A volume that is made now.
    pub(super) fn new(spec: Spec) -> Result<Self> {
        let (export, created, step) = (fresh_id()?, now(), ReclaimStep::Ready);
        Ok(Self { format: FORMAT, spec, export, created, copy_of: None, step })
    }

    /// What its account is called in the ledger: a recycled volume has another one.
    pub(super) fn account(&self) -> String {
        format!("{}.{:016x}", self.spec.id, self.export.0)
    }

    /// Whether everything in it can be: a record that leads out of the volumes' directory was not
    /// written here.
    fn check(&self) -> std::result::Result<(), String> {
        match &self.step {
            ReclaimStep::Archiving(to) if !is_archive(to) => {
                Err(format!("the volume cannot be archived as {to:?}"))
            }
            _ if self.spec.capacity == 0 => Err("its capacity is 0".into()),
            _ => Ok(()),
        }
    }
}

/// Whether an archived directory may have this name.
fn is_archive(name: &str) -> bool {
    name.starts_with(ARCHIVED) && VolumeName::new(name).is_ok()
}

impl VolumeLayout {
    /// Reads all that is registered, in the order of their ids, and what cannot be read.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn records(&self) -> Result<(Vec<VolumeRecord>, Vec<RecordFault>)> {
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        let folder = self.registry();
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue; // what a crash left of a file that was being written
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(why) => faults.push(RecordFault { name: named(&path), path, why, place: None }),
            }
        }
        records.sort_by(|a: &VolumeRecord, b| a.spec.id.cmp(&b.spec.id));
        Ok((records, faults))
    }

    /// Registers a volume, or what has changed of it.
    pub(super) fn write(&self, record: &VolumeRecord) -> Result<()> {
        self.write_by(record, durable::replace)
    }

    /// The same for a volume that is registered and gives something back: takes no room if there is
    /// none.
    pub(super) fn write_giving_back(&self, record: &VolumeRecord) -> Result<()> {
        self.write_by(record, |path, json| match durable::replace(path, json) {
            Err(error) if is_full(&error) && exists(path) => {
                let short = serde_json::to_vec(record)?;
                self.replace_in_place(path, json).or_else(|_| overwrite(path, &short))
            }
            replaced => replaced,
        })
    }

    fn write_by(
        &self,
        record: &VolumeRecord,
        replace: impl FnOnce(&Path, &[u8]) -> io::Result<()>,
    ) -> Result<()> {
        self.begin()?;
        let path = self.file(&record.spec.id);
        let json = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        json.and_then(|json| replace(&path, &json)).map_err(Error::io("write", path))
    }

    /// Whether something is registered under an id, readable or not.
    pub(super) fn is_registered(&self, id: &VolumeId) -> bool {
        exists(&self.file(id))
    }

    /// Strikes a volume out.
    pub(super) fn strike(&self, id: &VolumeId) -> Result<()> {
        self.begin()?;
        let path = self.file(id);
        durable::remove(&path).map_err(Error::io("remove", path))
    }

    pub(super) fn file(&self, id: &VolumeId) -> PathBuf {
        self.registry().join(format!("{id}.{EXTENSION}"))
    }
}

impl RecordFault {
    /// A record that cannot be used, because of another one.
    pub(super) fn of(layout: &VolumeLayout, spec: &Spec, why: String) -> Self {
        let (name, place) = (Some(spec.name.clone()), Some(spec.relative_path().into()));
        Self { path: layout.file(&spec.id), why, name, place }
    }

    /// What is told of it.
    pub(super) fn damaged(&self) -> DamagedRecord {
        DamagedRecord {
            id: self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            name: self.name.as_ref().map(ToString::to_string),
            path: self.path.display().to_string(),
            why: self.why.clone(),
        }
    }
}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is left alone: {}", self.path.display(), self.why)
    }
}

/// A random id for an export. None was ever given before, as far as chance goes.
pub(super) fn fresh_id() -> Result<ExportId> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::io("get random numbers from", "the system")(errno.into()))?;
    Ok(ExportId(u64::from_ne_bytes(bytes)))
}

/// A token that nobody can guess.
///
/// # Errors
/// The system has no random numbers.
pub fn fresh_token() -> Result<MountToken> {
    MountToken::random().map_err(Error::io("get random numbers from", "the system"))
}

/// The present, to the second.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn read(path: &Path) -> std::result::Result<VolumeRecord, String> {
    let text = durable::read(path, FILE_MAX).map_err(|error| error.to_string())?;
    let format: RecordFormat = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if format.format != FORMAT {
        return Err(format!("its format is {}, and only {FORMAT} is known", format.format));
    }
    let record: VolumeRecord = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let id = path.file_stem().unwrap_or_default();
    if id != record.spec.id.as_str() {
        return Err(format!("it is about the volume with the id {}", record.spec.id));
    }
    record.check().map(|()| record)
}

/// The volume that a record names which cannot be used as a whole.
fn named(path: &Path) -> Option<VolumeName> {
    let text = durable::read(path, FILE_MAX).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
    VolumeName::new(record["spec"]["name"].as_str()?).ok()
}

/// What all formats have in common.
#[derive(Deserialize)]
struct RecordFormat {
    format: u32,
}

/// Numbers that are too large for some readers of JSON.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::ExportId;

    pub fn serialize<S: Serializer>(id: &ExportId, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{:016x}", id.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ExportId, D::Error> {
        let text = String::deserialize(d)?;
        u64::from_str_radix(&text, 16).map(ExportId).map_err(de::Error::custom)
    }
}
