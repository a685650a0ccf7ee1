//! For tests: whether all parts of a table agree, and how much memory they take.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::state::State;
use super::{File, LockTable};
use crate::locks::client::StateCounts;
use crate::locks::share::ShareCounts;

/// Memory of a map: its entries with a control byte each, at a load of seven eighths.
pub(in crate::locks) fn map<T>(capacity: usize) -> usize {
    if capacity == 0 {
        0
    } else {
        (capacity * 8 / 7).next_power_of_two() * (size_of::<T>() + 1) + 16
    }
}

/// Memory of a name that is shared, with its counters, as an allocator rounds it.
fn name(name: &[u8]) -> usize {
    (name.len() + 16 + 8).next_multiple_of(16)
}

/// Memory of a vector, as an allocator rounds it.
pub(in crate::locks) fn vector<T>(capacity: usize) -> usize {
    if capacity == 0 { 0 } else { (capacity * size_of::<T>() + 8).next_multiple_of(16) }
}

impl<K: Eq + Hash + Clone> LockTable<K> {
    /// Bytes of memory, from the sizes of types and the capacities of collections.
    pub(in crate::locks) fn footprint(&self) -> usize {
        let client = |client: &super::ClientState| {
            let owners = [&client.open_owners, &client.lock_owners];
            let owners = owners.map(|names| {
                let names_of: usize = names.keys().map(|owner| name(owner)).sum();
                names_of + map::<(std::sync::Arc<[u8]>, super::OwnerId)>(names.capacity())
            });
            name(&client.name)
                + map::<super::StateKey>(client.states.capacity())
                + owners.iter().sum::<usize>()
        };
        let state = |state: &State<K>| match state {
            State::Open(open) => open.locks.footprint(),
            State::Lock(_) | State::Revoked(_) => 0,
        };
        let file = |file: &File| file.opens.footprint() + file.ranges.footprint();
        map::<(super::ClientId, super::ClientState)>(self.clients.capacity())
            + map::<(super::StateKey, State<K>)>(self.states.capacity())
            + map::<(K, File)>(self.files.capacity())
            + self.owners.footprint()
            + self.clients.values().map(client).sum::<usize>()
            + self.states.values().map(state).sum::<usize>()
            + self.files.values().map(file).sum::<usize>()
    }

    /// The largest capacity of the maps.
    pub(in crate::locks) fn capacity(&self) -> usize {
        let maps = [self.clients.capacity(), self.states.capacity(), self.files.capacity()];
        maps.into_iter().max().unwrap_or(0)
    }

    /// Panics unless all parts agree.
    pub(in crate::locks) fn check(&self) {
        self.check_states();
        self.check_files();
        self.check_clients();
    }

    fn check_states(&self) {
        let (mut opens, mut locks, mut revoked) = (0, 0, 0);
        let mut owners = HashMap::<_, usize>::new();
        for (key, state) in &self.states {
            let client = &self.clients[&state.client()];
            assert!(client.states.contains(key));
            match state {
                State::Open(open) => {
                    opens += 1;
                    *owners.entry(open.owner).or_default() += 1;
                    assert_eq!(self.files[&open.file].opens.get(open.owner), Some(key));
                    assert!(open.seqid > 0);
                    let is_mine = |(owner, lock): (super::OwnerId, &super::StateKey)| match &self
                        .states[lock]
                    {
                        State::Lock(lock) => (lock.owner, lock.open) == (owner, *key),
                        State::Open(_) | State::Revoked(_) => false,
                    };
                    assert!(open.locks.iter().all(is_mine));
                }
                State::Lock(lock) => {
                    locks += 1;
                    *owners.entry(lock.owner).or_default() += 1;
                    let State::Open(open) = &self.states[&lock.open] else { panic!("no open") };
                    assert_eq!(open.locks.get(lock.owner), Some(key));
                    assert_eq!(open.client, lock.client);
                    assert!(lock.seqid > 0);
                }
                State::Revoked(_) => revoked += 1,
            }
        }
        let totals = self.totals;
        assert_eq!((totals.opens, totals.locks, totals.revoked), (opens, locks, revoked));
        self.owners.check(&owners);
    }

    fn check_files(&self) {
        let mut ranges = 0;
        for (key, file) in &self.files {
            assert!(!file.opens.is_empty());
            let mut shares = ShareCounts::default();
            let mut owners = HashSet::new();
            for (owner, open) in file.opens.iter() {
                let State::Open(open) = &self.states[open] else { panic!("no open") };
                assert!(open.owner == owner && open.file == *key);
                shares.add(open.history.share());
                owners.extend(open.locks.iter().map(|(owner, _)| owner));
            }
            assert_eq!(shares, file.shares);
            ranges += file.ranges.len();
            assert!(file.ranges.iter().all(|(owner, _)| owners.contains(&owner)));
        }
        assert_eq!(ranges, self.totals.ranges);
    }

    fn check_clients(&self) {
        let mut owners = 0;
        for (id, client) in &self.clients {
            let mut counts = StateCounts::default();
            for key in &client.states {
                match &self.states[key] {
                    State::Open(_) => counts.opens += 1,
                    State::Lock(_) => counts.locks += 1,
                    State::Revoked(revoked) => *counts.revoked(revoked.reason) += 1,
                }
            }
            assert_eq!(counts, client.counts);
            owners += client.owners();
            let files = self.files.values().flat_map(|file| file.ranges.iter());
            let ranges = files.filter(|(owner, _)| self.owners.client(*owner) == Some(*id));
            assert_eq!(ranges.count(), client.ranges);
        }
        assert_eq!(owners, self.owners.len());
    }
}
