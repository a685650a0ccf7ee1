//! stub
/// Why not.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
