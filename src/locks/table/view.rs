//! What people want to know: clients, open files, and how much there is.

use std::hash::Hash;

use super::LockTable;
use super::state::State;
use crate::locks::client::ReclaimState;
use crate::locks::{ClientId, LockCounts, LockedRange, Share, Uptime};

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockClientView<'a> {
    /// Its id.
    pub id: ClientId,
    /// co_ownerid of the client.
    pub name: &'a [u8],
    /// Time since its lease was renewed.
    pub idle: Uptime,
    /// Whether its lease has expired. It then keeps its state until a request conflicts with it.
    pub is_expired: bool,
    /// Whether it has not sent RECLAIM_COMPLETE yet.
    pub is_reclaiming: bool,
    /// Whether it has a record on the disk.
    pub is_recorded: bool,
    /// Open states.
    pub opens: usize,
    /// Lock states.
    pub locks: usize,
    /// Byte-range locks.
    pub ranges: usize,
    /// States that were revoked and are not freed.
    pub revoked: usize,
}

/// A file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileView<'a, K> {
    /// The file.
    pub file: &'a K,
    /// Open states.
    pub opens: usize,
    /// Byte-range locks.
    pub ranges: usize,
}

/// An open of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenView<'a> {
    /// Its client.
    pub client: ClientId,
    /// Name of the open owner.
    pub owner: &'a [u8],
    /// Its share reservation.
    pub share: Share,
}

/// A byte-range lock of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeView<'a> {
    /// Its client.
    pub client: ClientId,
    /// Name of the lock owner.
    pub owner: &'a [u8],
    /// What is locked.
    pub locked: LockedRange,
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// How much state there is. Counts nothing: the numbers are kept.
    pub fn counts(&self) -> LockCounts {
        LockCounts {
            clients: self.clients.len(),
            files: self.files.len(),
            owners: self.owners.len(),
            ..self.totals
        }
    }

    /// All clients, in any order.
    pub fn clients(&self, now: Uptime) -> impl Iterator<Item = LockClientView<'_>> {
        let lease = self.settings.lease;
        self.clients.iter().map(move |(id, client)| LockClientView {
            id: *id,
            name: &client.name,
            idle: now.saturating_sub(client.renewed),
            is_expired: client.is_expired(lease, now),
            is_reclaiming: client.reclaim != ReclaimState::Complete,
            is_recorded: client.recorded,
            opens: client.counts.opens,
            locks: client.counts.locks,
            ranges: client.ranges,
            revoked: client.counts.expired + client.counts.admin_revoked,
        })
    }

    /// All files that are open, in any order.
    pub fn files(&self) -> impl Iterator<Item = FileView<'_, K>> {
        self.files.iter().map(|(file, open)| FileView {
            file,
            opens: open.opens.len(),
            ranges: open.ranges.len(),
        })
    }

    /// Whether a file is open.
    pub fn is_open(&self, file: &K) -> bool {
        self.files.contains_key(file)
    }

    /// The opens of a file.
    pub fn opens_of(&self, file: &K) -> impl Iterator<Item = OpenView<'_>> {
        let opens = self.files.get(file).into_iter().flat_map(|file| file.opens.iter());
        opens.filter_map(|(owner, key)| {
            let State::Open(open) = self.states.get(key)? else { return None };
            let owner = self.owners.get(owner)?;
            Some(OpenView { client: open.client, owner: &owner.name, share: open.history.share() })
        })
    }

    /// The byte-range locks of a file.
    pub fn ranges_of(&self, file: &K) -> impl Iterator<Item = RangeView<'_>> {
        let ranges = self.files.get(file).into_iter().flat_map(|file| file.ranges.iter());
        ranges.filter_map(|(owner, locked)| {
            let owner = self.owners.get(owner)?;
            Some(RangeView { client: owner.client, owner: &owner.name, locked })
        })
    }
}
