//! The commands that do not serve: `berth volume`, `berth health` and `berth manual`.
//!
//! ```text
//!   args ---> request ---> admin::client ~~~~> server
//!    |                          |
//!    '--------> volume <--------'  shows the response: show (tables), pv (manifest), progress
//! ```
//!
//! - Standard output has the result and nothing else. Questions, warnings and progress go to
//!   standard error; notes too, but only if it is a terminal.
//! - The exit code ([`Exit`]) tells scripts the result; they need not parse messages.
//! - Text from the server is escaped ([`text`]) before it is written anywhere.

pub mod args;
pub mod damaged;
pub mod health;
pub mod manual;
pub mod progress;
pub mod pv;
pub mod reclaimed;
pub mod request;
pub mod show;
pub mod text;
pub mod volume;

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::admin::api::Kind;
use crate::admin::client;
use crate::volume::name::{BadName, VolumeName};

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Error, Debug)]
pub enum Error {
    /// The server refused the request, or could not be reached.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// No id can be made from the name.
    #[error("the id made from the name {0}; choose one with --id")]
    Id(#[from] BadName),
    /// The volume exists, but is failed or lost.
    #[error("volume {name} cannot be used: {message}")]
    Unusable {
        /// The volume.
        name: VolumeName,
        /// The reason that the server gives.
        message: String,
        /// Whether there was no room for it.
        full: bool,
    },
    /// The volume existed before, and differs from what was requested.
    #[error(
        "volume {name} already exists and differs in {}; see `berth volume show`, or choose \
         another name",
        differences.join(", ")
    )]
    Different {
        /// The volume.
        name: VolumeName,
        /// The fields of the API that differ.
        differences: Vec<String>,
    },
    /// The volume was being cloned, and no longer exists.
    #[error(
        "volume {0} no longer exists: it was deleted, or the server was restarted; run the command \
         again to start again"
    )]
    Gone(VolumeName),
    /// Entries of the trash could not be removed.
    #[error("{0} entries of the trash cannot be removed; the log of the server says why")]
    SetAside(u64),
    /// There is no terminal on which to ask for confirmation.
    #[error("there is no terminal to ask for confirmation; confirm with --yes")]
    NoTerminal,
    /// The user did not confirm.
    #[error("not confirmed; nothing was done")]
    Declined,
    /// Kubernetes would refuse the manifest.
    #[error(transparent)]
    Manifest(#[from] pv::Error),
    /// The server reports no address on which it listens.
    #[error("the server does not report the port on which it listens; give it with --port")]
    NoPort,
    /// The result cannot be written.
    #[error("cannot write the result")]
    Output(#[from] io::Error),
}

/// The exit code of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The command succeeded.
    Done = 0,
    /// The server, or this machine, has a problem.
    Failed = 1,
    /// The request is invalid, or was not confirmed.
    Usage = 2,
    /// There is no such volume.
    NotFound = 3,
    /// Something else has this name, directory or id, or a claim uses the volume.
    Conflict = 4,
    /// There is not enough space.
    NoSpace = 5,
    /// The server is busy; the same command may succeed later.
    Busy = 6,
    /// The server cannot be reached, or the connection broke.
    Unreachable = 7,
}

impl Error {
    /// The exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => of_client(error),
            Self::Id(_) | Self::NoTerminal | Self::Declined => Exit::Usage,
            Self::Manifest(_) | Self::NoPort => Exit::Usage,
            // The reader of a pipe, such as head(1), has closed it: not an error.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Unusable { full: true, .. } => Exit::NoSpace,
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
        client::Error::Prepare(_) | client::Error::BadReply(_) => Exit::Failed,
        client::Error::TooLarge => Exit::Usage,
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
    fn every_error_has_its_exit_code() {
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
        check(client::Error::BadReply("x".into()).into(), 1);
        check(Error::NoTerminal, 2);
        check(Error::Declined, 2);
        check(BadName::Empty.into(), 2);
        check(Error::Output(source()), 1);
        check(Error::Output(io::ErrorKind::BrokenPipe.into()), 0);
    }
}
