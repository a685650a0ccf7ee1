//! Why a request is refused, named after the statuses of RFC 8881 section 15.1.

use std::sync::Arc;

use super::{ByteRange, ClientId, LockKind};

/// A refused request. Except where a variant says otherwise, it has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// NFS4ERR_STALE_CLIENTID: there is no such client.
    #[error("unknown client id")]
    StaleClientid,
    /// NFS4ERR_BAD_STATEID: not a stateid of this client, file and kind, or of an earlier boot, or
    /// freed, or with a seqid that was never issued.
    #[error("unknown stateid")]
    BadStateid,
    /// NFS4ERR_OLD_STATEID: the seqid is not the latest.
    #[error("old seqid of a stateid")]
    OldStateid,
    /// NFS4ERR_EXPIRED: the state was revoked because the lease expired and another client needed
    /// it gone.
    #[error("state revoked after the lease expired")]
    Expired,
    /// NFS4ERR_ADMIN_REVOKED: the state was revoked by an administrator, or with its volume.
    #[error("state revoked by the administrator")]
    AdminRevoked,
    /// NFS4ERR_INVAL: a byte range that is empty, or that exceeds the largest offset.
    #[error("invalid byte range")]
    InvalidRange,
    /// NFS4ERR_INVAL: access or deny bits that are no mode, or a downgrade to what was not opened.
    #[error("invalid share mode")]
    InvalidShare,
    /// NFS4ERR_SHARE_DENIED: an OPEN that conflicts with another one.
    #[error("conflict with a share reservation")]
    ShareDenied,
    /// NFS4ERR_LOCKED: I/O that an open denies.
    #[error("I/O denied by a share reservation")]
    Locked,
    /// NFS4ERR_OPENMODE: the open does not include the access that I/O or a lock needs.
    #[error("not opened for this access")]
    OpenMode,
    /// NFS4ERR_DENIED: a conflicting byte-range lock.
    #[error("conflict with a byte-range lock")]
    Denied(Box<LockConflict>),
    /// NFS4ERR_GRACE: only reclaims are possible now, for this client or for all.
    #[error("grace period")]
    Grace,
    /// NFS4ERR_NO_GRACE: a reclaim when the client cannot reclaim, or no longer.
    #[error("no grace period")]
    NoGrace,
    /// NFS4ERR_RECLAIM_BAD: a reclaim of a client that held nothing before the restart.
    #[error("nothing to reclaim")]
    ReclaimBad,
    /// NFS4ERR_RECLAIM_CONFLICT: a reclaim of what another client has reclaimed.
    #[error("conflict with what was reclaimed")]
    ReclaimConflict,
    /// NFS4ERR_COMPLETE_ALREADY: a second RECLAIM_COMPLETE.
    #[error("reclaims are complete already")]
    CompleteAlready,
    /// NFS4ERR_LOCKS_HELD: a stateid cannot be freed while it stands for locks or an open.
    #[error("locks are held")]
    LocksHeld,
    /// NFS4ERR_LOCK_RANGE: an unlock that would split a range, beyond the limit of ranges.
    #[error("unlock would split a byte range beyond the limit")]
    LockRange,
    /// NFS4ERR_DELAY: a limit is reached. RFC 8881 has no status for resources; a client retries,
    /// and succeeds once it or another one has released some.
    #[error("limit of {0} is reached")]
    TooMany(LimitKind),
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Clients.
    Clients,
    /// Open states and lock states, with those revoked and not yet freed.
    States,
    /// Open owners and lock owners.
    Owners,
    /// Byte-range locks.
    Ranges,
}

impl std::fmt::Display for LimitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::States => "opens and locks",
            Self::Owners => "owners",
            Self::Ranges => "byte ranges",
        })
    }
}

/// A byte-range lock that conflicts with a request: what LOCK4denied has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockConflict {
    /// Client of the lock.
    pub client: ClientId,
    /// Its lock owner.
    pub owner: Arc<[u8]>,
    /// Range of the lock, not of the conflict only.
    pub range: ByteRange,
    /// Kind of the lock.
    pub kind: LockKind,
}
