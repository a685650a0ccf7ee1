//! The registry: the records of the volumes on the disk.
//!
//! Each volume has a JSON file, which is named after its id and replaced atomically. A file that is
//! damaged, has another format or is not a regular file is reported and left alone, together with
//! the directory that it may describe; the other volumes are not affected. The same holds for a
//! record that contradicts a more credible one ([`super::conflict`]).

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

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// The prefix of archived directories.
pub(super) const ARCHIVED: &str = "archived-";

/// The extension of the files.
const EXTENSION: &str = "json";

/// The record of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VolumeRecord {
    format: u32,
    /// The specification.
    pub(super) spec: Spec,
    /// The export. Recycling assigns a new one.
    #[serde(with = "hex")]
    pub(super) export: ExportId,
    /// When the volume was created.
    pub(super) created: Timestamp,
    /// The volume of which it is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<VolumeName>,
    /// The reclaim in progress.
    #[serde(default)]
    pub(super) step: ReclaimStep,
}

/// The reclaim of a volume that is in progress. Every step other than [`ReclaimStep::Ready`] is
/// completed, also after a crash.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReclaimStep {
    /// None.
    #[default]
    Ready,
    /// The directory goes into the trash.
    Deleting,
    /// The directory gets this name.
    Archiving(String),
    /// The directory goes into the trash, and an empty one takes its place.
    Recycling,
}

/// A file of the registry that cannot be used, and the reason.
#[derive(Clone, Debug)]
pub(super) struct RecordFault {
    path: PathBuf,
    why: String,
    /// The name of the volume, if it can be read.
    name: Option<VolumeName>,
    /// The directory of the volume relative to the directory with volumes, if it can be read.
    pub(super) place: Option<PathBuf>,
}

impl VolumeRecord {
    /// Creates the record of a new volume.
    pub(super) fn new(spec: Spec) -> Result<Self> {
        let (export, created, step) = (fresh_id()?, now(), ReclaimStep::Ready);
        Ok(Self { format: FORMAT, spec, export, created, copy_of: None, step })
    }

    /// Returns the name of its account in the ledger. A recycled volume gets a new account.
    pub(super) fn account(&self) -> String {
        format!("{}.{:016x}", self.spec.id, self.export.0)
    }

    /// Checks the fields that serde does not: a path that leads out of the directory with volumes
    /// cannot have been written by Berth.
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
    /// Reads all records, sorted by id, and reports the files that cannot be used.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn records(&self) -> Result<(Vec<VolumeRecord>, Vec<RecordFault>)> {
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        let folder = self.registry();
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue; // a temporary file that a crash has left
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(why) => faults.push(RecordFault { name: named(&path), path, why, place: None }),
            }
        }
        records.sort_by(|a: &VolumeRecord, b| a.spec.id.cmp(&b.spec.id));
        Ok((records, faults))
    }

    /// Writes the record of a new or changed volume.
    pub(super) fn write(&self, record: &VolumeRecord) -> Result<()> {
        self.write_by(record, durable::replace)
    }

    /// Writes the changed record of a volume that frees space. Needs no free space itself.
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

    /// Whether there is a record of this id, usable or not.
    pub(super) fn is_registered(&self, id: &VolumeId) -> bool {
        exists(&self.file(id))
    }

    /// Removes the record of a volume.
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
    /// Creates the fault of a record that contradicts a more credible one.
    pub(super) fn of(layout: &VolumeLayout, spec: &Spec, why: String) -> Self {
        let (name, place) = (Some(spec.name.clone()), Some(spec.relative_path().into()));
        Self { path: layout.file(&spec.id), why, name, place }
    }

    /// Returns the fault as it is reported.
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

/// Returns a random id for an export, which was never used before, with overwhelming probability.
pub(super) fn fresh_id() -> Result<ExportId> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::io("get random numbers from", "the system")(errno.into()))?;
    Ok(ExportId(u64::from_ne_bytes(bytes)))
}

/// Returns a random token.
///
/// # Errors
/// The system has no random numbers.
pub fn fresh_token() -> Result<MountToken> {
    MountToken::random().map_err(Error::io("get random numbers from", "the system"))
}

/// Returns the present time in whole seconds.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn read(path: &Path) -> std::result::Result<VolumeRecord, String> {
    let text = durable::read(path, FILE_MAX).map_err(|error| error.to_string())?;
    let format: RecordFormat = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if format.format != FORMAT {
        return Err(format!("its format is {}, but only {FORMAT} is supported", format.format));
    }
    let record: VolumeRecord = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let id = path.file_stem().unwrap_or_default();
    if id != record.spec.id.as_str() {
        return Err(format!("it describes the volume with the id {}", record.spec.id));
    }
    record.check().map(|()| record)
}

/// Returns the name of the volume in a record that cannot be used as a whole.
fn named(path: &Path) -> Option<VolumeName> {
    let text = durable::read(path, FILE_MAX).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
    VolumeName::new(record["spec"]["name"].as_str()?).ok()
}

/// The field that all formats have in common.
#[derive(Deserialize)]
struct RecordFormat {
    format: u32,
}

/// Export ids in hexadecimal, because some readers of JSON lose digits of large numbers.
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
