//! Why a procedure failed, and the one place where errors become the protocol's status.

use nfsserve::nfs::nfsstat3;

use crate::errno::Errno;
use crate::export::Refused;
use crate::fs::NoNode;
use crate::fs::handle::BadHandle;
use crate::telemetry::bounded::OFTEN;

/// Why there is no success.
#[derive(Clone, Copy, Debug)]
pub enum Why {
    /// The client is told this.
    Status(nfsstat3),
    /// Nothing was done, because it may have to wait.
    Later,
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

impl From<NoNode> for Why {
    fn from(why: NoNode) -> Self {
        match why {
            NoNode::Bad => BadHandle.into(),
            NoNode::Errno(errno) => errno.into(),
        }
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

/// The status of an error (RFC 1813 §2.6). What the protocol has no word for is the server's
/// fault, and logged, so that a word can be found.
pub fn status(errno: Errno) -> nfsstat3 {
    use nfsstat3 as s;
    match errno {
        Errno::PERM => s::NFS3ERR_PERM,
        Errno::NOENT => s::NFS3ERR_NOENT,
        Errno::IO => s::NFS3ERR_IO,
        Errno::NXIO => s::NFS3ERR_NXIO,
        Errno::ACCES => s::NFS3ERR_ACCES,
        Errno::EXIST => s::NFS3ERR_EXIST,
        Errno::XDEV => s::NFS3ERR_XDEV,
        Errno::NODEV => s::NFS3ERR_NODEV,
        Errno::NOTDIR => s::NFS3ERR_NOTDIR,
        Errno::ISDIR => s::NFS3ERR_ISDIR,
        Errno::INVAL | Errno::LOOP => s::NFS3ERR_INVAL,
        Errno::FBIG | Errno::OVERFLOW => s::NFS3ERR_FBIG,
        Errno::NOSPC => s::NFS3ERR_NOSPC,
        Errno::ROFS => s::NFS3ERR_ROFS,
        Errno::MLINK => s::NFS3ERR_MLINK,
        Errno::NAMETOOLONG => s::NFS3ERR_NAMETOOLONG,
        Errno::NOTEMPTY => s::NFS3ERR_NOTEMPTY,
        Errno::DQUOT => s::NFS3ERR_DQUOT,
        Errno::STALE => s::NFS3ERR_STALE,
        Errno::OPNOTSUPP | Errno::NOSYS => s::NFS3ERR_NOTSUPP,
        // It will pass: the client asks again after a while.
        Errno::AGAIN
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::BUSY
        | Errno::TXTBSY
        | Errno::INTR => s::NFS3ERR_JUKEBOX,
        errno => {
            tracing::warn!(name: OFTEN, error = %errno, "an error without a status of its own");
            s::NFS3ERR_SERVERFAULT
        }
    }
}
