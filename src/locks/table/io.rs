//! What READ, WRITE and SETATTR of a size may do by their stateid, and TEST_STATEID and
//! FREE_STATEID.

use std::hash::Hash;

use super::LockTable;
use super::state::State;
use crate::locks::{ClientId, LockError, ShareAccess, SpecialStateid, Stateid, Uptime};

/// By what some I/O is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoGrant {
    /// By an open. Permissions were checked when it began, and count no more.
    Open,
    /// By no open: permissions of the file decide.
    Anonymous,
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// Checks whether I/O may be done with a stateid. Byte-range locks are advisory and not
    /// checked. Revokes the state of clients that deny the I/O and whose lease has expired.
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`, `OpenMode`, `Locked`, `Grace`.
    pub fn check_io(
        &mut self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
        access: ShareAccess,
        now: Uptime,
    ) -> Result<IoGrant, LockError> {
        match stateid.special() {
            None => self.check_open_io(client, stateid, file, access, now),
            //= RFC 8881 8.2.3: a READ with the bypass stateid may pass share reservations
            Some(SpecialStateid::ReadBypass) if access == ShareAccess::READ => {
                Ok(IoGrant::Anonymous)
            }
            Some(SpecialStateid::Anonymous | SpecialStateid::ReadBypass) => {
                //= RFC 8881 8.4.2.1: in a grace period, I/O without an open gets GRACE
                self.check_grace(now)?;
                self.check_deny(file, access, now)?;
                Ok(IoGrant::Anonymous)
            }
            Some(SpecialStateid::Current | SpecialStateid::Invalid) => Err(LockError::BadStateid),
        }
    }

    /// Checks I/O without an open, of version 3 or with a special stateid, against what opens deny.
    /// Revokes the state of clients that deny it and whose lease has expired.
    ///
    /// # Errors
    /// `Locked`.
    pub fn check_deny(
        &mut self,
        file: &K,
        access: ShareAccess,
        now: Uptime,
    ) -> Result<(), LockError> {
        self.end_grace(now);
        //= RFC 8881 9.1.2: I/O without an open that an open denies gets LOCKED
        let in_the_way = self.denials(file, access, None, now).ok_or(LockError::Locked)?;
        self.expire_all(&in_the_way);
        Ok(())
    }

    fn check_open_io(
        &mut self,
        client: ClientId,
        stateid: Stateid,
        file: &K,
        access: ShareAccess,
        now: Uptime,
    ) -> Result<IoGrant, LockError> {
        self.end_grace(now);
        //= RFC 8881 8.2.5: I/O with the stateid of a lock has the access of the open it came from
        let (key, open) = self.open_for_io(client, stateid, file)?;
        if open.history.share().access.includes(access) {
            return Ok(IoGrant::Open);
        }
        //= RFC 8881 9.1.2: I/O beyond the access of its open gets OPENMODE
        if access != ShareAccess::READ {
            return Err(LockError::OpenMode);
        }
        //= RFC 8881 9.1.2: READ with an open for writing may pass, unless others deny reading
        let in_the_way =
            self.denials(file, access, Some((key, client)), now).ok_or(LockError::Locked)?;
        self.expire_all(&in_the_way);
        Ok(IoGrant::Open)
    }

    /// TEST_STATEID of one stateid.
    ///
    /// # Errors
    /// The status of the stateid: `BadStateid`, `OldStateid`, `Expired`, `AdminRevoked`.
    pub fn test_stateid(&self, client: ClientId, stateid: Stateid) -> Result<(), LockError> {
        //= RFC 8881 18.48.3: the status of each stateid is what an operation would get by it
        match self.any_state(client, stateid)? {
            (_, State::Revoked(revoked)) => Err(revoked.reason.error()),
            (_, state) => state.check_seqid(stateid.seqid),
        }
    }

    /// FREE_STATEID: forgets a revoked state, or a lock state without locks.
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`, `LocksHeld`.
    pub fn free_stateid(&mut self, client: ClientId, stateid: Stateid) -> Result<(), LockError> {
        let (key, state) = self.any_state(client, stateid)?;
        state.check_seqid(stateid.seqid)?;
        match state {
            //= RFC 8881 18.38.3: a revoked state is freed, which acknowledges its loss
            State::Revoked(_) => self.remove_revoked(key),
            //= RFC 8881 18.38.3: an open, or a lock state with locks, is not freed: LOCKS_HELD
            State::Open(_) => return Err(LockError::LocksHeld),
            State::Lock(lock) => {
                let has_ranges = match self.states.get(&lock.open) {
                    Some(State::Open(open)) => {
                        let file = self.files.get(&open.file);
                        file.is_some_and(|file| file.ranges.has_owner(lock.owner))
                    }
                    _ => false,
                };
                if has_ranges {
                    return Err(LockError::LocksHeld);
                }
                self.remove_lock(key);
            }
        }
        Ok(())
    }
}
