//! Group commit: callers that wait for the same flush.
//!
//! ```text
//!   caller A: joins, flush 1 begins ------------ ends
//!   caller B:            joins                   flush 2 begins -------- ends
//!   caller C:               joins                .......................
//! ```
//!
//! A flush covers the changes made before it began. Callers that join while one is running share
//! the next one. Pure: [`super::flush`] decides which thread flushes, and when.

use parking_lot::{Mutex, MutexGuard};

use crate::errno::Result;

/// A function that is called with the result of a flush, on any thread. It must not block.
pub type Waiter = Box<dyn FnOnce(Result<()>) + Send>;

/// The callers that wait for flushes of one object. `T` is what the next flush has to cover.
#[derive(Default)]
pub(super) struct GroupCommit<T>(Mutex<Group<T>>);

#[derive(Default)]
struct Group<T> {
    /// Whether a flush is running, or about to.
    busy: bool,
    request: T,
    waiting: Vec<Waiter>,
    /// The number of callers that waited for the last flush.
    shared: usize,
}

/// What the caller has to do about the next flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin it.
    Begin,
    /// Nothing: no caller waits for one, or it begins when the running one has ended.
    Nothing,
}

impl<T: Default> GroupCommit<T> {
    /// Adds a caller to the next flush, and what it has to cover for that caller.
    pub(super) fn join(&self, add: impl FnOnce(&mut T), waiter: Waiter) -> Next {
        let mut group = self.group();
        add(&mut group.request);
        group.waiting.push(waiter);
        if std::mem::replace(&mut group.busy, true) { Next::Nothing } else { Next::Begin }
    }

    /// Whether no caller waits for a flush, and at most one waited for the last.
    pub(super) fn is_quiet(&self) -> bool {
        let group = self.group();
        !group.busy && group.shared <= 1
    }

    /// Whether a flush is running, or about to.
    pub(super) fn is_busy(&self) -> bool {
        self.group().busy
    }

    /// Begins the flush that is due. Returns what it has to cover, and the callers that wait for
    /// it.
    pub(super) fn begin(&self) -> (T, Vec<Waiter>) {
        let mut group = self.group();
        group.shared = group.waiting.len();
        (std::mem::take(&mut group.request), std::mem::take(&mut group.waiting))
    }

    /// Ends the flush.
    pub(super) fn end(&self) -> Next {
        let mut group = self.group();
        group.busy = !group.waiting.is_empty();
        if group.busy { Next::Begin } else { Next::Nothing }
    }

    fn group(&self) -> MutexGuard<'_, Group<T>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn nobody() -> Waiter {
        Box::new(|_| ())
    }

    #[test]
    fn a_caller_that_joins_during_a_flush_needs_another() {
        let group = GroupCommit::<u32>::default();
        assert_eq!(group.join(|wanted| *wanted = 1, nobody()), Next::Begin);
        assert_eq!(group.begin().0, 1);
        assert_eq!(group.join(|wanted| *wanted = 2, nobody()), Next::Nothing);
        assert_eq!(group.end(), Next::Begin);
        assert_eq!(group.begin().0, 2);
        assert_eq!(group.end(), Next::Nothing);
    }

    #[test]
    fn waiting_callers_share_a_flush() {
        let group = GroupCommit::<u32>::default();
        group.join(|wanted| *wanted += 1, nobody());
        group.begin();
        for _ in 0..63 {
            assert_eq!(group.join(|wanted| *wanted += 1, nobody()), Next::Nothing);
        }
        assert_eq!(group.end(), Next::Begin);
        let (wanted, waiting) = group.begin();
        assert_eq!((wanted, waiting.len()), (63, 63));
    }

    proptest! {
        /// In any order, each caller waits for the first flush that begins after it joined, and
        /// flushes never overlap.
        #[test]
        fn no_caller_is_notified_early_or_forgotten(steps in prop::collection::vec(any::<bool>(), 1..200)) {
            let (group, told) = (GroupCommit::<usize>::default(), Arc::new(AtomicUsize::new(0)));
            let (mut came, mut covered) = (0, 0);
            let (mut next, mut running) = (Next::Nothing, None);
            let flush = |running: &mut Option<Vec<Waiter>>, next: &mut Next, covered: &mut usize| {
                if let Some(waiting) = running.take() {
                    *next = group.end();
                    waiting.into_iter().for_each(|waiter| waiter(Ok(())));
                } else if *next == Next::Begin {
                    let (wanted, waiting) = group.begin();
                    *covered += wanted;
                    *running = Some(waiting);
                    *next = Next::Nothing;
                }
            };
            for joins in steps {
                if joins {
                    let told = Arc::clone(&told);
                    let waiter = Box::new(move |_| {
                        told.fetch_add(1, Ordering::Relaxed);
                    });
                    came += 1;
                    let answer = group.join(|wanted| *wanted += 1, waiter);
                    prop_assert!(answer == Next::Nothing || (next == Next::Nothing && running.is_none()));
                    if answer == Next::Begin {
                        next = Next::Begin;
                    }
                } else {
                    flush(&mut running, &mut next, &mut covered);
                }
                prop_assert!(told.load(Ordering::Relaxed) <= covered);
                prop_assert!(running.is_some() || told.load(Ordering::Relaxed) == covered);
            }
            (0..4).for_each(|_| flush(&mut running, &mut next, &mut covered));
            prop_assert_eq!(told.load(Ordering::Relaxed), came);
        }
    }
}
