//! Flushing the files of a full volume, to find out what they really take.
//!
//! A volume may be full only because room is held for blocks that the file system allocates late
//! ([`super::charge`]). A change that finds it so fails at once, and [`super::Guard`] says why. The
//! caller then gives up its lock and its thread, waits here until all files for which room is held
//! have been flushed, and tries again. If no room is held any more, the volume is really full. If
//! other calls have taken the room in the meantime, flushing their files may free some of it, so
//! the caller waits again, a limited number of times. Each time at least as much room is used as is
//! held again, so that a few times are enough.
//!
//! ```text
//!   call: full --> group of the volume --> chain: file, file, ... --> call again
//!   call: full -->                           |     ^
//!                                            v     |
//!                                      the threads that flush
//! ```
//!
//! A chain flushes one file at a time, and lets another volume go on after each file. Only a few
//! volumes have a turn at the same time, so that half of the threads that flush remain for those
//! who wait for a flush of their own, however many volumes are full and however slow their disks
//! are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use parking_lot::{Mutex, MutexGuard};

use super::Fs;
use super::flush::{Flusher, Shared, note_failure, tell};
use super::group::{Next, Waiter};
use super::node::{Node, Nodes};
use super::root::Root;
use crate::errno::{Errno, Result};
use crate::export::ExportId;

/// Volumes that have a file flushed at a time; at most half of the threads that flush.
const VOLUMES: usize = 4;

/// The volumes whose files are flushed, and those that wait for that.
pub(super) type Settling = RoundRobin<Chain>;

/// Who has a turn, and who waits for one.
pub(super) struct RoundRobin<T>(Mutex<State<T>>);

struct State<T> {
    begun: usize,
    waiting: VecDeque<T>,
}

/// The files of a volume that are still to be flushed.
pub(super) struct Chain {
    root: Arc<Root>,
    /// `None`: it has not begun.
    files: Option<vec::IntoIter<Arc<Node>>>,
    /// Who is told at its end.
    waiting: Vec<Waiter>,
}

impl<T> Default for RoundRobin<T> {
    fn default() -> Self {
        Self(Mutex::new(State { begun: 0, waiting: VecDeque::new() }))
    }
}

impl<T> RoundRobin<T> {
    /// Begins a turn; answers what has it. `None`: it waits for one.
    fn begin(&self, new: T) -> Option<T> {
        let mut state = self.state();
        if state.begun < VOLUMES {
            state.begun += 1;
            return Some(new);
        }
        state.waiting.push_back(new);
        None
    }

    /// Ends a turn that is to be followed by another of the same; answers whose turn it is now.
    fn pass(&self, one: T) -> T {
        let mut state = self.state();
        let Some(next) = state.waiting.pop_front() else { return one };
        state.waiting.push_back(one);
        next
    }

    /// Ends a turn; answers whose turn it is now.
    fn end(&self) -> Option<T> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        state.begun -= usize::from(next.is_none());
        next
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Each step leaves it whole.
        self.0.lock()
    }
}

impl Chain {
    fn of(root: Arc<Root>) -> Self {
        Self { root, files: None, waiting: Vec::new() }
    }

    /// The next file for which room is held.
    fn next(&mut self, nodes: &Nodes) -> Option<Arc<Node>> {
        let Self { root, files, waiting } = self;
        let files = files.get_or_insert_with(|| {
            // Before the look: it covers those who came until now.
            *waiting = root.room.begin().1;
            let is_held_for = |node: &Node| node.root.id == root.id && node.charge.late() > 0;
            nodes.select(is_held_for).into_iter()
        });
        files.find(|file| file.charge.late() > 0)
    }
}

impl Fs {
    /// Tells `then` when each file has been flushed for which room is held in the volume `id` now.
    /// Whether that succeeded is not told: the room has been given back. Does not block.
    pub fn settle_volume(&self, id: ExportId, then: Waiter) {
        match self.root(id) {
            Ok(root) => self.flusher.settle_volume(root, then),
            Err(errno) => then(Err(errno)),
        }
    }
}

impl Flusher {
    fn settle_volume(&self, root: Arc<Root>, then: Waiter) {
        if root.room.join(|()| (), then) == Next::Due
            && let Some(chain) = self.shared.settling.begin(Chain::of(root))
        {
            self.shared.go_on(chain);
        }
    }
}

impl Shared {
    /// Goes on with a chain, which has a turn, and with those whose turn comes when it ends.
    fn go_on(self: &Arc<Self>, mut chain: Chain) {
        loop {
            if let Some(file) = chain.next(&self.nodes) {
                return self.flush_next(file, chain);
            }
            match self.end(chain) {
                Some(next) => chain = next,
                None => return,
            }
        }
    }

    fn flush_next(self: &Arc<Self>, file: Arc<Node>, chain: Chain) {
        let (shared, node) = (Arc::clone(self), Arc::clone(&file));
        let then = move |flushed: Result<()>| {
            match flushed {
                // A flush that was under way may have closed it.
                Ok(()) | Err(Errno::BADF) => {}
                Err(error) => note_failure(&node, error),
            }
            shared.go_on(shared.settling.pass(chain));
        };
        self.flush_open(file, Box::new(then));
    }

    /// Ends a chain; answers the one whose turn it is now.
    fn end(&self, chain: Chain) -> Option<Chain> {
        let Chain { root, waiting, .. } = chain;
        let again = root.room.end() == Next::Due;
        let next = match again {
            true => Some(self.settling.pass(Chain::of(root))),
            false => self.settling.end(),
        };
        tell(waiting, Ok(()));
        next
    }
}

#[cfg(test)]
mod tests;
