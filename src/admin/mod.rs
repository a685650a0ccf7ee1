//! HTTP for the administrator: volumes over a unix socket, and for everybody who looks after the
//! server health, metrics and a status page.
//!
//! ```text
//!   command::volume -> client --- unix socket, mode 0600 ---> socket -> v1 -> api::Admin
//!                       (HTTP/1.1 and JSON: api)                               (volume::Volumes)
//!   browser, Prometheus, probes ----- TCP, read-only ------> listener -> web -> source::Source
//! ```
//!
//! Whoever may open the socket may do everything: there are no passwords, so that there is no
//! other door to it than the file's permissions. The listener changes nothing.
//!
//! All of it runs on the control plane's runtime: whatever the data plane or a disk does, this
//! answers. What may wait for a disk is asked on threads of its own, with a limit of time.
//!
//! | file | what |
//! |---|---|
//! | [`api`], [`v1`] | the API: its values, its routes |
//! | [`socket`], [`client`] | its two ends |
//! | [`listener`], [`places`] | connections of the read-only listener, and their bounds |
//! | [`host`] | whether a request is meant for this server |
//! | [`web`] | its four pages, and what they need of the rest of the server |
//! | [`health`] | whether the server is ready, asked of itself |
//! | [`metrics`] | from the volumes to their metrics |
//! | [`rates`] | throughput, sampled |
//! | [`page`] | the status page as HTML |
//! | [`source`] | what the rest of the server tells |

pub mod api;
pub mod client;
#[cfg(test)]
pub mod double;
pub mod health;
pub mod host;
pub mod listener;
pub mod metrics;
pub mod page;
pub mod places;
pub mod rates;
pub mod socket;
pub mod source;
pub mod v1;
pub mod web;
