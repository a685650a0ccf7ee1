//! Clients: their lease, whether they may reclaim, and what they hold.

use std::collections::HashMap;
use std::sync::Arc;

use super::owner::OwnerId;
use super::serial::SerialSet;
use super::stateid::StateKey;
use super::{LockError, Uptime};

/// A client id, as it is on the wire. The caller issues it, and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Who a client is: what the disk keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedClient {
    /// co_ownerid of EXCHANGE_ID.
    pub name: Arc<[u8]>,
    /// Principal that the client id belongs to, in any form that can be compared.
    pub principal: Arc<[u8]>,
    /// co_verifier of EXCHANGE_ID: another one after the client has restarted.
    pub verifier: [u8; 8],
}

/// The flags of a reply to SEQUENCE that depend on the state of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceFlags(u32);

impl SequenceFlags {
    /// SEQ4_STATUS_EXPIRED_ALL_STATE_REVOKED.
    pub const EXPIRED_ALL: Self = Self(0x08);
    /// SEQ4_STATUS_EXPIRED_SOME_STATE_REVOKED.
    pub const EXPIRED_SOME: Self = Self(0x10);
    /// SEQ4_STATUS_ADMIN_STATE_REVOKED.
    pub const ADMIN_REVOKED: Self = Self(0x20);

    /// The bits of sr_status_flags.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether these flags are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These flags, and others if a condition holds.
    #[must_use]
    fn with(self, flags: Self, set: bool) -> Self {
        if set { Self(self.0 | flags.0) } else { self }
    }
}

/// Why a state was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RevokeReason {
    Expired,
    Admin,
}

impl RevokeReason {
    /// What a request with the stateid of such a state gets.
    pub(super) fn error(self) -> LockError {
        match self {
            Self::Expired => LockError::Expired,
            Self::Admin => LockError::AdminRevoked,
        }
    }
}

/// What a client may reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReclaimState {
    /// It has a record from before the restart, and has not sent RECLAIM_COMPLETE.
    Recorded,
    /// It has no record, and has not sent RECLAIM_COMPLETE.
    New,
    /// It has sent RECLAIM_COMPLETE.
    Complete,
}

/// How many states of a client there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateCounts {
    pub(super) opens: usize,
    pub(super) locks: usize,
    pub(super) expired: usize,
    pub(super) admin_revoked: usize,
}

impl StateCounts {
    /// The number of states that are not revoked.
    pub(super) fn live(&self) -> usize {
        self.opens + self.locks
    }

    /// The count of states with a reason.
    pub(super) fn revoked(&mut self, reason: RevokeReason) -> &mut usize {
        match reason {
            RevokeReason::Expired => &mut self.expired,
            RevokeReason::Admin => &mut self.admin_revoked,
        }
    }
}

/// A confirmed client.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) name: Arc<[u8]>,
    /// When the lease was renewed.
    pub(super) renewed: Uptime,
    pub(super) reclaim: ReclaimState,
    /// Whether a record of the client is on the disk.
    pub(super) recorded: bool,
    /// Live and revoked states.
    pub(super) states: SerialSet<StateKey>,
    pub(super) counts: StateCounts,
    pub(super) ranges: usize,
    pub(super) open_owners: HashMap<Arc<[u8]>, OwnerId>,
    pub(super) lock_owners: HashMap<Arc<[u8]>, OwnerId>,
}

impl ClientState {
    pub(super) fn new(name: Arc<[u8]>, reclaim: ReclaimState, now: Uptime) -> Self {
        Self {
            name,
            renewed: now,
            reclaim,
            recorded: reclaim == ReclaimState::Recorded,
            states: SerialSet::default(),
            counts: StateCounts::default(),
            ranges: 0,
            open_owners: HashMap::new(),
            lock_owners: HashMap::new(),
        }
    }

    /// Whether the lease has expired.
    pub(super) fn is_expired(&self, lease: Uptime, now: Uptime) -> bool {
        //= RFC 8881 8.3: a lease lasts for the lease time after the request that renewed it
        now.saturating_sub(self.renewed) > lease
    }

    /// The number of owners of both kinds.
    pub(super) fn owners(&self) -> usize {
        self.open_owners.len() + self.lock_owners.len()
    }

    /// The flags of the next reply to SEQUENCE.
    pub(super) fn flags(&self) -> SequenceFlags {
        //= RFC 8881 18.46.3: a flag stays set until the client has freed all stateids it is about
        //
        // EXPIRED_ALL makes a client drop everything, so it is not set any more once the client has
        // opened files again.
        let expired = self.counts.expired > 0;
        let all = self.counts.live() == 0;
        SequenceFlags::default()
            .with(SequenceFlags::EXPIRED_ALL, expired && all)
            .with(SequenceFlags::EXPIRED_SOME, expired && !all)
            .with(SequenceFlags::ADMIN_REVOKED, self.counts.admin_revoked > 0)
    }

    /// Whether the client may open or lock what it did not have before a restart.
    pub(super) fn check_may_begin(&self) -> Result<(), LockError> {
        //= RFC 8881 18.51.3: before its RECLAIM_COMPLETE, a client gets GRACE for all but reclaims
        match self.reclaim {
            ReclaimState::Complete => Ok(()),
            ReclaimState::Recorded | ReclaimState::New => Err(LockError::Grace),
        }
    }

    /// Whether the client may reclaim while there is a grace period.
    pub(super) fn check_may_reclaim(&self) -> Result<(), LockError> {
        match self.reclaim {
            ReclaimState::Recorded => Ok(()),
            //= RFC 8881 8.4.2.1: a client without a record from before the restart gets RECLAIM_BAD
            ReclaimState::New => Err(LockError::ReclaimBad),
            //= RFC 8881 18.51.3: after its RECLAIM_COMPLETE, a client gets NO_GRACE for reclaims
            ReclaimState::Complete => Err(LockError::NoGrace),
        }
    }
}
