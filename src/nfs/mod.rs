//! NFS, program 100003: the procedures of each version, over what all versions share.
//!
//! ```text
//!   rpc -> Nfs -> v3: arguments, results, statuses -> context: files and rights of the caller
//!                  |                                      |
//!                  +-> durability: when a reply is sent   +-> core: exports, fs, pace, lanes
//! ```
//!
//! [`v3`] and [`v4`] name neither each other nor this module, and no other file here names them.

pub mod access;
pub mod context;
pub mod core;
pub mod durability;
pub mod failure;
pub mod page;
pub mod status;
pub mod v3;
pub mod v4;

use std::sync::Arc;

use crate::export::table::Exports;
use crate::fs::Fs;
use crate::rpc::program::{Call, CallClass, Outcome, ProcedureNames, Program};
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

/// Returns the names of the procedures of each version.
pub fn names() -> impl Iterator<Item = ProcedureNames> {
    (VERSIONS.0..=VERSIONS.1).map(names_of)
}

fn names_of(_version: u32) -> ProcedureNames {
    v3::names()
}

impl Program for Nfs {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> (u32, u32) {
        VERSIONS
    }

    fn names(&self, version: u32) -> ProcedureNames {
        names_of(version)
    }

    fn classify(&self, _version: u32, procedure: u32, args: Reader<'_>) -> CallClass {
        v3::classify(&self.core, procedure, args)
    }

    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
        v3::call(&self.core, call, out)
    }
}
