//! Why a procedure failed. Which status an errno becomes stands in [`super::errors`].

use nfsserve::nfs::nfsstat3;

use super::errors::status;
use crate::errno::Errno;
use crate::export::Refused;
use crate::fs::Guard;
use crate::fs::handle::BadHandle;

/// Why there is no success.
#[derive(Clone, Copy, Debug)]
pub enum Why {
    /// The client is told this.
    Status(nfsstat3),
    /// Nothing was done, because it may have to wait.
    Later,
    /// The volume is full, but may have room when its files have been flushed.
    Full,
}

/// A failure: why, and what the client is told besides. `F` is what the procedure's failures
/// carry (`resfail` in RFC 1813).
#[derive(Clone, Copy, Debug)]
pub struct Fail<F> {
    /// Why.
    pub why: Why,
    /// Attributes, as far as they are known.
    pub body: F,
}

/// What a procedure answers.
pub type Reply<R, F> = Result<R, Fail<F>>;

impl Why {
    /// The same, with what the client is told besides.
    pub const fn with<F>(self, body: F) -> Fail<F> {
        Fail { why: self, body }
    }

    /// Why a change failed that was made under `guard`.
    pub const fn under(self, guard: &Guard<'_>) -> Self {
        match self {
            Self::Status(nfsstat3::NFS3ERR_NOSPC) if guard.may_have_room_later() => Self::Full,
            why => why,
        }
    }
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::Later,
            errno => Self::Status(status(errno)),
        }
    }
}

impl From<nfsstat3> for Why {
    fn from(status: nfsstat3) -> Self {
        Self::Status(status)
    }
}

impl From<BadHandle> for Why {
    fn from(_: BadHandle) -> Self {
        Self::Status(nfsstat3::NFS3ERR_BADHANDLE)
    }
}

impl From<Refused> for Why {
    /// Not `NFS3ERR_STALE`: a client that is listed again finds its files where they were.
    fn from(_: Refused) -> Self {
        Self::Status(nfsstat3::NFS3ERR_ACCES)
    }
}

impl<F: Default> From<Why> for Fail<F> {
    fn from(why: Why) -> Self {
        why.with(F::default())
    }
}

impl<F: Default> From<Errno> for Fail<F> {
    fn from(errno: Errno) -> Self {
        Why::from(errno).into()
    }
}

impl<F: Default> From<nfsstat3> for Fail<F> {
    fn from(status: nfsstat3) -> Self {
        Why::from(status).into()
    }
}
