//! Failures of operations on files, without the statuses of a version.

use crate::errno::Errno;
use crate::export::AccessDenied;
use crate::fs::error::Error;
use crate::fs::guard::Guard;
use crate::fs::handle::BadHandle;

/// The cause of a failure. Each version has a status for each, except for those that postpone the
/// call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The file system, or a rule that it has a number for.
    Errno(Errno),
    /// The file handle is not one of this server.
    BadHandle,
    /// The cookie is not one of the directory.
    BadCookie,
    /// The procedure does not make this type of file.
    BadType,
    /// The file has changed since the client read its attributes.
    NotSync,
    /// The first entry does not fit into the size that the client allows.
    TooSmall,
    /// The call would block. Nothing was done.
    WouldBlock,
    /// The client has to retry: what the call needs is in use or not counted yet. Nothing was done.
    Retry,
    /// The volume is full, but may have room after its files are flushed. Nothing was done.
    Full,
}

impl Failure {
    /// Turns `ENOSPC` into [`Self::Full`] if a flush may free room for the change under `guard`.
    pub const fn under(self, guard: &Guard<'_>) -> Self {
        match self {
            Self::Errno(Errno::NOSPC) if guard.may_have_room_later() => Self::Full,
            failure => failure,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::WouldBlock => Self::WouldBlock,
            Error::NotCounted | Error::Busy => Self::Retry,
            Error::Errno(errno) => Self::Errno(errno),
        }
    }
}

impl From<BadHandle> for Failure {
    fn from(_: BadHandle) -> Self {
        Self::BadHandle
    }
}

impl From<AccessDenied> for Failure {
    /// Returns `EACCES`, not `ESTALE`: the handles are valid again when the client regains access.
    fn from(_: AccessDenied) -> Self {
        Self::Errno(Errno::ACCES)
    }
}
