//! HTTP for those who look after the server: health, metrics, the status page.
//!
//! All of it runs on the control plane's runtime: whatever the data plane or a disk does, this
//! answers. What may wait for a disk is asked on threads of its own, with a limit of time
//! ([`web`]).
//!
//! | file | what |
//! |---|---|
//! | [`listener`] | connections of the read-only listener, and their bounds |
//! | [`web`] | its four pages, and what they need of the rest of the server |
//! | [`health`] | whether the server is ready, asked of itself |
//! | [`metrics`] | from the volumes to their metrics |
//! | [`rates`] | throughput, sampled |
//! | [`page`] | the status page as HTML |
//! | [`source`] | what the rest of the server tells |

pub mod health;
pub mod listener;
pub mod metrics;
pub mod page;
pub mod rates;
pub mod source;
pub mod web;
