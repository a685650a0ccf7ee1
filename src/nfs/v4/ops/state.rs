//! State of clients: RECLAIM_COMPLETE, TEST_STATEID, FREE_STATEID (RFC 8881 sections 18.51, 18.48,
//! 18.38).

use super::super::compound::{Compound, OpResult, Stop};
use super::super::session::ClientId;
use super::super::status::Status;
use crate::locks::{LockError, Stateid};
use crate::xdr::{Decode, Reader, Writer};

/// Stateids of one TEST_STATEID. Clients test one at a time.
const STATEIDS_MAX: usize = 1024;

impl From<&LockError> for Status {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::StaleClientid => Self::STALE_CLIENTID,
            LockError::BadStateid => Self::BAD_STATEID,
            LockError::OldStateid => Self::OLD_STATEID,
            LockError::Expired => Self::EXPIRED,
            LockError::AdminRevoked => Self::ADMIN_REVOKED,
            LockError::InvalidRange | LockError::InvalidShare => Self::INVAL,
            LockError::ShareDenied => Self::SHARE_DENIED,
            LockError::Locked => Self::LOCKED,
            LockError::OpenMode => Self::OPENMODE,
            LockError::Denied(_) => Self::DENIED,
            LockError::Grace => Self::GRACE,
            LockError::NoGrace => Self::NO_GRACE,
            LockError::ReclaimBad => Self::RECLAIM_BAD,
            LockError::ReclaimConflict => Self::RECLAIM_CONFLICT,
            LockError::CompleteAlready => Self::COMPLETE_ALREADY,
            LockError::LocksHeld => Self::LOCKS_HELD,
            LockError::LockRange => Self::LOCK_RANGE,
            LockError::TooMany(_) => Self::DELAY,
        }
    }
}

impl From<LockError> for Stop {
    fn from(error: LockError) -> Self {
        Self::Status(Status::from(&error))
    }
}

/// Returns the client of the session.
fn client(c: &Compound<'_>) -> Result<ClientId, Stop> {
    let request = c.request.as_ref().ok_or(Status::OP_NOT_IN_SESSION)?;
    Ok(request.session().client())
}

/// RECLAIM_COMPLETE: the client reclaims nothing more.
pub fn reclaim_complete<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    _: &mut Writer<'_>,
) -> OpResult {
    let one_file_system = r.bool()?;
    c.check_patience()?; // the grace period may end, which the disk must have
    let client = client(c)?;
    if one_file_system {
        //= RFC 8881 18.51.3: for one file system, the current file says which: it must exist
        c.current.target(&c.cx)?;
        return Ok(()); // file systems do not move here, so nothing is reclaimed after it
    }
    c.server.locks().reclaim_complete(client, c.server.now())?;
    c.server.settle();
    Ok(())
}

/// TEST_STATEID: returns the status that an operation would get by each stateid.
pub fn test_stateid<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    let client = client(c)?;
    let count = r.count(STATEIDS_MAX)?;
    w.length(count);
    let locks = c.server.locks();
    for _ in 0..count {
        let tested = locks.test_stateid(client, Stateid::decode(r)?);
        w.u32(tested.map_or_else(|error| Status::from(&error), |()| Status::OK).0);
    }
    Ok(())
}

/// FREE_STATEID: forgets a stateid that stands for nothing any more.
pub fn free_stateid<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    let (client, stateid) = (client(c)?, Stateid::decode(r)?);
    c.server.locks().free_stateid(client, stateid)?;
    Ok(())
}
