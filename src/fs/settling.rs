//! Flushing the files of a full volume, so that it is known what they really took.
//!
//! Room that is held for blocks which are allocated late (see [`super::charge`]) may be what makes a
//! volume full. A call that finds it so flushes these files and looks again. It holds a thread of the
//! pool and the lock of its file meanwhile, so one call does this for each volume, and few for all: the
//! others are told what is known at that moment, and no tenant can hold the whole pool this way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Fs;
use super::node::Node;
use crate::export::ExportId;

/// Volumes whose files are flushed at a time; well below the number of threads of the pool.
const VOLUMES: usize = 4;

/// The volumes whose files are being flushed.
#[derive(Debug, Default)]
pub(super) struct Settling(Mutex<Vec<ExportId>>);

/// The right to flush the files of a volume, until it is dropped.
#[must_use = "another call may begin when this is dropped"]
pub(super) struct Turn<'s> {
    settling: &'s Settling,
    volume: ExportId,
}

impl Settling {
    /// `None`: another call is at it already, or too many are at other volumes. Does not block.
    pub(super) fn begin(&self, volume: ExportId) -> Option<Turn<'_>> {
        let mut busy = self.busy();
        let may = busy.len() < VOLUMES && !busy.contains(&volume);
        may.then(|| busy.push(volume)).map(|()| Turn { settling: self, volume })
    }

    fn busy(&self) -> MutexGuard<'_, Vec<ExportId>> {
        // Each step leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.settling.busy().retain(|volume| *volume != self.volume);
    }
}

impl Fs {
    /// Flushes the files for which room is held in the volume of `node`, unless another call does.
    /// Blocks.
    pub(super) fn settle_late(&self, node: &Node) {
        let Some(_turn) = self.settling.begin(node.root.id) else { return };
        let is_held_for =
            |other: &Arc<Node>| Arc::ptr_eq(&other.root, &node.root) && other.charge.late() > 0;
        for other in self.nodes.dirty(is_held_for) {
            self.flush_quietly(&other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_settles_a_volume_and_few_settle_any() {
        let settling = Settling::default();
        let first = settling.begin(ExportId(1));
        assert!(first.is_some() && settling.begin(ExportId(1)).is_none());
        let others: Vec<_> = (2..10).filter_map(|id| settling.begin(ExportId(id))).collect();
        assert_eq!(others.len(), VOLUMES - 1);
        drop(others);
        assert!(settling.begin(ExportId(1)).is_none());
        drop(first);
        assert!(settling.begin(ExportId(1)).is_some());
    }
}
