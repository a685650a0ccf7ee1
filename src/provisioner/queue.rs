//! The queue of objects to reconcile. However often an object changes, it is queued once, and one
//! worker at a time has it. Groups (namespaces) take turns: a thousand claims of one namespace do
//! not delay the claim of another.
//!
//! ```text
//!   add ---> ready ---> running ---> done          changed while it ran: ready again
//!              ^                  \-> failed       later: 1 s, 2 s, 4 s ... 5 min, without end
//!              |                  \-> stale        later: 0.2 s, 0.4 s ... 5 min
//!              +--- later <-------/
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::fair_queue::FairQueue;

/// The first wait after a failure.
const FAILED_WAIT: Duration = Duration::from_secs(1);

/// The first wait for the watch to catch up with the cluster.
const STALE_WAIT: Duration = Duration::from_millis(200);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// How the reconciliation of an object ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReconcileOutcome {
    /// Nothing is left to do until something changes.
    Done,
    /// It is in progress: reconcile again after this time.
    Again(Duration),
    /// What was known of the object is out of date: reconcile again when it changes, and after a
    /// short wait, with backoff.
    Stale,
    /// It failed: retry with backoff.
    Failed,
}

/// The key of a queued object.
pub trait QueueKey {
    /// The group that it belongs to; groups take turns.
    fn group(&self) -> &str;
}

/// Keys of objects to reconcile. Its size is bounded by the number of objects.
pub struct WorkQueue<K> {
    state: Mutex<WorkQueueState<K>>,
    more: Notify,
}

struct WorkQueueState<K> {
    ready: FairQueue<K>,
    waiting: HashSet<K>,
    running: HashSet<K>,
    /// Objects that changed while they ran.
    again: HashSet<K>,
    /// When keys become ready: at most one entry for each key.
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: QueueKey + Clone + Eq + Ord + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        let state = WorkQueueState {
            ready: FairQueue::default(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { state: Mutex::new(state), more: Notify::new() }
    }
}

impl<K: QueueKey + Clone + Eq + Ord + Hash> WorkQueue<K> {
    /// Queues an object.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.more.notify_one();
    }

    /// Waits for the next object to reconcile. [`Self::done`] must be called for it.
    pub async fn next(&self) -> K {
        loop {
            let until = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.more.notify_one(); // another worker may wait
                    }
                    return key;
                }
                state.later.first().map(|(at, _)| *at)
            };
            match until {
                None => self.more.notified().await,
                Some(at) => tokio::select! {
                    () = self.more.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// Reports that an object has been reconciled.
    pub fn done(&self, key: K, outcome: ReconcileOutcome) {
        let mut state = self.lock();
        state.running.remove(&key);
        let delay = match outcome {
            ReconcileOutcome::Done => {
                state.failures.remove(&key);
                None
            }
            ReconcileOutcome::Again(after) => Some(after),
            ReconcileOutcome::Stale => Some(state.fails(&key, STALE_WAIT)),
            ReconcileOutcome::Failed => Some(state.fails(&key, FAILED_WAIT)),
        };
        if state.again.remove(&key) {
            state.add(key);
        } else if let Some(delay) = delay {
            state.put_off(key, Instant::now() + delay);
        }
        drop(state);
        self.more.notify_one();
    }

    /// How often in a row an object failed.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, WorkQueueState<K>> {
        self.state.lock()
    }
}

impl<K: QueueKey + Clone + Eq + Ord + Hash> WorkQueueState<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            let group = key.group().to_owned();
            self.ready.push(&group, key);
        }
    }

    /// Counts a failure, and returns how long to wait.
    fn fails(&mut self, key: &K, first: Duration) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        backoff(first, *failures)
    }

    /// Makes ready what was put off until now.
    fn promote(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn put_off(&mut self, key: K, until: Instant) {
        self.due.insert(key.clone(), until);
        self.later.insert((until, key));
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop()?;
        self.waiting.remove(&key);
        // Its outcome says when it is reconciled again.
        if let Some(at) = self.due.remove(&key) {
            self.later.remove(&(at, key.clone()));
        }
        self.running.insert(key.clone());
        Some(key)
    }
}

/// How long to wait after `failures` failures in a row; `first` after one.
fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    impl QueueKey for u32 {
        fn group(&self) -> &str {
            if *self < 1000 { "" } else { "another" }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_with_many_objects_does_not_delay_others() {
        let queue = WorkQueue::default();
        (0..1000).for_each(|key| queue.add(key));
        queue.add(5000);
        assert_eq!([queue.next().await, queue.next().await, queue.next().await], [0, 5000, 1]);
    }

    async fn idle(queue: &WorkQueue<u32>) -> bool {
        timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_queued_once_for_all_its_changes() {
        let queue = WorkQueue::default();
        [1, 2, 1, 1].into_iter().for_each(|key| queue.add(key));
        assert_eq!((queue.next().await, queue.next().await), (1, 2));
        assert!(idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_it_runs_is_not_lost_and_not_run_beside_it() {
        let queue = WorkQueue::default();
        queue.add(1);
        assert_eq!(queue.next().await, 1);
        queue.add(1);
        assert!(idle(&queue).await);
        queue.done(1, ReconcileOutcome::Failed);
        assert_eq!(queue.next().await, 1);
        queue.done(1, ReconcileOutcome::Done);
        assert!(idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_without_end() {
        let queue = WorkQueue::default();
        queue.add(1);
        let mut waits = Vec::new();
        let mut before = Instant::now();
        for _ in 0..40 {
            assert_eq!(queue.next().await, 1);
            waits.push(before.elapsed().as_secs());
            before = Instant::now();
            queue.done(1, ReconcileOutcome::Failed);
        }
        assert_eq!(waits[..11], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(waits[39], 300);
        assert_eq!(queue.failures(&1), 40);
        assert_eq!(queue.next().await, 1);
        queue.done(1, ReconcileOutcome::Done);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_stale_is_retried_with_backoff() {
        let queue = WorkQueue::default();
        queue.add(1);
        let (mut looks, began) = (0, Instant::now());
        while began.elapsed() < Duration::from_secs(3600) {
            assert_eq!(queue.next().await, 1);
            looks += 1;
            queue.done(1, ReconcileOutcome::Stale);
        }
        assert!((12..30).contains(&looks), "{looks}");
        // A change ends the wait.
        queue.add(1);
        let before = Instant::now();
        assert_eq!((queue.next().await, before.elapsed()), (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_the_wait() {
        let queue = WorkQueue::default();
        queue.add(1);
        assert_eq!(queue.next().await, 1);
        queue.done(1, ReconcileOutcome::Again(Duration::from_secs(100)));
        queue.add(1);
        let before = Instant::now();
        assert_eq!(queue.next().await, 1);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn no_worker_sleeps_while_there_is_work() {
        let queue = std::sync::Arc::new(WorkQueue::default());
        let worker = |queue: std::sync::Arc<WorkQueue<u32>>| async move { queue.next().await };
        let workers = [0, 1, 2].map(|_| tokio::spawn(worker(queue.clone())));
        tokio::task::yield_now().await;
        [1, 2, 3].into_iter().for_each(|key| queue.add(key));
        for worker in workers {
            timeout(Duration::from_secs(1), worker).await.unwrap().unwrap();
        }
    }
}
