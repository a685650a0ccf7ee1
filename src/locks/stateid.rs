//! Stateids: 12 bytes that identify a state, and a number for its changes.
//!
//! ```text
//!   seqid (4)   other (12): epoch of the server's start (4), serial number of the state (8)
//! ```
//!
//! A serial number is issued once in an epoch. So a stateid of an earlier start, one that was
//! freed, and one that was never issued are known without any memory of them.

use super::LockError;

/// A stateid of NFSv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stateid {
    /// Counts the changes of the state, from 1. Zero stands for the latest.
    pub seqid: u32,
    /// Identifies the state.
    pub other: [u8; 12],
}

/// What a stateid stands for that is not issued for a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialStateid {
    /// I/O without an open.
    Anonymous,
    /// I/O without an open; a READ is not checked for locks.
    ReadBypass,
    /// The current stateid of the compound. The caller replaces it.
    Current,
    /// No stateid at all, as CLOSE returns it.
    Invalid,
}

impl Stateid {
    /// The stateid of [`SpecialStateid::Anonymous`].
    pub const ANONYMOUS: Self = Self { seqid: 0, other: [0; 12] };
    /// The stateid of [`SpecialStateid::ReadBypass`].
    pub const READ_BYPASS: Self = Self { seqid: u32::MAX, other: [0xff; 12] };
    /// The stateid of [`SpecialStateid::Current`].
    pub const CURRENT: Self = Self { seqid: 1, other: [0; 12] };
    /// The stateid of [`SpecialStateid::Invalid`].
    pub const INVALID: Self = Self { seqid: u32::MAX, other: [0; 12] };

    /// What a special stateid stands for. `None` for others.
    pub fn special(self) -> Option<SpecialStateid> {
        //= RFC 8881 8.2.3: four combinations of all-zero or all-one fields have their own meaning
        match self {
            Self::ANONYMOUS => Some(SpecialStateid::Anonymous),
            Self::READ_BYPASS => Some(SpecialStateid::ReadBypass),
            Self::CURRENT => Some(SpecialStateid::Current),
            Self::INVALID => Some(SpecialStateid::Invalid),
            _ => None,
        }
    }

    /// The same state, whatever its latest change: seqid zero.
    #[must_use]
    pub fn latest(self) -> Self {
        Self { seqid: 0, ..self }
    }
}

/// Identifies a state within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StateKey(pub(super) u64);

impl StateKey {
    /// The stateid of the state with this key.
    pub(super) fn stateid(self, epoch: u32, seqid: u32) -> Stateid {
        let mut other = [0; 12];
        other[..4].copy_from_slice(&epoch.to_be_bytes());
        other[4..].copy_from_slice(&self.0.to_be_bytes());
        Stateid { seqid, other }
    }

    /// The key in a stateid.
    pub(super) fn of(stateid: Stateid, epoch: u32) -> Result<Self, LockError> {
        let [a, b, c, d, serial @ ..] = stateid.other;
        //= RFC 8881 8.2.3: other combinations of all-zero or all-one fields are BAD_STATEID
        //= RFC 8881 8.2.4: a stateid of an earlier start of the server is BAD_STATEID
        let is_ours = u32::from_be_bytes([a, b, c, d]) == epoch;
        if is_ours && stateid.special().is_none() {
            Ok(Self(u64::from_be_bytes(serial)))
        } else {
            Err(LockError::BadStateid)
        }
    }
}

/// The seqid after another one.
pub(super) fn next_seqid(seqid: u32) -> u32 {
    //= RFC 8881 8.2.2: a seqid starts at one, and one follows the largest: zero is never issued
    seqid.checked_add(1).unwrap_or(1)
}

/// Compares a seqid of a request with the latest.
pub(super) fn check_seqid(seqid: u32, latest: u32) -> Result<(), LockError> {
    //= RFC 8881 8.2.2: zero stands for the latest seqid
    if seqid == 0 || seqid == latest {
        return Ok(());
    }
    //= RFC 8881 8.2.4: an earlier seqid is OLD_STATEID; one that was not issued yet is BAD_STATEID
    //
    // Earlier means less than half of all numbers behind, because numbers wrap.
    if latest.wrapping_sub(seqid).cast_signed() > 0 {
        Err(LockError::OldStateid)
    } else {
        Err(LockError::BadStateid)
    }
}
