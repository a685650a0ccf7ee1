//! NFS version 4, minor versions 1 and 2 (RFC 8881, RFC 7862).
//!
//! [`session`] has the clients, their sessions, and what the disk keeps of them.

pub mod session;
