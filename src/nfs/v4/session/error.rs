//! Why a request is refused, named after the statuses of RFC 8881 section 15.1.

/// A refused request. It has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum SessionError {
    /// NFS4ERR_PERM: an update of a client by another principal.
    #[error("the client belongs to another principal")]
    Perm = 1,
    /// NFS4ERR_NOENT: an update of a client that is not confirmed.
    #[error("no confirmed client to update")]
    Noent = 2,
    /// NFS4ERR_INVAL: flags or arguments that are not defined.
    #[error("invalid argument")]
    Inval = 22,
    /// NFS4ERR_NOSPC: the client has as many sessions as it may have.
    #[error("too many sessions of one client")]
    Nospc = 28,
    /// NFS4ERR_TOOSMALL: a channel that could not carry a request or a reply.
    #[error("channel attributes too small")]
    Toosmall = 10005,
    /// NFS4ERR_DELAY: the request is running already, or a limit is reached. A client retries.
    #[error("not possible now")]
    Delay = 10008,
    /// NFS4ERR_CLID_INUSE: the owner or the client id belongs to another principal.
    #[error("client in use by another principal")]
    ClidInuse = 10017,
    /// NFS4ERR_STALE_CLIENTID: there is no such client.
    #[error("unknown client id")]
    StaleClientid = 10022,
    /// NFS4ERR_NOT_SAME: an update with another verifier.
    #[error("another verifier than that of the client")]
    NotSame = 10027,
    /// NFS4ERR_BADSESSION: there is no such session.
    #[error("unknown session")]
    Badsession = 10052,
    /// NFS4ERR_BADSLOT: the session has no such slot.
    #[error("unknown slot")]
    Badslot = 10053,
    /// NFS4ERR_CONN_NOT_BOUND_TO_SESSION: the connection is not bound to the session.
    #[error("connection not bound to the session")]
    ConnNotBoundToSession = 10055,
    /// NFS4ERR_SEQ_MISORDERED: neither the next sequence number nor the last one.
    #[error("sequence number out of order")]
    SeqMisordered = 10063,
    /// NFS4ERR_REQ_TOO_BIG: a request above the size that the session has.
    #[error("request too large for the session")]
    ReqTooBig = 10065,
    /// NFS4ERR_REP_TOO_BIG: a reply above the size that the session has.
    #[error("reply too large for the session")]
    RepTooBig = 10066,
    /// NFS4ERR_REP_TOO_BIG_TO_CACHE: a reply that is to be kept, above the size for that.
    #[error("reply too large to be kept")]
    RepTooBigToCache = 10067,
    /// NFS4ERR_RETRY_UNCACHED_REP: a request that is sent again, whose reply was not kept.
    #[error("reply of the first request not kept")]
    RetryUncachedRep = 10068,
    /// NFS4ERR_TOO_MANY_OPS: more operations than the session has.
    #[error("too many operations for the session")]
    TooManyOps = 10070,
    /// NFS4ERR_CLIENTID_BUSY: the client has sessions, or holds state.
    #[error("client has sessions or state")]
    ClientidBusy = 10074,
    /// NFS4ERR_SEQ_FALSE_RETRY: another request with the sequence number of the last one.
    #[error("another request with the same sequence number")]
    SeqFalseRetry = 10076,
    /// NFS4ERR_BAD_HIGH_SLOT: the highest slot in use is not a slot of the session.
    #[error("highest slot out of range")]
    BadHighSlot = 10077,
    /// NFS4ERR_ENCR_ALG_UNSUPP: SP4_SSV, for which no algorithm is supported.
    #[error("SP4_SSV is not supported")]
    EncrAlgUnsupp = 10079,
}

impl SessionError {
    /// Returns the status on the wire (nfsstat4).
    pub const fn status(self) -> u32 {
        self as u32
    }
}
