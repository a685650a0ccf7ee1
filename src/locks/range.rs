//! Byte ranges, and the ranges that one owner has locked in one file.
//!
//! A [`RangeSet`] is sorted, its ranges do not overlap, and neighbours of the same kind are one
//! range. A lock replaces what the owner had in its range (RFC 8881 section 9.3): a read lock
//! becomes a write lock, or the reverse, without a gap. An unlock may split a range in two.

use super::LockError;

/// Kind of a byte-range lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Shared: conflicts with locks for writing.
    Read,
    /// Exclusive: conflicts with every lock.
    Write,
}

impl LockKind {
    /// Whether locks of these kinds, of different owners, conflict where they overlap.
    pub fn conflicts_with(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }
}

/// A range of bytes that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    last: u64,
}

impl ByteRange {
    /// The length of a range that has no end.
    pub const TO_END: u64 = u64::MAX;

    /// The range of `length` bytes from `offset`, or to the end if the length is [`Self::TO_END`].
    ///
    /// # Errors
    /// `InvalidRange` if the range is empty or exceeds the largest offset.
    pub fn new(offset: u64, length: u64) -> Result<Self, LockError> {
        //= RFC 8881 18.10.3: a length of 2^64-1 locks to the end of the file, whatever its size
        if length == Self::TO_END {
            return Ok(Self { start: offset, last: u64::MAX });
        }
        //= RFC 8881 18.10.3: a length of zero, or one with which the range overflows, is INVAL
        match offset.checked_add(length) {
            Some(end) if length > 0 => Ok(Self { start: offset, last: end - 1 }),
            _ => Err(LockError::InvalidRange),
        }
    }

    /// The first byte.
    pub fn offset(self) -> u64 {
        self.start
    }

    /// The number of bytes, or [`Self::TO_END`] if the range has no end.
    pub fn length(self) -> u64 {
        if self.last == u64::MAX { Self::TO_END } else { self.last - self.start + 1 }
    }

    /// Whether the ranges have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// A range that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockedRange {
    /// Bytes that are locked.
    pub range: ByteRange,
    /// Kind of the lock.
    pub kind: LockKind,
}

/// The locked ranges of one owner in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<LockedRange>);

/// Replacement of some ranges of a set by up to three: what remains on the left, the new range, and
/// what remains on the right.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeEdit {
    from: usize,
    to: usize,
    new: [Option<LockedRange>; 3],
}

impl RangeEdit {
    /// How many ranges the set gains. Negative if it loses some.
    pub(super) fn growth(&self) -> isize {
        let new = self.new.iter().flatten().count();
        new.cast_signed() - (self.to - self.from).cast_signed()
    }
}

impl RangeSet {
    /// Locks a range. Replaces what the set had there.
    pub fn lock(&mut self, range: ByteRange, kind: LockKind) {
        self.apply(self.plan(range, Some(kind)));
    }

    /// Unlocks a range, locked or not.
    pub fn unlock(&mut self, range: ByteRange) {
        self.apply(self.plan(range, None));
    }

    /// The first range that conflicts with such a lock of another owner.
    pub fn conflict(&self, range: ByteRange, kind: LockKind) -> Option<LockedRange> {
        self.overlapping(range).find(|locked| locked.kind.conflicts_with(kind)).copied()
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = LockedRange> + '_ {
        self.0.iter().copied()
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ranges that have bytes in common with another one.
    fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = &LockedRange> {
        let from = self.0.partition_point(|locked| locked.range.last < range.start);
        self.0[from..].iter().take_while(move |locked| locked.range.start <= range.last)
    }

    /// The edit that locks a range, or unlocks it without a kind.
    pub(super) fn plan(&self, range: ByteRange, kind: Option<LockKind>) -> RangeEdit {
        let mut from = self.0.partition_point(|locked| locked.range.last < range.start);
        let mut to = self.0.partition_point(|locked| locked.range.start <= range.last);
        if let Some(kind) = kind {
            //= RFC 8881 9.2: adjacent ranges of one owner and kind are one lock
            let before = from.checked_sub(1).map(|at| self.0[at]);
            if before.is_some_and(|b| b.kind == kind && b.range.last + 1 == range.start) {
                from -= 1;
            }
            let after = self.0.get(to);
            if after.is_some_and(|a| a.kind == kind && range.last + 1 == a.range.start) {
                to += 1;
            }
        }
        let (mut merged, mut left, mut right) = (range, None, None);
        if let [first, ..] = self.0[from..to]
            && first.range.start < range.start
        {
            if Some(first.kind) == kind {
                merged.start = first.range.start;
            } else {
                let rest = ByteRange { start: first.range.start, last: range.start - 1 };
                left = Some(LockedRange { range: rest, ..first });
            }
        }
        if let [.., last] = self.0[from..to]
            && last.range.last > range.last
        {
            if Some(last.kind) == kind {
                merged.last = last.range.last;
            } else {
                let rest = ByteRange { start: range.last + 1, last: last.range.last };
                right = Some(LockedRange { range: rest, ..last });
            }
        }
        let new = kind.map(|kind| LockedRange { range: merged, kind });
        RangeEdit { from, to, new: [left, new, right] }
    }

    /// Applies an edit that was planned for the set as it is.
    pub(super) fn apply(&mut self, edit: RangeEdit) {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(1); // Most owners lock one range.
        }
        self.0.splice(edit.from..edit.to, edit.new.into_iter().flatten());
        if self.0.capacity() > 16 && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// For tests: how many ranges there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
