//! Failures of procedures. [`super::errors`] maps errnos to statuses.

use nfsserve::nfs::nfsstat3;

use super::errors::status;
use crate::errno::Errno;
use crate::export::Refused;
use crate::fs::error::Error;
use crate::fs::guard::Guard;
use crate::fs::handle::BadHandle;

/// The cause of a failure.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// A status for the client.
    Status(nfsstat3),
    /// The call would block. Nothing was done.
    WouldBlock,
    /// The volume is full, but may have room after its files are flushed. Nothing was done.
    Full,
}

/// A failure, and the results that are sent with its status (`resfail` in RFC 1813).
#[derive(Clone, Copy, Debug)]
pub struct Fail<F> {
    /// The cause.
    pub cause: Cause,
    /// The results after the status: attributes, as far as they are known.
    pub body: F,
}

/// The result of a procedure.
pub type Reply<R, F> = Result<R, Fail<F>>;

impl Cause {
    /// Adds the results that are sent with the status.
    pub const fn with<F>(self, body: F) -> Fail<F> {
        Fail { cause: self, body }
    }

    /// Turns `NFS3ERR_NOSPC` into [`Self::Full`] if a flush may free room for the change under
    /// `guard`.
    pub const fn under(self, guard: &Guard<'_>) -> Self {
        match self {
            Self::Status(nfsstat3::NFS3ERR_NOSPC) if guard.may_have_room_later() => Self::Full,
            cause => cause,
        }
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Status(status(errno))
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        match error {
            Error::WouldBlock => Self::WouldBlock,
            Error::NotCounted | Error::Busy => Self::Status(nfsstat3::NFS3ERR_JUKEBOX),
            Error::Errno(errno) => errno.into(),
        }
    }
}

impl From<nfsstat3> for Cause {
    fn from(status: nfsstat3) -> Self {
        Self::Status(status)
    }
}

impl From<BadHandle> for Cause {
    fn from(_: BadHandle) -> Self {
        Self::Status(nfsstat3::NFS3ERR_BADHANDLE)
    }
}

impl From<Refused> for Cause {
    /// Not `NFS3ERR_STALE`: the handles are valid again when the client regains access.
    fn from(_: Refused) -> Self {
        Self::Status(nfsstat3::NFS3ERR_ACCES)
    }
}

impl<F: Default> From<Cause> for Fail<F> {
    fn from(cause: Cause) -> Self {
        cause.with(F::default())
    }
}

impl<F: Default> From<Errno> for Fail<F> {
    fn from(errno: Errno) -> Self {
        Cause::from(errno).into()
    }
}

impl<F: Default> From<Error> for Fail<F> {
    fn from(error: Error) -> Self {
        Cause::from(error).into()
    }
}

impl<F: Default> From<nfsstat3> for Fail<F> {
    fn from(status: nfsstat3) -> Self {
        Cause::from(status).into()
    }
}
