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

use crate::admin::api::ApiErrorKind;
use crate::admin::client::AdminClientError;
use crate::volume::name::{BadName, VolumeName};

/// The result of a command.
pub type Result<T> = std::result::Result<T, CommandError>;

/// Why a command failed.
#[derive(Error, Debug)]
pub enum CommandError {
    /// The server refused the request, or could not be reached.
    #[error(transparent)]
    Client(#[from] AdminClientError),
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
    Manifest(#[from] pv::ManifestError),
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

impl CommandError {
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

fn of_client(error: &AdminClientError) -> Exit {
    match error {
        AdminClientError::NotRunning { .. }
        | AdminClientError::Forbidden { .. }
        | AdminClientError::Connect { .. }
        | AdminClientError::Timeout(_)
        | AdminClientError::Broken(_) => Exit::Unreachable,
        AdminClientError::Prepare(_) | AdminClientError::BadReply(_) => Exit::Failed,
        AdminClientError::TooLarge => Exit::Usage,
        AdminClientError::Refused(failure) => match failure.kind {
            ApiErrorKind::Invalid => Exit::Usage,
            ApiErrorKind::NotFound => Exit::NotFound,
            ApiErrorKind::Conflict => Exit::Conflict,
            ApiErrorKind::NoSpace => Exit::NoSpace,
            ApiErrorKind::Busy => Exit::Busy,
            ApiErrorKind::Internal => Exit::Failed,
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
    use crate::admin::api::ApiError;

    #[test]
    fn every_error_has_its_exit_code() {
        let check =
            |error: CommandError, code: u8| assert_eq!(error.exit() as u8, code, "{error:?}");
        let refused =
            |kind| AdminClientError::Refused(ApiError { kind, message: String::new() }).into();
        check(refused(ApiErrorKind::Internal), 1);
        check(refused(ApiErrorKind::Invalid), 2);
        check(refused(ApiErrorKind::NotFound), 3);
        check(refused(ApiErrorKind::Conflict), 4);
        check(refused(ApiErrorKind::NoSpace), 5);
        check(refused(ApiErrorKind::Busy), 6);
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let path = std::path::PathBuf::new;
        check(AdminClientError::NotRunning { path: path(), source: source() }.into(), 7);
        check(AdminClientError::Forbidden { path: path(), source: source() }.into(), 7);
        check(AdminClientError::Timeout(Duration::ZERO).into(), 7);
        check(AdminClientError::BadReply("x".into()).into(), 1);
        check(CommandError::NoTerminal, 2);
        check(CommandError::Declined, 2);
        check(BadName::Empty.into(), 2);
        check(CommandError::Output(source()), 1);
        check(CommandError::Output(io::ErrorKind::BrokenPipe.into()), 0);
    }
}
