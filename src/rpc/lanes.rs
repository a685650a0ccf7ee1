//! Lanes: who would only wait for another call stands in line, and holds no thread.
//!
//! ```text
//!   lane of a file, width 1    enter --> [ runs ] --> leave ---+
//!                              line_up --> next, next, next    |
//!                                           ^------------------+ takes its place
//! ```
//!
//! Pure: what waits in a lane, and who runs it, is for [`super::pool`].

use std::collections::{HashMap, VecDeque};

use parking_lot::{Mutex, MutexGuard};

/// Parts, each with a lock of its own, so that threads which change different files seldom meet.
const PARTS: usize = 64;

/// Calls that would wait for each other. They begin in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The same for all of them, and of nobody's choice.
    pub key: u64,
    /// How many may run at a time.
    pub width: usize,
}

/// The lanes in which there is something. `T` is what waits.
pub(super) struct Lanes<T>(Vec<Mutex<HashMap<u64, Line<T>>>>);

/// What there is in a lane.
struct Line<T> {
    /// How many have begun and not ended. As many as may, if anybody waits.
    begun: usize,
    waiting: VecDeque<T>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { begun: 0, waiting: VecDeque::new() }
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }
}

impl<T> Lanes<T> {
    /// Begins in a lane, if there is a place.
    pub(super) fn enter(&self, lane: Lane) -> bool {
        let mut part = self.part(lane);
        let line = part.entry(lane.key).or_default();
        let may = line.begun < lane.width;
        line.begun += usize::from(may);
        may
    }

    /// Has `next` wait in a lane; gives it back if it may begin.
    pub(super) fn line_up(&self, lane: Lane, next: T) -> Option<T> {
        let mut part = self.part(lane);
        let line = part.entry(lane.key).or_default();
        if line.begun < lane.width {
            line.begun += 1;
            return Some(next);
        }
        line.waiting.push_back(next);
        None
    }

    /// Ends in a lane; answers who takes the place.
    pub(super) fn leave(&self, lane: Lane) -> Option<T> {
        let mut part = self.part(lane);
        let line = part.get_mut(&lane.key)?;
        let next = line.waiting.pop_front();
        if next.is_none() {
            line.begun -= 1;
            if line.begun == 0 {
                part.remove(&lane.key);
            }
        }
        next
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        let count = |part: &Mutex<HashMap<u64, Line<T>>>| {
            lock(part).values().map(|line| line.waiting.len()).sum::<usize>()
        };
        self.0.iter().map(count).sum()
    }

    /// Whether nothing is kept of any lane.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| lock(part).is_empty())
    }

    fn part(&self, lane: Lane) -> MutexGuard<'_, HashMap<u64, Line<T>>> {
        #[allow(clippy::cast_possible_truncation)] // below PARTS
        lock(&self.0[(lane.key % PARTS as u64) as usize])
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_leaves_gives_the_place_to_the_first_who_waits() {
        let (lanes, lane) = (Lanes::default(), Lane { key: 7, width: 1 });
        assert!(lanes.enter(lane) && !lanes.enter(lane));
        assert!(lanes.enter(Lane { key: 8, width: 1 }));
        assert_eq!(lanes.line_up(lane, 'a'), None);
        assert_eq!(lanes.line_up(lane, 'b'), None);
        assert_eq!(lanes.waiting(), 2);
        assert_eq!(lanes.leave(lane), Some('a'));
        assert!(!lanes.enter(lane), "the place is taken");
        assert_eq!(lanes.leave(lane), Some('b'));
        assert_eq!(lanes.leave(lane), None);
        assert_eq!(lanes.line_up(lane, 'c'), Some('c'));
    }

    proptest! {
        /// Whatever the order: never more than may, nobody overtakes, and nobody waits while there
        /// is a place; nothing is kept of a lane that is empty.
        #[test]
        fn a_lane_is_as_full_as_it_can_be(width in 1..4_usize, steps in prop::collection::vec(0..3, 1..200)) {
            let (lanes, lane) = (Lanes::default(), Lane { key: 1, width });
            let (mut begun, mut came, mut next) = (0, 0, 0);
            for step in steps {
                match step {
                    0 if lanes.enter(lane) => begun += 1,
                    0 => prop_assert_eq!(begun, width),
                    1 => match lanes.line_up(lane, came) {
                        Some(it) => {
                            prop_assert_eq!((it, came), (came, next));
                            (begun, came, next) = (begun + 1, came + 1, next + 1);
                        }
                        None => came += 1,
                    },
                    _ if begun > 0 => match lanes.leave(lane) {
                        Some(it) => {
                            prop_assert_eq!(it, next);
                            next += 1;
                        }
                        None => begun -= 1,
                    },
                    _ => {}
                }
                prop_assert!(begun <= width);
                prop_assert!(begun == width || came == next);
                prop_assert_eq!(lanes.waiting(), came - next);
            }
            for _ in 0..begun + came - next {
                lanes.leave(lane);
            }
            prop_assert!(lanes.is_empty());
        }
    }
}
