//! The byte-range locks of one file.
//!
//! An owner is any key: a lock owner of NFSv4, or later one of NLM. A check against others looks at
//! each owner of the file once, with a binary search in its ranges. The kernel looks at each lock
//! of the file; a tree over the ranges of all owners would pay for files with thousands of owners
//! only.

use std::hash::Hash;

use super::range::RangeEdit;
use super::serial::SmallMap;
use super::{ByteRange, LockKind, LockedRange, RangeSet};

/// Locked ranges of a file, by owner. Owners without a range are not kept. Peers must not be able
/// to choose the keys of owners, because their hash is not a keyed one.
#[derive(Clone, Debug)]
pub struct RangeTable<O>(SmallMap<O, RangeSet>);

impl<O> Default for RangeTable<O> {
    fn default() -> Self {
        Self(SmallMap::default())
    }
}

impl<O: Copy + Eq + Hash> RangeTable<O> {
    /// Locks a range for an owner, without a check for conflicts. Replaces what the owner has
    /// there.
    pub fn lock(&mut self, owner: O, range: ByteRange, kind: LockKind) {
        let edit = self.plan(Some(owner), range, Some(kind));
        self.apply(owner, edit);
    }

    /// Unlocks a range of an owner, locked or not.
    pub fn unlock(&mut self, owner: O, range: ByteRange) {
        let edit = self.plan(Some(owner), range, None);
        self.apply(owner, edit);
    }

    /// The locks of other owners that conflict with such a lock: the first one of each owner.
    pub fn conflicts(
        &self,
        owner: Option<O>,
        range: ByteRange,
        kind: LockKind,
    ) -> impl Iterator<Item = (O, LockedRange)> + '_ {
        //= RFC 8881 18.10.3: locks of one owner never conflict with each other
        let others = self.0.iter().filter(move |(other, _)| Some(*other) != owner);
        others.filter_map(move |(other, ranges)| Some((other, ranges.conflict(range, kind)?)))
    }

    /// Removes all ranges of an owner. Returns how many there were.
    pub fn remove_owner(&mut self, owner: O) -> usize {
        self.0.remove(owner).map_or(0, |ranges| ranges.len())
    }

    /// The ranges of an owner. `None` if it has none.
    pub fn ranges(&self, owner: O) -> Option<&RangeSet> {
        self.0.get(owner)
    }

    /// Whether an owner has a range.
    pub fn has_owner(&self, owner: O) -> bool {
        self.0.get(owner).is_some()
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All ranges, by owner.
    pub fn iter(&self) -> impl Iterator<Item = (O, LockedRange)> + '_ {
        self.0.iter().flat_map(|(owner, ranges)| ranges.iter().map(move |range| (owner, range)))
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.0.values().map(RangeSet::len).sum()
    }

    /// The edit that locks a range, or unlocks it without a kind. An owner that does not exist yet
    /// has no ranges.
    pub(super) fn plan(
        &self,
        owner: Option<O>,
        range: ByteRange,
        kind: Option<LockKind>,
    ) -> RangeEdit {
        match owner.and_then(|owner| self.0.get(owner)) {
            Some(ranges) => ranges.plan(range, kind),
            None => RangeSet::default().plan(range, kind),
        }
    }

    /// Applies an edit that was planned for this owner and the table as it is.
    pub(super) fn apply(&mut self, owner: O, edit: RangeEdit) {
        let Some(ranges) = self.0.get_mut(owner) else {
            let mut ranges = RangeSet::default();
            ranges.apply(edit);
            if !ranges.is_empty() {
                self.0.insert(owner, ranges);
            }
            return;
        };
        ranges.apply(edit);
        if ranges.is_empty() {
            self.remove_owner(owner);
        }
    }

    /// For tests: bytes of memory.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        use super::table::vector;
        let sets = self.0.values().map(|set| vector::<LockedRange>(set.capacity()));
        self.0.footprint() + sets.sum::<usize>()
    }
}
