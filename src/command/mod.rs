//! The command line's side of Berth: volumes of a running server, its health, and the manual.
//!
//! ```text
//!   args ---> wish ---> admin::client ~~~~> server
//!    |                      |
//!    '------> volume <------'  what the answer says -> text (tables), pv (manifest), progress
//! ```
//!
//! - Standard output has the answer and nothing else; questions, progress and notes go to standard
//!   error, the last only if that is a terminal.
//! - How it ended is told by the exit code ([`Exit`]), so that scripts need not read messages.
//! - What the server sends is made harmless ([`text`]) before it is written anywhere.

pub mod args;
pub mod health;
pub mod manual;
pub mod progress;
pub mod pv;
pub mod show;
pub mod text;
pub mod volume;
pub mod wish;

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::admin::api::Kind;
use crate::admin::client;
use crate::volume::name::{BadName, Name};

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command did not do what it was told.
#[derive(Error, Debug)]
pub enum Error {
    /// The server said so, or could not be asked.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// An id cannot be made from the name.
    #[error("the name makes an id that {0}; choose one with --id")]
    Id(#[from] BadName),
    /// The volume is there, but of no use.
    #[error("volume {name} cannot be used: {message}")]
    Unusable {
        /// The volume.
        name: Name,
        /// What the server says of it.
        message: String,
    },
    /// The volume was there before, and is not as it was wished.
    #[error(
        "volume {name} is there, but differs in {}; see berth volume show, or choose another name",
        differences.join(", ")
    )]
    Different {
        /// The volume.
        name: Name,
        /// What is not as it was wished.
        differences: Vec<String>,
    },
    /// The volume was being cloned, and is no longer known.
    #[error(
        "volume {0} is gone: it was deleted, or the server was started anew; ask again to begin \
         again"
    )]
    Gone(Name),
    /// Not all of the trash could be removed.
    #[error("{0} entries of the trash cannot be removed; the log of the server says why")]
    SetAside(u64),
    /// There is no terminal on which to ask.
    #[error("there is no terminal to ask on whether this is wanted; say so with --yes")]
    NobodyToAsk,
    /// It is not wanted.
    #[error("nothing was done")]
    Declined,
    /// The manifest would be none.
    #[error(transparent)]
    Manifest(#[from] pv::Error),
    /// The server listens nowhere.
    #[error("the server does not say on which port it listens; say it with --port")]
    NoPort,
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// The server, or this machine, has a problem.
    Failed = 1,
    /// It cannot be asked for so, or is not wanted after all.
    Usage = 2,
    /// There is no such volume.
    NotFound = 3,
    /// Something else is there.
    Conflict = 4,
    /// There is not enough room.
    NoSpace = 5,
    /// Asked again, it may work.
    Busy = 6,
    /// The server cannot be reached, or went away.
    Unreachable = 7,
}

impl Error {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => of_client(error),
            Self::Id(_) | Self::NobodyToAsk | Self::Declined => Exit::Usage,
            Self::Manifest(_) | Self::NoPort => Exit::Usage,
            // Whoever reads the answer has heard enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Unusable { .. } | Self::Gone(_) | Self::SetAside(_) => Exit::Failed,
            Self::Different { .. } => Exit::Conflict,
            Self::Output(_) => Exit::Failed,
        }
    }
}

fn of_client(error: &client::Error) -> Exit {
    match error {
        client::Error::NotRunning { .. }
        | client::Error::Forbidden { .. }
        | client::Error::Connect { .. }
        | client::Error::Timeout(_)
        | client::Error::Broken(_) => Exit::Unreachable,
        client::Error::Prepare(_) | client::Error::Answer(_) => Exit::Failed,
        client::Error::TooMuch => Exit::Usage,
        client::Error::Refused(failure) => match failure.kind {
            Kind::Invalid => Exit::Usage,
            Kind::NotFound => Exit::NotFound,
            Kind::Conflict => Exit::Conflict,
            Kind::NoSpace => Exit::NoSpace,
            Kind::Busy => Exit::Busy,
            Kind::Internal => Exit::Failed,
        },
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::api::Failure;

    #[test]
    fn scripts_can_tell_how_it_ended() {
        let check = |error: Error, code: u8| assert_eq!(error.exit() as u8, code, "{error:?}");
        let refused =
            |kind| client::Error::Refused(Failure { kind, message: String::new() }).into();
        check(refused(Kind::Internal), 1);
        check(refused(Kind::Invalid), 2);
        check(refused(Kind::NotFound), 3);
        check(refused(Kind::Conflict), 4);
        check(refused(Kind::NoSpace), 5);
        check(refused(Kind::Busy), 6);
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let path = std::path::PathBuf::new;
        check(client::Error::NotRunning { path: path(), source: source() }.into(), 7);
        check(client::Error::Forbidden { path: path(), source: source() }.into(), 7);
        check(client::Error::Timeout(Duration::ZERO).into(), 7);
        check(client::Error::Answer("x".into()).into(), 1);
        check(Error::NobodyToAsk, 2);
        check(Error::Declined, 2);
        check(BadName::Empty.into(), 2);
        check(Error::Output(source()), 1);
        check(Error::Output(io::ErrorKind::BrokenPipe.into()), 0);
    }
}
