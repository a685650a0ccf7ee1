//! Lanes: work that would wait for other work queues by key, and occupies no thread.
//!
//! ```text
//!   lane of a file, width 1    try_enter --> [ runs ] --> leave --+
//!                              queue --> next, next, next         |
//!                                         ^-----------------------+ is admitted in its place
//! ```
//!
//! Pure: what waits in a lane, and which thread runs it, is up to [`super::pool`].

use std::collections::{HashMap, VecDeque};

use parking_lot::{Mutex, MutexGuard};

/// Independently locked parts, so that threads which change different files seldom contend.
const PARTS: usize = 64;

/// The lane of work that would wait for other work of the same lane. Work begins in the order in
/// which it queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Identifies the lane. Peers must not be able to choose it.
    pub key: u64,
    /// How much work of the lane may run at a time.
    pub width: usize,
}

/// The lanes that are in use. `T` is the work that waits.
pub(super) struct Lanes<T>(Vec<Mutex<HashMap<u64, Occupancy<T>>>>);

/// The work of one lane.
struct Occupancy<T> {
    /// How much runs. Equals the width while any waits.
    running: usize,
    waiting: VecDeque<T>,
}

impl<T> Default for Occupancy<T> {
    fn default() -> Self {
        Self { running: 0, waiting: VecDeque::new() }
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }
}

impl<T> Lanes<T> {
    /// Admits the caller to a lane and returns true, unless the lane is full.
    pub(super) fn try_enter(&self, lane: Lane) -> bool {
        let mut part = self.part(lane);
        let occupancy = part.entry(lane.key).or_default();
        let admitted = occupancy.running < lane.width;
        occupancy.running += usize::from(admitted);
        admitted
    }

    /// Queues `work` in a full lane; otherwise admits it and gives it back.
    pub(super) fn queue(&self, lane: Lane, work: T) -> Option<T> {
        let mut part = self.part(lane);
        let occupancy = part.entry(lane.key).or_default();
        if occupancy.running < lane.width {
            occupancy.running += 1;
            return Some(work);
        }
        occupancy.waiting.push_back(work);
        None
    }

    /// Ends work of a lane; returns the work that is admitted in its place.
    pub(super) fn leave(&self, lane: Lane) -> Option<T> {
        let mut part = self.part(lane);
        let occupancy = part.get_mut(&lane.key)?;
        let next = occupancy.waiting.pop_front();
        if next.is_none() {
            occupancy.running -= 1;
            if occupancy.running == 0 {
                part.remove(&lane.key);
            }
        }
        next
    }

    /// How much work waits.
    pub(super) fn waiting(&self) -> usize {
        let count = |part: &Mutex<HashMap<u64, Occupancy<T>>>| {
            part.lock().values().map(|occupancy| occupancy.waiting.len()).sum::<usize>()
        };
        self.0.iter().map(count).sum()
    }

    /// Whether no lane is in use.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.lock().is_empty())
    }

    fn part(&self, lane: Lane) -> MutexGuard<'_, HashMap<u64, Occupancy<T>>> {
        #[allow(clippy::cast_possible_truncation)] // below PARTS
        self.0[(lane.key % PARTS as u64) as usize].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leaving_admits_the_first_that_waits() {
        let (lanes, lane) = (Lanes::default(), Lane { key: 7, width: 1 });
        assert!(lanes.try_enter(lane) && !lanes.try_enter(lane));
        assert!(lanes.try_enter(Lane { key: 8, width: 1 }));
        assert_eq!(lanes.queue(lane, 'a'), None);
        assert_eq!(lanes.queue(lane, 'b'), None);
        assert_eq!(lanes.waiting(), 2);
        assert_eq!(lanes.leave(lane), Some('a'));
        assert!(!lanes.try_enter(lane), "the lane is full");
        assert_eq!(lanes.leave(lane), Some('b'));
        assert_eq!(lanes.leave(lane), None);
        assert_eq!(lanes.queue(lane, 'c'), Some('c'));
    }

    proptest! {
        /// In any order of steps: no more runs than the width, work begins in its order, none waits
        /// while the lane is not full, and nothing is kept of a lane that is empty.
        #[test]
        fn a_lane_is_as_full_as_it_can_be(
            width in 1..4_usize,
            steps in prop::collection::vec(0..3, 1..200),
        ) {
            let (lanes, lane) = (Lanes::default(), Lane { key: 1, width });
            let (mut running, mut came, mut next) = (0, 0, 0);
            for step in steps {
                match step {
                    0 if lanes.try_enter(lane) => running += 1,
                    0 => prop_assert_eq!(running, width),
                    1 => match lanes.queue(lane, came) {
                        Some(it) => {
                            prop_assert_eq!((it, came), (came, next));
                            (running, came, next) = (running + 1, came + 1, next + 1);
                        }
                        None => came += 1,
                    },
                    _ if running > 0 => match lanes.leave(lane) {
                        Some(it) => {
                            prop_assert_eq!(it, next);
                            next += 1;
                        }
                        None => running -= 1,
                    },
                    _ => {}
                }
                prop_assert!(running <= width);
                prop_assert!(running == width || came == next);
                prop_assert_eq!(lanes.waiting(), came - next);
            }
            for _ in 0..running + came - next {
                lanes.leave(lane);
            }
            prop_assert!(lanes.is_empty());
        }
    }
}
