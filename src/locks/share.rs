//! Share reservations: what an open may do, and what it denies to others.
//!
//! An open state remembers which modes its OPENs had, because a downgrade may only go back to modes
//! that were opened. A file counts how many open states have and deny each access. A check without
//! a conflict therefore costs the same however many opens there are.

use super::LockError;

/// Access of an open, or of I/O: reading, writing, or both. Never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareAccess(u8);

impl ShareAccess {
    /// Reading.
    pub const READ: Self = Self(1);
    /// Writing.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// The bits of OPEN4_SHARE_ACCESS_READ and OPEN4_SHARE_ACCESS_WRITE.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether this includes all of another access.
    pub fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What an open denies to others: nothing, reading, writing, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShareDeny(u8);

impl ShareDeny {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reading.
    pub const READ: Self = Self(1);
    /// Writing.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// The bits of OPEN4_SHARE_DENY_READ and OPEN4_SHARE_DENY_WRITE.
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// A share reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// What the open may do.
    pub access: ShareAccess,
    /// What others may not.
    pub deny: ShareDeny,
}

impl Share {
    /// The share of these bits, as OPEN and OPEN_DOWNGRADE have them without flags of delegations.
    ///
    /// # Errors
    /// `InvalidShare` if there is no access, or an unknown bit.
    pub fn from_bits(access: u32, deny: u32) -> Result<Self, LockError> {
        //= RFC 8881 18.16.3: no access at all, or an unknown mode, is INVAL
        match (u8::try_from(access), u8::try_from(deny)) {
            (Ok(access @ 1..=3), Ok(deny @ 0..=3)) => {
                Ok(Self { access: ShareAccess(access), deny: ShareDeny(deny) })
            }
            _ => Err(LockError::InvalidShare),
        }
    }

    /// Whether two opens of a file conflict.
    pub fn conflicts_with(self, other: Self) -> bool {
        //= RFC 8881 9.7: what one open may do must not be denied by another one, both ways
        self.access.0 & other.deny.0 != 0 || self.deny.0 & other.access.0 != 0
    }

    /// Whether the open denies such I/O of others.
    pub fn denies(self, access: ShareAccess) -> bool {
        self.deny.0 & access.0 != 0
    }
}

/// The modes of the OPENs that one open state stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShareHistory {
    /// Bit `n`: there was an OPEN with the access bits `n`.
    access: u8,
    /// Bit `n`: there was an OPEN with the deny bits `n`.
    deny: u8,
}

impl ShareHistory {
    pub(super) fn new(share: Share) -> Self {
        Self { access: 1 << share.access.0, deny: 1 << share.deny.0 }
    }

    /// The history with one more OPEN.
    pub(super) fn with(self, share: Share) -> Self {
        let new = Self::new(share);
        Self { access: self.access | new.access, deny: self.deny | new.deny }
    }

    /// The union of all OPENs.
    pub(super) fn share(self) -> Share {
        //= RFC 8881 9.9: OPENs of one owner and file are one open, with the union of their modes
        Share { access: ShareAccess(union(self.access, 3)), deny: ShareDeny(union(self.deny, 3)) }
    }

    /// The history after a downgrade: the OPENs that remain in effect.
    pub(super) fn downgraded(self, to: Share) -> Result<Self, LockError> {
        //= RFC 8881 18.18.3: a downgrade is to the union of some of the OPENs, otherwise INVAL
        let rest =
            Self { access: self.access & within(to.access.0), deny: self.deny & within(to.deny.0) };
        if rest.access == 0 || rest.deny == 0 || rest.share() != to {
            return Err(LockError::InvalidShare);
        }
        Ok(rest)
    }
}

/// The union of the modes up to `max` in a history.
fn union(history: u8, max: u8) -> u8 {
    (0..=max).filter(|mode| history & (1 << mode) != 0).fold(0, |all, mode| all | mode)
}

/// The history in which there are all modes within these bits.
fn within(bits: u8) -> u8 {
    (0..=3).filter(|mode| mode & !bits == 0).fold(0, |all, mode| all | 1 << mode)
}

/// How many open states of a file have, and deny, reading and writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShareCounts {
    access: [u32; 2],
    deny: [u32; 2],
}

impl ShareCounts {
    pub(super) fn add(&mut self, share: Share) {
        self.each(share, |count| *count += 1);
    }

    pub(super) fn remove(&mut self, share: Share) {
        self.each(share, |count| *count -= 1);
    }

    /// Whether any open state may conflict with a share.
    pub(super) fn conflict_with(&self, share: Share) -> bool {
        any(self.deny, share.access.0) || any(self.access, share.deny.0)
    }

    /// Whether any open state denies such I/O.
    pub(super) fn deny(&self, access: ShareAccess) -> bool {
        any(self.deny, access.0)
    }

    fn each(&mut self, share: Share, change: impl Fn(&mut u32)) {
        for bit in 0..2 {
            if share.access.0 & (1 << bit) != 0 {
                change(&mut self.access[bit]);
            }
            if share.deny.0 & (1 << bit) != 0 {
                change(&mut self.deny[bit]);
            }
        }
    }
}

/// Whether there is a count for one of these bits.
fn any(counts: [u32; 2], bits: u8) -> bool {
    (0..2).any(|bit| bits & (1 << bit) != 0 && counts[bit] > 0)
}
