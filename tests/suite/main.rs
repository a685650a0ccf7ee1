//! Conversations with a running server, one file per topic.
//!
//! Every test starts the built program over a directory of its own and talks to it over TCP with
//! wire types that are not ours. See [`support`] for the modes in which all of them must pass.

mod support;

mod access;
mod create;
mod data;
mod getattr;
mod handles;
mod identity;
mod info;
mod lookup;
mod mount;
mod readdir;
mod remove;
mod rename;
mod replay;
mod setattr;
