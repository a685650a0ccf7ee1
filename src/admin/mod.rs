//! For the administrator: volumes over a unix socket.
//!
//! ```text
//!   command::volume -> client --- unix socket, mode 0600 ---> socket -> v1 -> api::Admin
//!                       (HTTP/1.1 and JSON: api)                               (volume::Volumes)
//! ```
//!
//! Whoever may open the socket may do everything: there are no passwords, so that there is no
//! other door to it than the file's permissions.

pub mod api;
pub mod client;
#[cfg(test)]
pub mod double;
pub mod socket;
pub mod v1;
