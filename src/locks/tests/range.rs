//! Byte ranges by themselves, and against a map of bytes.

use proptest::prelude::*;

use super::super::*;
use super::bytes;
use LockKind::{Read, Write};

const END: u64 = u64::MAX;

fn set(locks: &[(u64, u64, Option<LockKind>)]) -> Vec<(u64, u64, LockKind)> {
    let mut set = RangeSet::default();
    for (offset, length, kind) in locks {
        match kind {
            Some(kind) => set.lock(bytes(*offset, *length), *kind),
            None => set.unlock(bytes(*offset, *length)),
        }
    }
    assert_eq!(set.iter().count(), set.len());
    set.iter().map(parts).collect()
}

/// Offset, length and kind of a range.
fn parts(locked: LockedRange) -> (u64, u64, LockKind) {
    (locked.range.offset(), locked.range.length(), locked.kind)
}

//= test RFC 8881 18.10.3
#[test]
fn ranges_that_are_empty_or_overflow_are_invalid() {
    let check = |offset, length, expected: Option<(u64, u64)>| {
        let range = ByteRange::new(offset, length);
        let got = range.as_ref().ok().map(|range| (range.offset(), range.length()));
        assert_eq!(got, expected, "{offset} {length}");
        assert!(range.is_ok() || range == Err(LockError::InvalidRange));
    };
    check(0, 0, None);
    check(END, 0, None);
    check(0, 1, Some((0, 1)));
    check(0, END, Some((0, END)));
    check(END, END, Some((END, END)));
    check(END, 1, None);
    check(END - 1, 1, Some((END - 1, 1)));
    check(1, END - 1, Some((1, END - 1)));
    check(2, END - 1, None);
    check(1 << 40, END - (1 << 40), Some((1 << 40, END - (1 << 40))));
}

//= test RFC 8881 9.2
#[test]
fn neighbours_of_one_kind_are_one_range() {
    let (r, w) = (Some(Read), Some(Write));
    assert_eq!(set(&[(0, 10, r), (10, 10, r)]), [(0, 20, Read)]);
    assert_eq!(set(&[(10, 10, r), (0, 10, r)]), [(0, 20, Read)]);
    assert_eq!(set(&[(0, 10, r), (20, 10, r), (10, 10, r)]), [(0, 30, Read)]);
    assert_eq!(set(&[(0, 10, r), (11, 10, r)]), [(0, 10, Read), (11, 10, Read)]);
    assert_eq!(set(&[(0, 10, r), (10, 10, w)]), [(0, 10, Read), (10, 10, Write)]);
    assert_eq!(set(&[(0, END, r), (5, 5, None)]), [(0, 5, Read), (10, END, Read)]);
    assert_eq!(set(&[(0, END, r), (5, 5, None), (0, END, w)]), [(0, END, Write)]);
}

#[test]
fn a_lock_replaces_what_the_owner_has_there() {
    let (r, w) = (Some(Read), Some(Write));
    let split = [(0, 10, Read), (10, 10, Write), (20, 10, Read)];
    assert_eq!(set(&[(0, 30, r), (10, 10, w)]), split);
    assert_eq!(set(&[(0, 30, r), (10, 10, w), (10, 10, r)]), [(0, 30, Read)]);
    assert_eq!(set(&[(0, 30, r), (20, 20, w)]), [(0, 20, Read), (20, 20, Write)]);
    assert_eq!(set(&[(10, 30, r), (0, 20, w)]), [(0, 20, Write), (20, 20, Read)]);
    assert_eq!(set(&[(0, 30, w), (0, 30, None)]), []);
    assert_eq!(set(&[(END, END, w), (END, END, None)]), []);
    assert_eq!(set(&[(0, END, w), (END, END, None)]).len(), 1);
    assert_eq!(set(&[(5, 5, None)]), []);
}

/// The space of the model: single bytes at both ends, and all that is between as one.
const CELLS: usize = 25;
const MIDDLE: usize = 12;

/// Offset and length of the range from one cell to another one.
fn cells(first: usize, last: usize) -> (u64, u64) {
    let from_end = |cell: usize| END - (CELLS - 1 - cell) as u64;
    let start = if first <= MIDDLE { first as u64 } else { from_end(first) };
    let last = if last < MIDDLE { last as u64 } else { from_end(last) };
    (start, if last == END { END } else { last - start + 1 })
}

/// The kind of lock that an owner has of each cell.
type Naive = [Option<LockKind>; CELLS];

/// The ranges of a model: each run of one kind.
fn runs(naive: &Naive) -> Vec<(u64, u64, LockKind)> {
    let mut runs = Vec::new();
    let mut first = 0;
    while first < CELLS {
        let same = naive[first..].iter().take_while(|kind| **kind == naive[first]).count();
        if let Some(kind) = naive[first] {
            let (offset, length) = cells(first, first + same - 1);
            runs.push((offset, length, kind));
        }
        first += same;
    }
    runs
}

fn kinds() -> impl Strategy<Value = LockKind> {
    prop_oneof![Just(Read), Just(Write)]
}

proptest! {
    #[test]
    fn a_table_is_a_map_of_bytes(
        steps in prop::collection::vec(
            (0_usize..3, 0..CELLS, 0..CELLS, prop::option::weighted(0.7, kinds())),
            1..200,
        )
    ) {
        let mut table = RangeTable::<usize>::default();
        let mut naive: [Naive; 3] = [[None; CELLS]; 3];
        for (owner, a, b, kind) in steps {
            let (first, last) = (a.min(b), a.max(b));
            if (first, last) == (0, CELLS - 2) {
                continue; // Its length is 2^64-1, so that no request can have this range.
            }
            let (offset, length) = cells(first, last);
            let range = bytes(offset, length);
            let asked = kind.unwrap_or(Read);
            let held = |other: &usize| {
                let held = naive[*other][first..=last].iter().flatten();
                *other != owner && held.clone().any(|kind| kind.conflicts_with(asked))
            };
            let expected: Vec<_> = (0..3).filter(held).collect();
            let conflicts = table.conflicts(Some(owner), range, asked);
            let mut conflicts: Vec<_> = conflicts.collect();
            conflicts.sort_unstable_by_key(|(owner, _)| *owner);
            for (other, locked) in &conflicts {
                prop_assert!(locked.range.overlaps(range));
                prop_assert!(runs(&naive[*other]).contains(&parts(*locked)));
            }
            let conflicts: Vec<_> = conflicts.into_iter().map(|(other, _)| other).collect();
            prop_assert_eq!(&conflicts, &expected);
            let before = table.len();
            let growth = table.plan(Some(owner), range, kind).growth();
            match kind {
                Some(kind) if conflicts.is_empty() => table.lock(owner, range, kind),
                Some(_) => continue,
                None => table.unlock(owner, range),
            }
            naive[owner][first..=last].fill(kind);
            prop_assert_eq!(table.len().cast_signed() - before.cast_signed(), growth);
            for (owner, naive) in naive.iter().enumerate() {
                let ranges = table.ranges(owner).into_iter().flat_map(RangeSet::iter).map(parts);
                prop_assert_eq!(ranges.collect::<Vec<_>>(), runs(naive));
            }
        }
        for (owner, naive) in naive.iter().enumerate() {
            prop_assert_eq!(table.remove_owner(owner), runs(naive).len());
        }
        prop_assert!(table.is_empty());
    }
}
