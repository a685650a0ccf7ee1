//! NFS, program 100003: the procedures of each version, over what all versions share.
//!
//! ```text
//!   rpc -> Nfs -> v3: arguments, results, statuses -> context: files and rights of the caller
//!                  |                                      |
//!                  +-> durability: when a reply is sent   +-> core: exports, fs, pace, lanes
//! ```
//!
//! [`core`], [`context`], [`durability`] and [`failure`] name no version, and [`v3`] does not name
//! this module.

pub mod context;
pub mod core;
pub mod durability;
pub mod failure;
pub mod v3;

use std::sync::Arc;

use crate::export::table::Exports;
use crate::fs::Fs;
use crate::rpc::{self, Outcome, Program};
use crate::sched::lanes::Lane;
use crate::xdr::{Reader, Writer};
use core::Core;

/// The program number.
pub const PROGRAM: u32 = 100_003;

/// The lowest and highest version served.
pub const VERSIONS: (u32, u32) = (v3::VERSION, v3::VERSION);

/// The NFS program.
pub struct Nfs {
    core: Core,
}

impl Nfs {
    /// Serves `exports`; their directories must be attached to `fs`.
    pub fn new(fs: Arc<Fs>, exports: Arc<Exports>) -> Self {
        Self { core: Core::new(fs, exports) }
    }
}

impl Program for Nfs {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> (u32, u32) {
        VERSIONS
    }

    fn remembers(&self, _version: u32, procedure: u32) -> bool {
        v3::remembers(procedure)
    }

    fn status(&self, procedure: u32, results: &[u8]) -> u32 {
        v3::status(procedure, results)
    }

    fn reply_size(&self, procedure: u32, args: Reader<'_>) -> usize {
        v3::reply_size(procedure, args)
    }

    fn lane(&self, procedure: u32, args: Reader<'_>) -> Option<Lane> {
        v3::lane(&self.core, procedure, args)
    }

    fn call(&self, call: &rpc::Call<'_>, out: &mut Writer<'_>) -> Outcome {
        v3::call(&self.core, call, out)
    }
}
