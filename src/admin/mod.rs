//! HTTP for administrators: the admin API over a unix socket; health, metrics and a status page
//! over TCP.
//!
//! ```text
//!   command::volume -> client --- unix socket, mode 0600 ---> socket -> v1 -> api::VolumeApi
//!                       (HTTP/1.1 and JSON: api)                               (volume::Volumes)
//!   browser, Prometheus, probes ----- TCP, read-only -------> listener -> web -> ServerView
//! ```
//!
//! The permissions of the socket are the only access control of the API: there are no passwords,
//! and a client that can open it may do everything. The TCP listener changes nothing.
//!
//! Everything runs on the control plane's runtime, and replies whatever the data plane or a disk
//! does: work that may block on a disk runs on blocking threads, of which there are few. The TCP
//! listener also bounds the time that it waits for them.
//!
//! | file | contents |
//! |---|---|
//! | [`api`], [`v1`] | the API: its types, its routes |
//! | [`socket`], [`client`] | its server and its client |
//! | [`listener`], [`slots`] | the read-only listener, and the limits of its connections |
//! | [`host`] | checks the `Host` of a request |
//! | [`web`] | the four pages of the listener |
//! | [`health`] | whether the server is ready |
//! | [`metrics`] | metrics of the volumes |
//! | [`rates`] | throughput, sampled |
//! | [`page`] | the status page as HTML |
//! | [`server_view`] | the interface to the rest of the server |

pub mod api;
pub mod client;
#[cfg(test)]
pub mod fake;
pub mod health;
pub mod host;
pub mod listener;
pub mod metrics;
pub mod page;
pub mod rates;
pub mod server_view;
pub mod slots;
pub mod socket;
pub mod v1;
pub mod web;
