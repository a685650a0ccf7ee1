//! Remote programs: their calls, what the transport must know of a call, and how a call ends.

use std::net::SocketAddr;

use super::auth::Credentials;
use super::pending::{Delay, Pending};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::xdr::{Error, Reader, Writer};

/// One remote program, and its versions. Each version has a table of procedures.
pub trait Program: Send + Sync {
    /// Returns the program's number.
    fn number(&self) -> u32;

    /// Returns the lowest and the highest version that are served.
    fn versions(&self) -> (u32, u32);

    /// Returns the names of a version's procedures, from its table. Called once for each version,
    /// when the program begins to be served.
    fn names(&self, version: u32) -> ProcedureNames;

    /// Returns what the transport must know of a call before it runs. Called once for each call
    /// that arrives; decodes no more of the arguments than that takes. A call that the program will
    /// reject has the default class.
    fn classify(&self, version: u32, procedure: u32, args: Reader<'_>) -> CallClass;

    /// Carries out a call and appends its results to `out`. The caller discards what was appended
    /// unless the outcome is [`Outcome::Done`].
    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome;
}

/// The names of the procedures of one version of a program. The metrics have them as labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcedureNames {
    /// The program. Versions with the same name here share the numbers of procedures with the same
    /// name.
    pub program: &'static str,
    /// The number and the name of each procedure. The numbers are small: they index a table.
    pub procedures: Vec<(u32, &'static str)>,
}

impl ProcedureNames {
    /// Returns the labels of each procedure: the program and the procedure.
    pub fn into_labels(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.procedures.into_iter().map(move |(_, name)| (self.program, name))
    }
}

/// What the transport must know of a call before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallClass {
    /// What happens to a retransmission.
    pub retransmission: Retransmission,
    /// The approximate maximum size of the reply, in bytes, or 0 if the reply is small. The call
    /// waits until the memory budget has room for it.
    pub reply_size: usize,
    /// The lane of the calls that this one would have to wait for on any thread, if there are such
    /// calls.
    pub lane: Option<Lane>,
}

/// What happens to a retransmission of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retransmission {
    /// It runs again, with the same effect and the same results. The program may also have a reply
    /// cache of its own.
    #[default]
    Runs,
    /// It gets the reply of the first call from the reply cache, because it would change something
    /// again or get another result.
    Replayed,
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
    Done {
        /// The status in the results; 0 for success, and for results without a status. Only the
        /// metrics use it.
        status: u32,
    },
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

impl Outcome {
    /// The results are written, and report success.
    pub const SUCCESS: Self = Self::Done { status: 0 };
}

impl From<Error> for Outcome {
    fn from(_: Error) -> Self {
        Self::Garbage
    }
}
