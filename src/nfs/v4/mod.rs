//! NFS version 4, minor versions 1 and 2 (RFC 8881, RFC 7862): compounds, and what operations are
//! made of. It is not served yet: most operations are missing.
//!
//! ```text
//!   compound  operations in order, until one fails
//!   ops       the operations
//!   file      the current and the saved file
//!   server    what all calls share
//!   attr      attributes by number, and sets of them
//!   pseudo    the directories that lead from the root to the exports
//!   session   clients, their sessions, and what the disk keeps of them
//!   status    the status of each failure
//!   types     values that several operations have
//! ```

pub mod attr;
pub mod compound;
pub mod file;
pub mod ops;
pub mod pseudo;
pub mod server;
pub mod session;
pub mod status;
#[cfg(test)]
mod testing;
pub mod types;
