//! Turns: few have one at a time, and the others queue.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};

/// The turns of `T`s.
pub(super) struct RoundRobin<T> {
    max: usize,
    turns: Mutex<Turns<T>>,
}

struct Turns<T> {
    begun: usize,
    queue: VecDeque<T>,
}

impl<T> RoundRobin<T> {
    /// Creates it for at most `max` turns at a time.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, turns: Mutex::new(Turns { begun: 0, queue: VecDeque::new() }) }
    }

    /// Begins a turn. Returns `new` if it has the turn, and otherwise queues it.
    pub(super) fn begin(&self, new: T) -> Option<T> {
        let mut turns = self.turns();
        if turns.begun < self.max {
            turns.begun += 1;
            return Some(new);
        }
        turns.queue.push_back(new);
        None
    }

    /// Ends a turn of `one`, which needs another. Returns whose turn it is now.
    pub(super) fn pass(&self, one: T) -> T {
        let mut turns = self.turns();
        let Some(next) = turns.queue.pop_front() else { return one };
        turns.queue.push_back(one);
        next
    }

    /// Ends a turn. Returns whose turn it is now.
    pub(super) fn end(&self) -> Option<T> {
        let mut turns = self.turns();
        let next = turns.queue.pop_front();
        turns.begun -= usize::from(next.is_none());
        next
    }

    fn turns(&self) -> MutexGuard<'_, Turns<T>> {
        self.turns.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4;

    #[test]
    fn few_have_a_turn_and_the_others_have_theirs_in_between() {
        let turns = RoundRobin::new(MAX);
        let begun: Vec<_> = (0..MAX + 2).filter_map(|n| turns.begin(n)).collect();
        assert_eq!(begun, (0..MAX).collect::<Vec<_>>());
        assert_eq!(turns.pass(0), MAX);
        assert_eq!(turns.pass(1), MAX + 1);
        assert_eq!(turns.pass(MAX), 0);
        let ended: Vec<_> = (0..=MAX).map(|_| turns.end()).take(MAX).collect();
        assert_eq!(ended[..3], [Some(1), Some(MAX), None]);
        assert_eq!(turns.begin(9), Some(9), "a turn is free again");
    }
}
