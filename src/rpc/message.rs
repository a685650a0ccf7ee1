//! The headers of calls and replies (RFC 5531 §9).

use super::auth::{AuthStat, Credentials};
use crate::telemetry::metrics::names::Status;
use crate::xdr::{Error, Reader, Writer};

/// The only version of the protocol that there is.
const RPC_VERSION: u32 = 2;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;
const AUTH_NONE: u32 = 0;

/// A call's header, and where its arguments are.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The transaction: the reply carries it back.
    pub xid: u32,
    /// The program that is called.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure of that version.
    pub procedure: u32,
    /// The user that the call is made for.
    pub credentials: Credentials,
    /// The arguments.
    pub args: Reader<'a>,
}

/// A message that cannot be given to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No call, or too short to name its transaction: there is nobody to answer.
    NoCall,
    /// A call that is refused.
    Refused(u32, Reject),
}

/// Why a call was not carried out (`accept_stat`, `reject_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The RPC version is not 2.
    RpcMismatch,
    /// The credentials are not accepted.
    Auth(AuthStat),
    /// The program is not served here.
    ProgramUnavailable,
    /// The version is not; these are the lowest and the highest that are.
    ProgramMismatch(u32, u32),
    /// The version has no such procedure.
    ProcedureUnavailable,
    /// The arguments cannot be decoded.
    GarbageArgs,
    /// Something failed that the program has no status for.
    SystemError,
}

impl<'a> Header<'a> {
    /// Takes the header off a record.
    ///
    /// # Errors
    /// [`Unfit`] says whether and what to answer.
    pub fn decode(record: &'a [u8]) -> Result<Self, Unfit> {
        let mut r = Reader::new(record);
        let (xid, kind) = r.u32().and_then(|xid| Ok((xid, r.u32()?))).map_err(|_| Unfit::NoCall)?;
        if kind != CALL {
            return Err(Unfit::NoCall);
        }
        // A header that ends early names no program that could find its arguments garbage, but
        // the standard has no better word for it, and silence would leave the caller waiting.
        let garbage = |_: Error| Unfit::Refused(xid, Reject::GarbageArgs);
        if r.u32().map_err(garbage)? != RPC_VERSION {
            return Err(Unfit::Refused(xid, Reject::RpcMismatch));
        }
        let mut word = || r.u32().map_err(garbage);
        let (program, version, procedure) = (word()?, word()?, word()?);
        let credentials = Credentials::decode(&mut r)
            .map_err(garbage)?
            .map_err(|why| Unfit::Refused(xid, Reject::Auth(why)))?;
        Ok(Self { xid, program, version, procedure, credentials, args: r })
    }
}

/// Writes the header of a reply whose results follow.
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

impl Reject {
    /// How the metrics call it.
    pub const fn status(self) -> Status {
        match self {
            Self::RpcMismatch => Status::RPC_MISMATCH,
            Self::Auth(_) => Status::AUTH_ERROR,
            Self::ProgramUnavailable => Status::PROG_UNAVAIL,
            Self::ProgramMismatch(..) => Status::PROG_MISMATCH,
            Self::ProcedureUnavailable => Status::PROC_UNAVAIL,
            Self::GarbageArgs => Status::GARBAGE_ARGS,
            Self::SystemError => Status::SYSTEM_ERR,
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

    fn unfit(words: &[u32]) -> Option<Unfit> {
        Header::decode(&bytes(words)).err()
    }

    #[test]
    fn a_call_is_read() {
        let record = bytes(&NULL);
        let header = Header::decode(&record).unwrap();
        assert_eq!(
            (header.xid, header.program, header.version, header.procedure),
            (0x77, 100_003, 3, 0)
        );
        assert_eq!(header.credentials, Credentials::None);
        assert!(header.args.rest().is_empty());
    }

    #[test]
    fn what_names_no_transaction_is_not_answered() {
        assert_eq!(unfit(&[]), Some(Unfit::NoCall));
        assert_eq!(unfit(&[1]), Some(Unfit::NoCall));
        assert_eq!(unfit(&[1, REPLY, 2, 3, 4]), Some(Unfit::NoCall));
    }

    #[test]
    fn another_rpc_version_is_told_ours() {
        assert_eq!(unfit(&[1, CALL, 3]), Some(Unfit::Refused(1, Reject::RpcMismatch)));
    }

    #[test]
    fn every_truncation_behind_the_transaction_is_garbage() {
        for len in 2..NULL.len() {
            let why = unfit(&NULL[..len]);
            assert_eq!(why, Some(Unfit::Refused(0x77, Reject::GarbageArgs)), "{len} words");
        }
    }

    #[test]
    fn refusals_have_the_form_of_the_standard() {
        let check = |reject: Reject, expected: &[u32]| {
            let mut out = Vec::new();
            reject.encode(9, &mut Writer::new(&mut out));
            assert_eq!(out, bytes(expected), "{reject:?}");
        };
        check(Reject::RpcMismatch, &[9, 1, 1, 0, 2, 2]);
        check(Reject::Auth(AuthStat::BadCred), &[9, 1, 1, 1, 1]);
        check(Reject::ProgramUnavailable, &[9, 1, 0, 0, 0, 1]);
        check(Reject::ProgramMismatch(3, 3), &[9, 1, 0, 0, 0, 2, 3, 3]);
        check(Reject::ProcedureUnavailable, &[9, 1, 0, 0, 0, 3]);
        check(Reject::GarbageArgs, &[9, 1, 0, 0, 0, 4]);
        check(Reject::SystemError, &[9, 1, 0, 0, 0, 5]);
    }
}
