//! The operations: for each its name, its minor version, whether it changes something, and the
//! function that carries it out.
//!
//! ```text
//!   attributes attributes and rights of the current file
//!   directory  lists of names, and links
//!   handles    which file is the current one, and names
//!   sessions   clients and sessions
//!   state      what clients hold
//! ```

mod attributes;
mod directory;
mod handles;
mod sessions;
mod state;

use super::compound::{Compound, OpResult, Stop};
use super::status::Status;
use crate::xdr::{Reader, Writer};

pub use sessions::sequence;

/// The number of SEQUENCE.
pub const SEQUENCE: u32 = 53;

/// The number in the results of an operation that does not exist.
pub const ILLEGAL: u32 = 10_044;

/// The number of SETATTR, whose results have a bitmap even if it fails.
const SETATTR: u32 = 34;

/// An operation.
pub struct Operation {
    /// Its name in the RFCs.
    pub name: &'static str,
    number: u32,
    minor: u32,
    /// Whether it changes something.
    pub effect: Effect,
    /// Decodes its arguments, carries it out, and appends its results after the status.
    pub run: Run,
}

/// Whether an operation changes something that must not be done twice, or be done without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does not.
    Reads,
    /// It does.
    Changes,
}

type Run = for<'a> fn(&mut Compound<'a>, &mut Reader<'a>, &mut Writer<'_>) -> OpResult;

use Effect::{Changes, Reads};

/// The operations, in the order of their numbers. Those that are missing here exist in neither
/// minor version.
const OPERATIONS: &[Operation] = &[
    row(3, "ACCESS", Reads, attributes::access),
    row(4, "CLOSE", Changes, unsupported),
    row(5, "COMMIT", Changes, unsupported),
    row(6, "CREATE", Changes, unsupported),
    row(7, "DELEGPURGE", Reads, unsupported),
    row(8, "DELEGRETURN", Reads, unsupported),
    row(9, "GETATTR", Reads, attributes::getattr),
    row(10, "GETFH", Reads, handles::getfh),
    row(11, "LINK", Changes, unsupported),
    row(12, "LOCK", Changes, unsupported),
    row(13, "LOCKT", Reads, unsupported),
    row(14, "LOCKU", Changes, unsupported),
    row(15, "LOOKUP", Reads, handles::lookup),
    row(16, "LOOKUPP", Reads, handles::lookupp),
    row(17, "NVERIFY", Reads, attributes::nverify),
    row(18, "OPEN", Changes, unsupported),
    row(19, "OPENATTR", Reads, unsupported),
    row(20, "OPEN_CONFIRM", Reads, unsupported),
    row(21, "OPEN_DOWNGRADE", Changes, unsupported),
    row(22, "PUTFH", Reads, handles::putfh),
    row(23, "PUTPUBFH", Reads, handles::putrootfh),
    row(24, "PUTROOTFH", Reads, handles::putrootfh),
    row(25, "READ", Reads, unsupported),
    row(26, "READDIR", Reads, directory::readdir),
    row(27, "READLINK", Reads, directory::readlink),
    row(28, "REMOVE", Changes, unsupported),
    row(29, "RENAME", Changes, unsupported),
    row(30, "RENEW", Reads, unsupported),
    row(31, "RESTOREFH", Reads, handles::restorefh),
    row(32, "SAVEFH", Reads, handles::savefh),
    row(33, "SECINFO", Reads, handles::secinfo),
    row(SETATTR, "SETATTR", Changes, unsupported),
    row(35, "SETCLIENTID", Reads, unsupported),
    row(36, "SETCLIENTID_CONFIRM", Reads, unsupported),
    row(37, "VERIFY", Reads, attributes::verify),
    row(38, "WRITE", Changes, unsupported),
    row(39, "RELEASE_LOCKOWNER", Reads, unsupported),
    row(40, "BACKCHANNEL_CTL", Reads, unsupported),
    row(41, "BIND_CONN_TO_SESSION", Changes, sessions::bind_conn_to_session),
    row(42, "EXCHANGE_ID", Changes, sessions::exchange_id),
    row(43, "CREATE_SESSION", Changes, sessions::create_session),
    row(44, "DESTROY_SESSION", Changes, sessions::destroy_session),
    row(45, "FREE_STATEID", Changes, state::free_stateid),
    row(46, "GET_DIR_DELEGATION", Reads, unsupported),
    row(47, "GETDEVICEINFO", Reads, unsupported),
    row(48, "GETDEVICELIST", Reads, unsupported),
    row(49, "LAYOUTCOMMIT", Reads, unsupported),
    row(50, "LAYOUTGET", Reads, unsupported),
    row(51, "LAYOUTRETURN", Reads, unsupported),
    row(52, "SECINFO_NO_NAME", Reads, handles::secinfo_no_name),
    row(SEQUENCE, "SEQUENCE", Reads, sequence_pos),
    row(54, "SET_SSV", Reads, unsupported),
    row(55, "TEST_STATEID", Reads, state::test_stateid),
    row(56, "WANT_DELEGATION", Reads, unsupported),
    row(57, "DESTROY_CLIENTID", Changes, sessions::destroy_clientid),
    row(58, "RECLAIM_COMPLETE", Changes, state::reclaim_complete),
];

const fn row(number: u32, name: &'static str, effect: Effect, run: Run) -> Operation {
    Operation { name, number, minor: 1, effect, run }
}

/// Returns the operation with this number, if the minor version has it.
pub fn find(number: u32, minor: u32) -> Option<&'static Operation> {
    let index = OPERATIONS.binary_search_by_key(&number, |operation| operation.number).ok()?;
    Some(&OPERATIONS[index]).filter(|operation| operation.minor <= minor)
}

/// Whether an operation may stand alone in a compound, without SEQUENCE.
pub const fn needs_no_session(number: u32) -> bool {
    matches!(number, 41..=44 | 57)
}

impl Operation {
    /// Appends the results that the operation has even if it fails.
    pub fn encode_failure(&self, w: &mut Writer<'_>) {
        if self.number == SETATTR {
            w.u32(0); // no attribute was set
        }
    }
}

/// Answers an operation that the server does not support.
fn unsupported(_: &mut Compound<'_>, _: &mut Reader<'_>, _: &mut Writer<'_>) -> OpResult {
    //= RFC 8881 15.1.1.5: an operation that is not supported gets NOTSUPP
    Err(Stop::Status(Status::NOTSUPP))
}

/// Answers a SEQUENCE that is not the first operation.
fn sequence_pos(_: &mut Compound<'_>, _: &mut Reader<'_>, _: &mut Writer<'_>) -> OpResult {
    //= RFC 8881 18.46.3: SEQUENCE anywhere but in the first place gets SEQUENCE_POS
    Err(Stop::Status(Status::SEQUENCE_POS))
}

#[cfg(test)]
mod tests;
