//! Open owners and lock owners, by number.
//!
//! An owner exists as long as it has a state. In NFSv4.1 it has no sequence of its own, so nothing
//! of it must be remembered after its last state.

use std::collections::HashMap;
use std::sync::Arc;

use super::ClientId;
use super::client::ClientState;
use super::serial::{SerialMap, shrink};

/// Identifies an owner of any client. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OwnerId(u64);

/// Kind of an owner. The names of the two kinds are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerKind {
    Open,
    Lock,
}

/// An owner that has at least one state.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) client: ClientId,
    pub(super) name: Arc<[u8]>,
    kind: OwnerKind,
    states: usize,
}

/// All owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    owners: SerialMap<OwnerId, Owner>,
    issued: u64,
}

impl Owners {
    /// The number of owners.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The owner with this number.
    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.owners.get(&id)
    }

    /// The client of an owner.
    pub(super) fn client(&self, id: OwnerId) -> Option<ClientId> {
        self.owners.get(&id).map(|owner| owner.client)
    }

    /// Counts a state of an owner, which begins with its first one.
    pub(super) fn enter(
        &mut self,
        id: ClientId,
        client: &mut ClientState,
        kind: OwnerKind,
        name: &[u8],
    ) -> OwnerId {
        let names = names(client, kind);
        if let Some(&owner) = names.get(name) {
            if let Some(owner) = self.owners.get_mut(&owner) {
                owner.states += 1;
            }
            return owner;
        }
        self.issued += 1;
        let owner = OwnerId(self.issued);
        let name: Arc<[u8]> = name.into();
        names.insert(name.clone(), owner);
        self.owners.insert(owner, Owner { client: id, name, kind, states: 1 });
        owner
    }

    /// Removes a state of an owner, which ends with its last one. Returns how many are left.
    pub(super) fn leave(&mut self, client: &mut ClientState, id: OwnerId) -> usize {
        let Some(owner) = self.owners.get_mut(&id) else { return 0 };
        owner.states -= 1;
        if owner.states > 0 {
            return owner.states;
        }
        let names = names(client, owner.kind);
        names.remove(&owner.name);
        shrink(names);
        self.owners.remove(&id);
        shrink(&mut self.owners);
        0
    }

    /// For tests: bytes of memory, without the names.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        (self.owners.capacity() * 8 / 7).next_power_of_two() * (size_of::<(OwnerId, Owner)>() + 1)
    }

    /// For tests: panics unless there are these owners with as many states.
    #[cfg(test)]
    pub(super) fn check(&self, states: &HashMap<OwnerId, usize>) {
        assert_eq!(states.len(), self.owners.len());
        assert!(self.owners.iter().all(|(id, owner)| states[id] == owner.states));
    }
}

/// The names of a client's owners of one kind.
fn names(client: &mut ClientState, kind: OwnerKind) -> &mut HashMap<Arc<[u8]>, OwnerId> {
    match kind {
        OwnerKind::Open => &mut client.open_owners,
        OwnerKind::Lock => &mut client.lock_owners,
    }
}
