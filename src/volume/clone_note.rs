//! The notes of clones: files that describe clones which are not volumes yet. A clone that was
//! acknowledged is shown as failed after a crash instead of vanishing.
//!
//! ```text
//!   .berth/cloning/ID.json    the request, and why it failed, if that is known
//! ```
//!
//! A note is written before the clone is acknowledged. It is struck out when the volume is
//! registered, or when the failed clone is reclaimed. A note guarantees nothing: a volume with the
//! same id or name takes precedence, and a note that cannot be read is reported and left alone.

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

/// Largest note that is read, in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// Most notes that are read.
const NOTES_MAX: usize = 10_000;

/// The extension of the files, which are named after ids.
const EXTENSION: &str = "json";

/// A clone that is in progress or has failed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CloneNote {
    /// The specification of the new volume.
    pub(super) spec: Spec,
    /// The name of the volume to copy.
    pub(super) from: VolumeName,
    /// When the clone began.
    pub(super) began: Timestamp,
    /// Why it failed. If absent, the server ended before the clone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<String>,
}

impl VolumeLayout {
    /// Writes a note.
    pub(super) fn note(&self, note: &CloneNote) -> Result<()> {
        self.step()?;
        folder(&self.cloning(), 0o700)?; // the disk may have been full at the start
        let path = self.note_of(&note.spec.id);
        let json = serde_json::to_vec_pretty(note).map_err(io::Error::from);
        json.and_then(|json| durable::replace(&path, &json)).map_err(Error::io("write", path))
    }

    /// Removes the note of a clone, if there is one. Needs no free space.
    pub(super) fn strike_note(&self, id: &VolumeId) -> Result<()> {
        self.step()?;
        let path = self.note_of(id);
        durable::remove(&path).map_err(Error::io("remove", path))
    }

    /// Returns all notes that can be read.
    pub(super) fn notes(&self) -> Vec<CloneNote> {
        let folder = self.cloning();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(
                    %error, folder = %folder.display(), "cannot list the notes of clones"
                );
                return Vec::new();
            }
        };
        let paths = entries.take(NOTES_MAX).flatten().map(|entry| entry.path());
        let is_note = |path: &PathBuf| path.extension().is_some_and(|end| end == EXTENSION);
        let read = |path: PathBuf| {
            let read = read(&path);
            let report = |why: &String| {
                tracing::error!(
                    path = %path.display(), error = why,
                    "the note of a clone cannot be used; it is left alone"
                );
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
        return Err(format!("it describes the volume with the id {}", note.spec.id));
    }
    Ok(note)
}
