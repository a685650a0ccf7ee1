//! NFS version 4, minor versions 1 and 2 (RFC 8881, RFC 7862): what its operations are made of. None
//! is served yet.
//!
//! ```text
//!   attr      attributes by number, and sets of them
//!   pseudo    the directories that lead from the root to the exports
//!   session   clients, their sessions, and what the disk keeps of them
//!   status    the status of each failure
//!   types     values that several operations have
//! ```

pub mod attr;
pub mod pseudo;
pub mod session;
pub mod status;
pub mod types;
