//! stub
/// What there is to remove.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Entries of the trash folder that wait to be removed, the present one included.
    pub waiting: u64,
    /// Files, directories and so on removed since the server was started.
    pub removed: u64,
    /// Bytes that this gave back.
    pub freed: u64,
    /// What is being removed.
    pub current: Option<String>,
}
