//! Clones that are no volumes yet, on the disk: one that was acknowledged is shown as failed after
//! a crash, and does not vanish.
//!
//! ```text
//!   .berth/cloning/ID.json    what was asked for, and why nothing came of it, if that is known
//! ```
//!
//! The note is written before the clone is acknowledged, and struck out when the volume is
//! registered or the failed clone is deleted. It promises nothing: a volume that has the id or the
//! name goes before it, and a note that cannot be read is reported and left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::layout::{VolumeLayout, folder};
use super::name::{VolumeId, VolumeName};
use super::spec::Spec;
use crate::sys::durable;

/// Largest note that is read.
const FILE_MAX: u64 = 256 * 1024;

/// Notes that are read.
const NOTES_MAX: usize = 10_000;

/// Behind the id in a file's name.
const EXTENSION: &str = "json";

/// A clone that is being made, or was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CloneNote {
    /// What it is to be.
    pub(super) spec: Spec,
    /// The volume that is copied.
    pub(super) from: VolumeName,
    /// When that began.
    pub(super) began: Timestamp,
    /// Why it failed. Without it, the server ended meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<String>,
}

impl VolumeLayout {
    /// Writes a note down.
    pub(super) fn note(&self, note: &CloneNote) -> Result<()> {
        self.step()?;
        folder(&self.cloning(), 0o700)?; // the disk may have been full at the start
        let path = self.note_of(&note.spec.id);
        let json = serde_json::to_vec_pretty(note).map_err(io::Error::from);
        json.and_then(|json| durable::replace(&path, &json)).map_err(Error::io("write", path))
    }

    /// Strikes a note out, if there is one. Takes no room.
    pub(super) fn strike_note(&self, id: &VolumeId) -> Result<()> {
        self.step()?;
        let path = self.note_of(id);
        durable::remove(&path).map_err(Error::io("remove", path))
    }

    /// The notes that can be read.
    pub(super) fn notes(&self) -> Vec<CloneNote> {
        let folder = self.cloning();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot list");
                return Vec::new();
            }
        };
        let paths = entries.take(NOTES_MAX).flatten().map(|entry| entry.path());
        let is_note = |path: &PathBuf| path.extension().is_some_and(|end| end == EXTENSION);
        let read = |path: PathBuf| {
            let read = read(&path);
            let report = |why: &String| {
                tracing::error!(path = %path.display(), error = why, "a note is left alone");
            };
            read.inspect_err(report).ok()
        };
        paths.filter(is_note).filter_map(read).collect()
    }

    fn note_of(&self, id: &VolumeId) -> PathBuf {
        self.cloning().join(format!("{id}.{EXTENSION}"))
    }
}

fn read(path: &Path) -> std::result::Result<CloneNote, String> {
    let text = durable::read(path, FILE_MAX).map_err(|error| error.to_string())?;
    let note: CloneNote = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if path.file_stem().unwrap_or_default() != note.spec.id.as_str() {
        return Err(format!("it is about the volume with the id {}", note.spec.id));
    }
    Ok(note)
}
