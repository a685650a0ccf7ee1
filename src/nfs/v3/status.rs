//! The status (RFC 1813 section 2.6) of each failure.

use nfsserve::nfs::nfsstat3;

use crate::nfs::failure::Failure;
use crate::nfs::status::status;

impl From<Failure> for nfsstat3 {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Errno(errno) => status(errno),
            Failure::BadHandle => Self::NFS3ERR_BADHANDLE,
            Failure::BadCookie => Self::NFS3ERR_BAD_COOKIE,
            Failure::BadType => Self::NFS3ERR_BADTYPE,
            Failure::NotSync => Self::NFS3ERR_NOT_SYNC,
            Failure::TooSmall => Self::NFS3ERR_TOOSMALL,
            // Operations that may block do not return WouldBlock.
            Failure::Retry | Failure::WouldBlock => Self::NFS3ERR_JUKEBOX,
            Failure::Full => Self::NFS3ERR_NOSPC,
        }
    }
}
