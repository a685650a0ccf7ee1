//! What ACCESS grants (RFC 1813 section 3.3.4, RFC 8881 section 18.1). The rights have the same
//! bits in all versions.

use super::context::{CallContext, Object};
use super::failure::Failure;
use crate::export::ExportMode;
use crate::fs::access::Access;
use crate::fs::attr::FileKind;

/// Read the content of a file, or list a directory.
pub const READ: u32 = 0x01;
/// Look up names in a directory.
pub const LOOKUP: u32 = 0x02;
/// Change the content of a file, or the names in a directory.
pub const MODIFY: u32 = 0x04;
/// Make a file longer, or add names to a directory.
pub const EXTEND: u32 = 0x08;
/// Remove names from a directory.
pub const DELETE: u32 = 0x10;
/// Execute a file.
pub const EXECUTE: u32 = 0x20;

/// The rights that a read-only export never grants.
const CHANGE: u32 = MODIFY | EXTEND | DELETE;

/// Returns which of the `wanted` rights a caller has.
///
/// # Errors
/// As [`Fs::may`](crate::fs::Fs::may).
pub fn grant(cx: &CallContext<'_>, object: &Object<'_>, wanted: u32) -> Result<u32, Failure> {
    let writable = object.options.mode == ExportMode::ReadWrite;
    let mut left = if writable { wanted } else { wanted & !CHANGE };
    let mut granted = 0;
    let rights = if object.node.kind == FileKind::Directory {
        [(Access::Read, READ), (Access::Execute, LOOKUP), (Access::Write, CHANGE)]
    } else {
        [(Access::Read, READ), (Access::Execute, EXECUTE), (Access::Write, MODIFY | EXTEND)]
    };
    // Bits that do not apply to this type of file are not granted.
    left &= rights.iter().fold(0, |all, (_, bits)| all | bits);
    for (access, bits) in rights {
        if left & bits != 0 && cx.fs().may(&object.node, &object.caller, access)? {
            granted |= left & bits;
        }
    }
    Ok(granted)
}
