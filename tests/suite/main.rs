//! Conversations with a running server, one file per topic.
//!
//! Every test starts the built program over a directory of its own and talks to it over TCP with
//! wire types that are not ours. See [`support`] for the modes in which all of them must pass.
#![allow(clippy::unwrap_used)] // in a test's helpers, as in the test: to panic is to fail

mod support;

mod access;
mod admin;
mod cli;
mod create;
mod data;
mod exports;
mod full;
mod fuse;
mod getattr;
mod handles;
mod held;
mod hostile;
mod identity;
mod info;
mod layers;
mod lifecycle;
mod local;
mod lookup;
mod manual;
mod memory;
mod mount;
mod processor;
mod programs;
mod readdir;
mod remove;
mod rename;
mod replay;
mod setattr;
mod slow;
mod together;
mod volume_care;
mod volume_cli;
mod volumes;
mod whole;
