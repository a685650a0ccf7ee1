//! NFS version 3 (RFC 1813).
//!
//! `table` has the 22 procedures, each a function from its arguments to its results. This module
//! has the wire format; [`crate::fs`] has the file operations. Statuses, file types and FSINFO come
//! from the nfsserve crate. Everything else is decoded and encoded by [`crate::xdr`], which bounds
//! what it decodes and copies less.

mod attr;
mod create;
mod data;
mod info;
mod lookup;
mod readdir;
mod remove;
mod rename;
mod reply;
mod status;
mod table;
mod types;

use super::context::CallContext;
use super::core::Core;
use crate::rpc::program::{Call, Outcome};
use crate::xdr::Writer;

pub use table::{classify, names};

/// The version.
pub const VERSION: u32 = 3;

/// Carries out a call.
pub fn call(core: &Core, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
    let table = core.exports.load();
    let cx = &CallContext::new(core, &table, call);
    let outcome = table::run(cx, out);
    cx.count(&outcome);
    outcome
}
