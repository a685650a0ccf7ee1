//! stub
use serde::{Deserialize, Serialize};
/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Entries done.
    pub entries: u64,
    /// Entries in all, about.
    pub entries_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, about.
    pub bytes_total: u64,
}
