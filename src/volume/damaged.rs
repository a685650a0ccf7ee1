//! Records of the registry that cannot be used. They are reported with their volume, and otherwise
//! left alone.

use serde::{Deserialize, Serialize};

/// A record that cannot be used, so its volume is not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedRecord {
    /// The id of the volume, from the file's name.
    pub id: String,
    /// The name of the volume, if it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path of the file.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}
