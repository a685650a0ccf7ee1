//! What is to be looked at, once for each object however often it changed, and by one worker at a
//! time. Namespaces take turns: a thousand claims of one do not hold up the claim of another.
//!
//! ```text
//!   add ---> ready ---> running ---> done          changed while it ran: ready again
//!              ^                  \-> failed       later: 1 s, 2 s, 4 s ... 5 min, never given up
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
const SOON: Duration = Duration::from_secs(1);

/// The first wait for what is known to catch up with what is.
const AT_ONCE: Duration = Duration::from_millis(200);

/// The longest one.
const LATE: Duration = Duration::from_secs(300);

/// How it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is owed until something changes.
    Done,
    /// It goes on, and is to be looked at again after so long.
    Again(Duration),
    /// What was known of it is old: again when that has changed, or soon, the later the oftener.
    Stale,
    /// It did not work: again, the later the oftener.
    Failed,
}

/// What stands for an object.
pub trait Member {
    /// Those with which it shares its turns.
    fn group(&self) -> &str;
}

/// Keys of objects to look at. Bounded by the number of objects.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    more: Notify,
}

struct State<K> {
    ready: FairQueue<K>,
    waiting: HashSet<K>,
    running: HashSet<K>,
    /// Changed while they ran.
    again: HashSet<K>,
    /// At most one time for each key.
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Member + Clone + Eq + Ord + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
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

impl<K: Member + Clone + Eq + Ord + Hash> Queue<K> {
    /// Has an object looked at, soon.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.more.notify_one();
    }

    /// The next object to look at; [`Self::done`] is owed for it.
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

    /// An object has been looked at.
    pub fn done(&self, key: K, outcome: Outcome) {
        let mut state = self.lock();
        state.running.remove(&key);
        let delay = match outcome {
            Outcome::Done => {
                state.failures.remove(&key);
                None
            }
            Outcome::Again(after) => Some(after),
            Outcome::Stale => Some(state.fails(&key, AT_ONCE)),
            Outcome::Failed => Some(state.fails(&key, SOON)),
        };
        if state.again.remove(&key) {
            state.add(key);
        } else if let Some(delay) = delay {
            state.put_off(key, Instant::now() + delay);
        }
        drop(state);
        self.more.notify_one();
    }

    /// How often in a row it did not work.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }
}

impl<K: Member + Clone + Eq + Ord + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            let group = key.group().to_owned();
            self.ready.push(&group, key);
        }
    }

    /// How long to wait after one more failure in a row.
    fn fails(&mut self, key: &K, first: Duration) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        backoff(first, *failures)
    }

    /// What was put off until now is ready.
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
        // It is looked at now; how it goes says when again.
        if let Some(at) = self.due.remove(&key) {
            self.later.remove(&(at, key.clone()));
        }
        self.running.insert(key.clone());
        Some(key)
    }
}

/// How long to wait after so many failures in a row, the first of which waits so long.
fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LATE)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    impl Member for u32 {
        fn group(&self) -> &str {
            if *self < 1000 { "" } else { "another" }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_much_to_look_at_does_not_hold_up_others() {
        let queue = Queue::default();
        (0..1000).for_each(|key| queue.add(key));
        queue.add(5000);
        assert_eq!([queue.next().await, queue.next().await, queue.next().await], [0, 5000, 1]);
    }

    async fn idle(queue: &Queue<u32>) -> bool {
        timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_looked_at_once_for_all_its_changes() {
        let queue = Queue::default();
        [1, 2, 1, 1].into_iter().for_each(|key| queue.add(key));
        assert_eq!((queue.next().await, queue.next().await), (1, 2));
        assert!(idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_it_runs_is_not_lost_and_not_run_beside_it() {
        let queue = Queue::default();
        queue.add(1);
        assert_eq!(queue.next().await, 1);
        queue.add(1);
        assert!(idle(&queue).await);
        queue.done(1, Outcome::Failed);
        assert_eq!(queue.next().await, 1);
        queue.done(1, Outcome::Done);
        assert!(idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_and_never_given_up() {
        let queue = Queue::default();
        queue.add(1);
        let mut waits = Vec::new();
        let mut before = Instant::now();
        for _ in 0..40 {
            assert_eq!(queue.next().await, 1);
            waits.push(before.elapsed().as_secs());
            before = Instant::now();
            queue.done(1, Outcome::Failed);
        }
        assert_eq!(waits[..11], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(waits[39], 300);
        assert_eq!(queue.failures(&1), 40);
        assert_eq!(queue.next().await, 1);
        queue.done(1, Outcome::Done);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_old_is_looked_at_ever_less_often() {
        let queue = Queue::default();
        queue.add(1);
        let (mut looks, began) = (0, Instant::now());
        while began.elapsed() < Duration::from_secs(3600) {
            assert_eq!(queue.next().await, 1);
            looks += 1;
            queue.done(1, Outcome::Stale);
        }
        assert!((12..30).contains(&looks), "{looks}");
        // A change is waited for no longer than before.
        queue.add(1);
        let before = Instant::now();
        assert_eq!((queue.next().await, before.elapsed()), (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_the_wait() {
        let queue = Queue::default();
        queue.add(1);
        assert_eq!(queue.next().await, 1);
        queue.done(1, Outcome::Again(Duration::from_secs(100)));
        queue.add(1);
        let before = Instant::now();
        assert_eq!(queue.next().await, 1);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_sleeps_while_there_is_work() {
        let queue = std::sync::Arc::new(Queue::default());
        let worker = |queue: std::sync::Arc<Queue<u32>>| async move { queue.next().await };
        let workers = [0, 1, 2].map(|_| tokio::spawn(worker(queue.clone())));
        tokio::task::yield_now().await;
        [1, 2, 3].into_iter().for_each(|key| queue.add(key));
        for worker in workers {
            timeout(Duration::from_secs(1), worker).await.unwrap().unwrap();
        }
    }
}
