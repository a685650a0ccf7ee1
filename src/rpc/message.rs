//! The headers of calls and replies (RFC 5531 §9).

use super::auth::{AuthStat, Credentials};
use crate::telemetry::metrics::names::StatusLabel;
use crate::xdr::{Error, Reader, Writer};

/// The only version of the protocol.
const RPC_VERSION: u32 = 2;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;
const AUTH_NONE: u32 = 0;

/// The header of a call, and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct CallHeader<'a> {
    /// The transaction id, which the reply repeats.
    pub xid: u32,
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure of that version.
    pub procedure: u32,
    /// The credentials of the caller.
    pub credentials: Credentials,
    /// The arguments.
    pub args: Reader<'a>,
}

/// Why a message is not passed to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It is no call, or too short to have a transaction id. It cannot be answered.
    NoCall,
    /// It is a call, with this transaction id, and is rejected.
    Rejected(u32, Rejection),
}

/// Why a call was not carried out (`accept_stat`, `reject_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The RPC version is not 2.
    RpcMismatch,
    /// The credentials are not accepted.
    Auth(AuthStat),
    /// The program is not served here.
    ProgramUnavailable,
    /// The version is not served. The lowest and the highest version that are.
    ProgramMismatch(u32, u32),
    /// The version has no such procedure.
    ProcedureUnavailable,
    /// The arguments cannot be decoded.
    GarbageArgs,
    /// A failure for which the program has no status.
    SystemError,
}

impl<'a> CallHeader<'a> {
    /// Decodes the header of a record.
    ///
    /// # Errors
    /// The record is not passed to a program; see [`HeaderError`].
    pub fn decode(record: &'a [u8]) -> Result<Self, HeaderError> {
        let mut r = Reader::new(record);
        let (xid, kind) =
            r.u32().and_then(|xid| Ok((xid, r.u32()?))).map_err(|_| HeaderError::NoCall)?;
        if kind != CALL {
            return Err(HeaderError::NoCall);
        }
        // GARBAGE_ARGS is meant for arguments, but the RFC has no better status for a header that
        // ends early, and without a reply the caller would wait.
        let garbage = |_: Error| HeaderError::Rejected(xid, Rejection::GarbageArgs);
        if r.u32().map_err(garbage)? != RPC_VERSION {
            return Err(HeaderError::Rejected(xid, Rejection::RpcMismatch));
        }
        let mut word = || r.u32().map_err(garbage);
        let (program, version, procedure) = (word()?, word()?, word()?);
        let credentials = Credentials::decode(&mut r)
            .map_err(garbage)?
            .map_err(|why| HeaderError::Rejected(xid, Rejection::Auth(why)))?;
        Ok(Self { xid, program, version, procedure, credentials, args: r })
    }
}

/// Writes the header of a successful reply. The results follow it.
pub fn success(xid: u32, w: &mut Writer<'_>) {
    accepted(xid, 0, w);
}

fn accepted(xid: u32, stat: u32, w: &mut Writer<'_>) {
    w.u32(xid);
    w.u32(REPLY);
    w.u32(ACCEPTED);
    w.u32(AUTH_NONE);
    w.u32(0); // the verifier's length
    w.u32(stat);
}

fn denied(xid: u32, stat: u32, w: &mut Writer<'_>) {
    w.u32(xid);
    w.u32(REPLY);
    w.u32(DENIED);
    w.u32(stat);
}

impl Rejection {
    /// Returns the label for the metrics.
    pub const fn status(self) -> StatusLabel {
        match self {
            Self::RpcMismatch => StatusLabel::RPC_MISMATCH,
            Self::Auth(_) => StatusLabel::AUTH_ERROR,
            Self::ProgramUnavailable => StatusLabel::PROG_UNAVAIL,
            Self::ProgramMismatch(..) => StatusLabel::PROG_MISMATCH,
            Self::ProcedureUnavailable => StatusLabel::PROC_UNAVAIL,
            Self::GarbageArgs => StatusLabel::GARBAGE_ARGS,
            Self::SystemError => StatusLabel::SYSTEM_ERR,
        }
    }

    /// Writes the whole reply.
    pub fn encode(self, xid: u32, w: &mut Writer<'_>) {
        match self {
            Self::RpcMismatch => {
                denied(xid, 0, w);
                w.u32(RPC_VERSION);
                w.u32(RPC_VERSION);
            }
            Self::Auth(why) => {
                denied(xid, 1, w);
                w.u32(why as u32);
            }
            Self::ProgramUnavailable => accepted(xid, 1, w),
            Self::ProgramMismatch(low, high) => {
                accepted(xid, 2, w);
                w.u32(low);
                w.u32(high);
            }
            Self::ProcedureUnavailable => accepted(xid, 3, w),
            Self::GarbageArgs => accepted(xid, 4, w),
            Self::SystemError => accepted(xid, 5, w),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NULL of NFS version 3 without credentials, as a Linux client sends it.
    const NULL: [u32; 10] = [0x77, CALL, 2, 100_003, 3, 0, 0, 0, 0, 0];

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    fn error(words: &[u32]) -> Option<HeaderError> {
        CallHeader::decode(&bytes(words)).err()
    }

    #[test]
    fn a_call_is_read() {
        let record = bytes(&NULL);
        let header = CallHeader::decode(&record).unwrap();
        assert_eq!(
            (header.xid, header.program, header.version, header.procedure),
            (0x77, 100_003, 3, 0)
        );
        assert_eq!(header.credentials, Credentials::None);
        assert!(header.args.rest().is_empty());
    }

    #[test]
    fn a_message_without_a_transaction_id_is_not_answered() {
        assert_eq!(error(&[]), Some(HeaderError::NoCall));
        assert_eq!(error(&[1]), Some(HeaderError::NoCall));
        assert_eq!(error(&[1, REPLY, 2, 3, 4]), Some(HeaderError::NoCall));
    }

    #[test]
    fn another_rpc_version_is_a_mismatch() {
        assert_eq!(error(&[1, CALL, 3]), Some(HeaderError::Rejected(1, Rejection::RpcMismatch)));
    }

    #[test]
    fn every_truncation_behind_the_transaction_id_is_garbage() {
        for len in 2..NULL.len() {
            let why = error(&NULL[..len]);
            assert_eq!(
                why,
                Some(HeaderError::Rejected(0x77, Rejection::GarbageArgs)),
                "{len} words"
            );
        }
    }

    #[test]
    fn rejections_are_encoded_as_in_the_rfc() {
        let check = |reject: Rejection, expected: &[u32]| {
            let mut out = Vec::new();
            reject.encode(9, &mut Writer::new(&mut out));
            assert_eq!(out, bytes(expected), "{reject:?}");
        };
        check(Rejection::RpcMismatch, &[9, 1, 1, 0, 2, 2]);
        check(Rejection::Auth(AuthStat::BadCred), &[9, 1, 1, 1, 1]);
        check(Rejection::ProgramUnavailable, &[9, 1, 0, 0, 0, 1]);
        check(Rejection::ProgramMismatch(3, 3), &[9, 1, 0, 0, 0, 2, 3, 3]);
        check(Rejection::ProcedureUnavailable, &[9, 1, 0, 0, 0, 3]);
        check(Rejection::GarbageArgs, &[9, 1, 0, 0, 0, 4]);
        check(Rejection::SystemError, &[9, 1, 0, 0, 0, 5]);
    }
}
