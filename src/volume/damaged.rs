//! Records of the registry that cannot be used: reported wherever somebody asks for the volume, and
//! otherwise left alone.

use serde::{Deserialize, Serialize};

use super::Volumes;
use super::error::Error;
use super::name::VolumeId;
use super::registry::Fault;

/// A record that cannot be used, so that its volume is not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damaged {
    /// The id of the volume: the file is called by it.
    pub id: String,
    /// The name of the volume, as far as that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl Volumes {
    /// The records that could not be used at the start.
    pub fn damaged(&self) -> Vec<Damaged> {
        self.faults.iter().map(Fault::damaged).collect()
    }

    /// Why there is no volume of this name: there is none, or its record is damaged. One whose name
    /// cannot be read is found by its id, which is like the name unless another was chosen.
    pub(super) fn missing(&self, name: &str) -> Error {
        let mut all = self.faults.iter().map(Fault::damaged);
        let found = all.find(|of| of.name.as_deref().unwrap_or(&of.id) == name);
        found.map_or_else(|| Error::NotFound(name.to_owned()), Error::Damaged)
    }

    /// The error for an id that is registered and belongs to no volume.
    pub(super) fn unusable(&self, id: &VolumeId) -> Error {
        let mut all = self.faults.iter().map(Fault::damaged);
        Error::Damaged(all.find(|of| of.id == id.as_str()).unwrap_or_else(|| Damaged {
            id: id.to_string(),
            name: None,
            path: self.layout.file(id).display().to_string(),
            why: "it was put there while the server runs".into(),
        }))
    }
}
