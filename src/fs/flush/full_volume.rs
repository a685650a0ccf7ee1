//! Flushing the files of a full volume, to find out what they really take.
//!
//! A volume may be full only because room is held for blocks that the file system allocates at
//! write-back ([`crate::fs::accounting`]). A change that finds it full fails at once, and
//! [`crate::fs::guard::Guard::may_have_room_later`] says why. The caller then releases its lock and
//! its thread, waits here until all files for which room is held have been flushed, and retries. If
//! no room is held any more, the volume is really full. If other calls have taken the room
//! meanwhile, flushing their files may free some of it, and the caller waits again, a limited
//! number of times. Each time at least as much room is used as is held again, so a few times are
//! enough.
//!
//! ```text
//!   call: full --> group of the volume --> chain: file, file, ... --> call again
//!   call: full -->                           |     ^
//!                                            v     |
//!                                      the threads that flush
//! ```
//!
//! A [`Chain`] flushes one file at a time, and passes its turn to another volume after each file.
//! Few volumes have a turn at the same time: half of the threads remain for callers that wait for a
//! flush of their own, however many volumes are full and however slow their disks are.

use std::sync::Arc;

use super::chain::Chain;
use super::flusher::{Flusher, Shared, notify};
use super::log_failure;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::fs::Fs;
use crate::fs::group_commit::{Next, Waiter};
use crate::fs::node::Node;
use crate::fs::root::Root;

impl Fs {
    /// Calls `then` when each file has been flushed for which room is held in the volume `id` now,
    /// whether that succeeded or not: the room has been given back. Does not block.
    pub fn flush_volume(&self, id: ExportId, then: Waiter) {
        match self.root(id) {
            Ok(root) => self.flusher.flush_volume(root, then),
            Err(errno) => then(Err(errno)),
        }
    }
}

impl Flusher {
    fn flush_volume(&self, root: Arc<Root>, then: Waiter) {
        if root.room.join(|()| (), then) == Next::Begin
            && let Some(chain) = self.shared.full_volumes.begin(Chain::of(root))
        {
            self.shared.advance(chain);
        }
    }
}

impl Shared {
    /// Advances a chain that has a turn, and those whose turn comes when it ends.
    fn advance(self: &Arc<Self>, mut chain: Chain) {
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
                Err(error) => log_failure(&node, error),
            }
            shared.advance(shared.full_volumes.pass(chain));
        };
        self.flush_open(file, Box::new(then));
    }

    /// Ends a chain. Returns the one whose turn it is now.
    fn end(&self, chain: Chain) -> Option<Chain> {
        let Chain { root, waiting, .. } = chain;
        let next = match root.room.end() {
            Next::Begin => Some(self.full_volumes.pass(Chain::of(root))),
            Next::Nothing => self.full_volumes.end(),
        };
        notify(waiting, Ok(()));
        next
    }
}

#[cfg(test)]
mod tests;
