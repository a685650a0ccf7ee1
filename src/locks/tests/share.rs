//! Share reservations by themselves, and against a list of opens.

use proptest::prelude::*;

use super::super::share::{ShareCounts, ShareHistory};
use super::super::*;
use super::share;

//= test RFC 8881 18.16.3
#[test]
fn no_access_and_unknown_modes_are_invalid() {
    for (access, deny) in [(0, 0), (4, 0), (1, 4), (0x101, 0), (u32::MAX, 0), (3, u32::MAX)] {
        assert_eq!(Share::from_bits(access, deny), Err(LockError::InvalidShare));
    }
    for (access, deny) in modes() {
        let share = share((access, deny));
        assert_eq!((u32::from(share.access.bits()), u32::from(share.deny.bits())), (access, deny));
    }
}

fn modes() -> impl Iterator<Item = (u32, u32)> {
    (1..=3).flat_map(|access| (0..=3).map(move |deny| (access, deny)))
}

//= test RFC 8881 9.7
#[test]
fn opens_conflict_if_one_denies_what_the_other_may() {
    for ((access, deny), (other_access, other_deny)) in
        modes().flat_map(|one| modes().map(move |other| (one, other)))
    {
        let expected = access & other_deny != 0 || deny & other_access != 0;
        let [one, other] = [(access, deny), (other_access, other_deny)].map(share);
        assert_eq!(one.conflicts_with(other), expected);
        assert_eq!(other.conflicts_with(one), expected);
        let mut counts = ShareCounts::default();
        counts.add(other);
        assert_eq!(counts.conflict_with(one), expected);
        assert_eq!(counts.deny(one.access), other.denies(one.access));
        counts.remove(other);
        assert_eq!(counts, ShareCounts::default());
    }
}

//= test RFC 8881 18.18.3
#[test]
fn a_downgrade_goes_back_to_what_was_opened() {
    let check = |opens: &[(u32, u32)], to, expected: bool| {
        let history = opens[1..]
            .iter()
            .fold(ShareHistory::new(share(opens[0])), |history, open| history.with(share(*open)));
        let downgraded = history.downgraded(share(to));
        assert_eq!(downgraded.is_ok(), expected, "{opens:?} to {to:?}");
        if let Ok(downgraded) = downgraded {
            assert_eq!(downgraded.share(), share(to));
        }
    };
    check(&[(1, 0), (3, 0)], (1, 0), true);
    check(&[(1, 0), (3, 0)], (2, 0), false);
    check(&[(3, 0)], (1, 0), false);
    check(&[(3, 0)], (3, 0), true);
    check(&[(1, 0), (2, 0)], (3, 0), true);
    check(&[(2, 0), (3, 0)], (1, 0), false);
    check(&[(1, 0)], (3, 0), false);
    check(&[(1, 1), (1, 2)], (1, 1), true);
    check(&[(1, 1), (1, 2)], (1, 3), true);
    check(&[(1, 1), (1, 2)], (1, 0), false);
    check(&[(1, 3)], (1, 1), false);
    check(&[(1, 0), (1, 3)], (1, 0), true);
}

proptest! {
    /// The history answers as a list of all OPENs would, of which a downgrade keeps those within
    /// it.
    #[test]
    fn a_history_is_a_list_of_opens(
        first in (1_u32..4, 0_u32..4),
        steps in prop::collection::vec((any::<bool>(), 1_u32..4, 0_u32..4), 0..30),
    ) {
        let mut history = ShareHistory::new(share(first));
        let mut opens = vec![first];
        for (is_open, access, deny) in steps {
            if is_open {
                history = history.with(share((access, deny)));
                opens.push((access, deny));
            } else {
                let accesses = opens.iter().map(|(a, _)| *a).filter(|a| a & !access == 0);
                let denies = opens.iter().map(|(_, d)| *d).filter(|d| d & !deny == 0);
                let possible = accesses.clone().fold(0, |all, a| all | a) == access
                    && denies.clone().fold(None, |all, d| Some(all.unwrap_or(0) | d)) == Some(deny);
                let (accesses, denies) = (accesses.collect::<Vec<_>>(), denies.collect::<Vec<_>>());
                match history.downgraded(share((access, deny))) {
                    Ok(downgraded) => {
                        prop_assert!(possible);
                        history = downgraded;
                        // Access and denial are independent of each other.
                        let pairs = accesses.iter().flat_map(|a| denies.iter().map(|d| (*a, *d)));
                        opens = pairs.collect();
                        opens.sort_unstable();
                        opens.dedup();
                    }
                    Err(error) => {
                        prop_assert!(!possible);
                        prop_assert_eq!(error, LockError::InvalidShare);
                    }
                }
            }
            let union = opens.iter().fold((0, 0), |(a, d), (access, deny)| (a | access, d | deny));
            prop_assert_eq!(history.share(), share(union));
        }
    }
}
