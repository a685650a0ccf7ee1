//! ONC RPC version 2 (RFC 5531): records, calls, credentials, replies, the reply cache, limits.
//!
//! This module knows no program. A program implements [`Program`] and carries out one call at a
//! time, synchronously. A call runs first on the thread that read it, which must never block. A
//! program that would have to block returns [`Outcome::Later`] before it has changed anything, and
//! the call runs again on a thread of the pool.
//!
//! ```text
//!   socket -> record -> message + auth -> replay -> Program::call (Patience::None)
//!                                                      | Outcome::Later
//!                                                      v
//!                                          pool: Program::call (Patience::Blocking) <---+
//!                                                      | Outcome::Pending    | Outcome::Wait
//!                                                      v                     v          |
//!                                      Ready::write writes            Wake runs the
//!                                      the results                    call again
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

    /// Whether a retransmitted call must get the reply of the first, because it would change
    /// something again or get another result.
    fn remembers(&self, version: u32, procedure: u32) -> bool;

    /// Returns the status with which the results of a call begin: 0 for success, also for a
    /// procedure whose results have no status. Used for metrics only.
    fn status(&self, _procedure: u32, _results: &[u8]) -> u32 {
        0
    }

    /// Returns the approximate maximum size of the reply, in bytes, or 0 if the reply is small. The
    /// call waits until the memory budget has room for it.
    fn reply_size(&self, _procedure: u32, _args: Reader<'_>) -> usize {
        0
    }

    /// Returns the lane of the calls that a call would have to wait for on any thread, if there are
    /// such calls.
    fn lane(&self, _procedure: u32, _args: Reader<'_>) -> Option<Lane> {
        None
    }

    /// Carries out a call and appends its results to `out`. The caller discards what was appended
    /// unless the outcome is [`Outcome::Done`].
    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome;
}

/// One call of a program's procedure.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The version, within the program's [`Program::versions`].
    pub version: u32,
    /// The procedure. The program checks whether the version has it.
    pub procedure: u32,
    /// The arguments.
    pub args: Reader<'a>,
    /// The caller's credentials.
    pub credentials: Credentials,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The local address. For a datagram, that of the socket, which may be unspecified.
    pub local: SocketAddr,
    /// Whether the call may block.
    pub patience: Patience,
    /// Whether the outcome may be [`Outcome::Wait`]: only on a thread of the pool, and a limited
    /// number of times for each call.
    pub may_wait: bool,
}

/// How a call ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The results are written.
    Done,
    /// Nothing was done, because the call might block. Only with [`Patience::None`].
    Later,
    /// The call was carried out, but must not be answered yet. Nothing is written.
    Pending(Pending),
    /// Nothing was done, because the call needs something that may become available. The call holds
    /// no thread meanwhile, and runs again afterwards. Only with [`Call::may_wait`].
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
