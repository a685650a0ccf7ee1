//! ONC RPC version 2 (RFC 5531): records, calls, credentials, replies, the reply cache, limits.
//!
//! Knows no program: those register as a [`Program`] and answer one call at a time, synchronously.
//! A call is tried first on the thread that read it from the socket, which must never sleep; a
//! program that would have to, says so before it has changed anything, and is called again on a
//! thread that may.
//!
//! ```text
//!   socket -> record -> message + auth -> replay -> Program::call (Patience::None)
//!                                                      | Outcome::Later
//!                                                      v
//!                                          pool: Program::call (Patience::Blocking) <---+
//!                                                      | Outcome::Pending    | Outcome::Wait
//!                                                      v                     v          |
//!                                      whoever calls Ready::write     whoever calls Wake
//!                                      writes the results             has it carried out
//! ```

mod address;
pub mod auth;
pub mod message;
pub mod pending;
pub mod record;
pub mod replay;
pub mod service;
pub mod transport;

use std::net::SocketAddr;

use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::xdr::{Error, Reader, Writer};
use auth::Credentials;
use pending::{Delay, Pending};

/// One remote program, and its versions.
pub trait Program: Send + Sync {
    /// The program's number.
    fn number(&self) -> u32;

    /// The lowest and the highest version that are served.
    fn versions(&self) -> (u32, u32);

    /// Whether a call that is repeated must get the answer of the first, because carrying it out
    /// again would change something or answer differently.
    fn remembers(&self, version: u32, procedure: u32) -> bool;

    /// The status with which the results of a call begin, 0 for success; those of a procedure that
    /// has none are a success. For the metrics alone.
    fn status(&self, _procedure: u32, _results: &[u8]) -> u32 {
        0
    }

    /// About how large the reply to a call may be at most, in bytes, if it may be large: the call
    /// waits until the memory budget has room for it.
    fn reply_size(&self, _procedure: u32, _args: Reader<'_>) -> usize {
        0
    }

    /// The calls that a call would have to wait for, wherever it runs; `None` if there are no such.
    fn lane(&self, _procedure: u32, _args: Reader<'_>) -> Option<Lane> {
        None
    }

    /// Carries out a call and appends its results. What was appended counts only with
    /// [`Outcome::Done`].
    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome;
}

/// One call of a program's procedure.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The version, within the program's [`Program::versions`].
    pub version: u32,
    /// The procedure; whether the version has it, is for the program to say.
    pub procedure: u32,
    /// The arguments.
    pub args: Reader<'a>,
    /// The user that the call is made for.
    pub credentials: Credentials,
    /// Where the call comes from.
    pub peer: SocketAddr,
    /// Where it arrived; the address of a datagram's is the socket's, and may be unspecified.
    pub local: SocketAddr,
    /// Whether the call may wait for a disk.
    pub patience: Patience,
    /// Whether it may be answered with [`Outcome::Wait`]: not where it was read, and
    /// only some times.
    pub may_wait: bool,
}

/// How a call ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The results are written.
    Done,
    /// Nothing was done: it may have to sleep. Only with [`Patience::None`].
    Later,
    /// It was carried out, but may not be answered yet; nothing is written.
    Pending(Pending),
    /// Nothing was done: what it needs will be there later. It holds no thread until then, and is
    /// carried out again. Only if it may wait.
    Wait(Delay),
    /// The version has no such procedure.
    Unavailable,
    /// The arguments cannot be decoded.
    Garbage,
}

impl From<Error> for Outcome {
    fn from(_: Error) -> Self {
        Self::Garbage
    }
}
