//! Who waits for the same flush.
//!
//! ```text
//!   caller A: joins, flush 1 begins ------------ ends
//!   caller B:            joins                   flush 2 begins -------- ends
//!   caller C:               joins                .......................
//! ```
//!
//! A flush covers what was changed before it began, so that whoever comes while one is running
//! needs the next one, and all of those share that. Pure: who flushes, and when, is for
//! [`super::flush`].

use parking_lot::{Mutex, MutexGuard};

use crate::errno::Result;

/// Is told how a flush ended, from any thread. It must not block.
pub type Waiter = Box<dyn FnOnce(Result<()>) + Send>;

/// Those who wait for flushes of one thing. `T` is what the next one has to cover.
#[derive(Default)]
pub(super) struct Group<T>(Mutex<State<T>>);

#[derive(Default)]
struct State<T> {
    /// Whether a flush is running, or about to.
    busy: bool,
    wanted: T,
    waiting: Vec<Waiter>,
    /// How many waited for the last flush.
    shared: usize,
}

/// Whether somebody has to see to the next flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has to be begun.
    Due,
    /// Nobody waits for one, or it will be begun when the one that is running has ended.
    Settled,
}

impl<T: Default> Group<T> {
    /// Waits for the next flush, which has to cover what `want` adds.
    pub(super) fn join(&self, want: impl FnOnce(&mut T), waiter: Waiter) -> Next {
        let mut state = self.state();
        want(&mut state.wanted);
        state.waiting.push(waiter);
        if std::mem::replace(&mut state.busy, true) { Next::Settled } else { Next::Due }
    }

    /// Whether nobody waits for a flush, and at most one did for the last.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state();
        !state.busy && state.shared <= 1
    }

    /// Whether a flush is running, or about to.
    pub(super) fn is_busy(&self) -> bool {
        self.state().busy
    }

    /// Begins the flush that is due: what it has to cover, and who waits for it.
    pub(super) fn begin(&self) -> (T, Vec<Waiter>) {
        let mut state = self.state();
        state.shared = state.waiting.len();
        (std::mem::take(&mut state.wanted), std::mem::take(&mut state.waiting))
    }

    /// Ends the flush.
    pub(super) fn end(&self) -> Next {
        let mut state = self.state();
        state.busy = !state.waiting.is_empty();
        if state.busy { Next::Due } else { Next::Settled }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
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
    fn whoever_comes_during_a_flush_needs_another() {
        let group = Group::<u32>::default();
        assert_eq!(group.join(|wanted| *wanted = 1, nobody()), Next::Due);
        assert_eq!(group.begin().0, 1);
        assert_eq!(group.join(|wanted| *wanted = 2, nobody()), Next::Settled);
        assert_eq!(group.end(), Next::Due);
        assert_eq!(group.begin().0, 2);
        assert_eq!(group.end(), Next::Settled);
    }

    #[test]
    fn those_who_wait_share_one() {
        let group = Group::<u32>::default();
        group.join(|wanted| *wanted += 1, nobody());
        group.begin();
        for _ in 0..63 {
            assert_eq!(group.join(|wanted| *wanted += 1, nobody()), Next::Settled);
        }
        assert_eq!(group.end(), Next::Due);
        let (wanted, waiting) = group.begin();
        assert_eq!((wanted, waiting.len()), (63, 63));
    }

    proptest! {
        /// Whatever the order: each waits for a flush that begins after it came, and for no later
        /// one; there is never more than one at a time.
        #[test]
        fn nobody_is_told_early_or_forgotten(steps in prop::collection::vec(any::<bool>(), 1..200)) {
            let (group, told) = (Group::<usize>::default(), Arc::new(AtomicUsize::new(0)));
            let (mut came, mut covered) = (0, 0);
            let (mut next, mut running) = (Next::Settled, None);
            let flush = |running: &mut Option<Vec<Waiter>>, next: &mut Next, covered: &mut usize| {
                if let Some(waiting) = running.take() {
                    *next = group.end();
                    waiting.into_iter().for_each(|waiter| waiter(Ok(())));
                } else if *next == Next::Due {
                    let (wanted, waiting) = group.begin();
                    *covered += wanted;
                    *running = Some(waiting);
                    *next = Next::Settled;
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
                    prop_assert!(answer == Next::Settled || (next == Next::Settled && running.is_none()));
                    if answer == Next::Due {
                        next = Next::Due;
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
