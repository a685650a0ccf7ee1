//! Records of the registry that cannot be used: reported wherever somebody asks for the volume, and
//! otherwise left alone.

use serde::{Deserialize, Serialize};

/// A record that cannot be used, so that its volume is not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedRecord {
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
