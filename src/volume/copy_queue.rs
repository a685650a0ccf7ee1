//! The queue of copies. A few copies run at a time, each on a thread of its own, because more would
//! only compete for the disk. The next copy is for the namespace with the fewest running copies: a
//! hundred copies for one namespace do not delay the first copy for another.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::clone::CloneJob;
use super::spec::Spec;
use crate::label::CLAIM_NAMESPACE;

/// Copies that run at a time.
const AT_A_TIME: usize = 4;

/// The copies that wait, and those that run.
pub(super) struct CopyQueue(Mutex<CopyQueueState>);

struct CopyQueueState {
    waiting: VecDeque<Arc<CloneJob>>,
    /// The namespaces of the copies that run.
    running: Vec<String>,
    limit: usize,
}

/// A running copy, which ends when this is dropped.
pub(super) struct RunningCopy<'a> {
    copies: &'a CopyQueue,
    of: String,
}

impl Default for CopyQueue {
    fn default() -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Self(Mutex::new(CopyQueueState { waiting, running, limit: AT_A_TIME }))
    }
}

impl CopyQueue {
    /// Adds a copy to the queue.
    pub(super) fn add(&self, job: Arc<CloneJob>) {
        self.lock().waiting.push_back(job);
    }

    /// Takes the next copy from the queue, if there is one and the limit permits it. The caller
    /// must call [`Self::turn`] for it.
    pub(super) fn next(&self) -> Option<Arc<CloneJob>> {
        let mut state = self.lock();
        if state.running.len() >= state.limit {
            return None;
        }
        let busy =
            |job: &CloneJob| state.running.iter().filter(|of| **of == asker(job.spec())).count();
        let (at, _) =
            state.waiting.iter().enumerate().min_by_key(|(at, job)| (busy(job.as_ref()), *at))?;
        let job = state.waiting.remove(at)?;
        state.running.push(asker(job.spec()).to_owned());
        Some(job)
    }

    /// Returns the guard of a copy that [`Self::next`] returned.
    pub(super) fn turn(&self, job: &CloneJob) -> RunningCopy<'_> {
        RunningCopy { copies: self, of: asker(job.spec()).to_owned() }
    }

    /// Removes a copy from the queue. Returns whether it was there.
    pub(super) fn remove(&self, job: &Arc<CloneJob>) -> bool {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|other| !Arc::ptr_eq(other, job));
        state.waiting.len() < before
    }

    /// Starts no further copies.
    pub(super) fn close(&self) {
        self.set_limit(0);
    }

    /// Sets how many copies run at a time.
    pub(super) fn set_limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    fn lock(&self) -> MutexGuard<'_, CopyQueueState> {
        self.0.lock()
    }
}

impl Drop for RunningCopy<'_> {
    fn drop(&mut self) {
        let mut state = self.copies.lock();
        if let Some(at) = state.running.iter().position(|of| *of == self.of) {
            state.running.swap_remove(at);
        }
    }
}

/// Returns the namespace of the claim that a copy is for, or an empty string.
fn asker(spec: &Spec) -> &str {
    spec.labels.get(CLAIM_NAMESPACE).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::clone_note::CloneNote;
    use crate::volume::name::{VolumeId, VolumeName};
    use crate::volume::registry;

    fn job(namespace: &str, n: usize) -> Arc<CloneJob> {
        let name = VolumeName::new(format!("{namespace}{n}")).unwrap();
        let mut spec = Spec::new(name.clone(), VolumeId::new(name.as_str()).unwrap(), 1);
        spec.labels.insert(CLAIM_NAMESPACE.into(), namespace.into());
        Arc::new(CloneJob::cut_off(CloneNote {
            spec,
            from: name,
            began: registry::now(),
            failed: None,
        }))
    }

    #[test]
    fn who_has_the_fewest_under_way_is_next() {
        let copies = CopyQueue::default();
        (0..9).for_each(|n| copies.add(job("greedy", n)));
        copies.add(job("modest", 0));
        copies.add(job("modest", 1));
        let next = || copies.next().map(|job| job.spec().name.to_string());
        let first = [next(), next(), next(), next()].map(Option::unwrap);
        assert_eq!(first, ["greedy0", "modest0", "greedy1", "modest1"]);
        assert_eq!(next(), None);
        drop(copies.turn(&job("modest", 0)));
        assert_eq!(next().unwrap(), "greedy2");
        drop(copies.turn(&job("greedy", 0)));
        assert_eq!(next().unwrap(), "greedy3");
        copies.close();
        drop(copies.turn(&job("greedy", 0)));
        assert_eq!(next(), None);
    }
}
