//! Threads on which work may block: a fixed number, fed through one queue.
//!
//! The queue is bounded by its users: a connection stops reading once it has queued a limited
//! number of calls and bytes.
//!
//! Work that would only wait for other work queues in a lane ([`super::lanes`]) instead of on
//! threads, so a file that hangs occupies one thread. Work that runs on a thread of its own, such
//! as the data plane, needs a [`LanePermit`], too. The holder of a permit runs the work that queued
//! behind it ([`LanePermit::run_queued`]), and the results are sent together:
//!
//! ```text
//!   data plane 0   CREATE, then the queued work: CREATE, CREATE ... at most QUEUED_MAX
//!   data plane 1   reads CREATE, CREATE: queued
//!   pool           work that would block, and what exceeds QUEUED_MAX; then queued work again
//! ```
//!
//! So no thread is woken to wait for a lock. Each job wakes a thread: chains of wake-ups, in which
//! every thread wakes the next, were slower for large writes.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};

use super::idle::{self, Idle};
use super::lanes::{Lane, Lanes};

/// Stack of a thread. The deepest calls use a few KiB; directories are read into the heap.
const STACK: usize = 512 * 1024;

/// How many queued jobs the holder of a permit runs in one go.
pub const QUEUED_MAX: usize = 64;

/// What a job does.
pub trait Work: Send + Sized + 'static {
    /// Collects the results of work that is attempted in one go.
    type Results: Default;

    /// Does the work. May block.
    fn run(self);

    /// Does the work without blocking, and adds its result to `results`. Gives the work back,
    /// unchanged, if it would block.
    fn attempt(self, results: &mut Self::Results) -> Option<Self>;

    /// Reports that some work panicked. What it held has been dropped.
    fn panicked();
}

/// Work for a thread that may block.
pub struct PoolJob<W: Work> {
    /// Whether it may run.
    pub admission: Admission<W>,
    /// What it does.
    pub work: W,
}

/// Whether a job may run as soon as there is a thread for it.
pub enum Admission<W: Work> {
    /// It belongs to no lane.
    Unrestricted,
    /// It must be admitted to this lane first.
    Required(Lane),
    /// It is admitted to its lane.
    Granted(LanePermit<W>),
}

/// The right to run work of a lane. Dropping it passes it on to the next work in the lane, which
/// goes to the pool.
#[must_use = "the permit is passed on when this is dropped"]
pub struct LanePermit<W: Work> {
    queue: Arc<PoolQueue<W>>,
    lane: Lane,
    is_held: bool,
}

/// A fixed set of threads. Dropping it runs what is queued, and waits for that.
pub struct Pool<W: Work> {
    queue: Arc<PoolQueue<W>>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolQueue<W: Work> {
    state: Mutex<PoolState<W>>,
    lanes: Lanes<W>,
}

struct PoolState<W: Work> {
    /// Jobs that may run.
    ready: VecDeque<PoolJob<W>>,
    idle: Idle,
    closed: bool,
}

impl<W: Work> LanePermit<W> {
    /// The lane to which it admits.
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// Ends the work that had the permit; returns the next work of the lane, which has it now.
    fn next(&mut self) -> Option<W> {
        let next = self.queue.lanes.leave(self.lane);
        self.is_held = next.is_some();
        next
    }

    /// Runs queued work of the lane without blocking, at most `budget` jobs. Returns the job that
    /// must go to the pool with the permit, because it would block or exceeds the budget.
    pub fn run_queued(
        mut self,
        budget: &mut usize,
        results: &mut W::Results,
    ) -> Option<PoolJob<W>> {
        while let Some(mut work) = self.next() {
            if *budget > 0 {
                *budget -= 1;
                match caught::<W, _>(|| work.attempt(results)) {
                    Some(Some(given_back)) => work = given_back,
                    _ => continue,
                }
            }
            return Some(PoolJob { admission: Admission::Granted(self), work });
        }
        None
    }
}

impl<W: Work> Drop for LanePermit<W> {
    fn drop(&mut self) {
        if self.is_held
            && let Some(work) = self.next()
        {
            self.is_held = false; // the permit made here has it
            let permit = self.queue.permit(self.lane);
            self.queue.push([PoolJob { admission: Admission::Granted(permit), work }]);
        }
    }
}

impl<W: Work> Pool<W> {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let queue = Arc::new(PoolQueue::new());
        let start = |n| {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name(format!("berth-pool-{n}")).stack_size(STACK);
            thread.spawn(move || queue.work())
        };
        let threads = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Self { queue, threads })
    }

    /// Queues a job. Does not block.
    pub fn run(&self, job: PoolJob<W>) {
        self.queue.push(self.queue.admit(job));
    }

    /// Queues all of `jobs`, in their order, and empties it. Does not block.
    pub fn run_all(&self, jobs: &mut Vec<PoolJob<W>>) {
        if !jobs.is_empty() {
            self.queue.push(jobs.drain(..).filter_map(|job| self.queue.admit(job)));
        }
    }

    /// Admits the caller, which runs work on a thread of its own, to a lane. Gives the lane back if
    /// it is full: the work must queue. Does not block.
    pub fn enter(&self, lane: Lane) -> Result<LanePermit<W>, Lane> {
        if self.queue.lanes.try_enter(lane) { Ok(self.queue.permit(lane)) } else { Err(lane) }
    }

    /// How many jobs wait for a thread, or in a lane.
    pub fn waiting(&self) -> usize {
        self.queue.lock().ready.len() + self.queue.lanes.waiting()
    }
}

impl<W: Work> Drop for Pool<W> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        idle::wake(state, |state| &mut state.idle, usize::MAX);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // it catches panics of its work
        }
    }
}

impl<W: Work> PoolQueue<W> {
    fn new() -> Self {
        let state = PoolState { ready: VecDeque::new(), idle: Idle::default(), closed: false };
        Self { state: Mutex::new(state), lanes: Lanes::default() }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<W>> {
        self.state.lock()
    }

    fn permit(self: &Arc<Self>, lane: Lane) -> LanePermit<W> {
        LanePermit { queue: Arc::clone(self), lane, is_held: true }
    }

    /// Queues a job in its lane; gives it back if it may run.
    fn admit(self: &Arc<Self>, job: PoolJob<W>) -> Option<PoolJob<W>> {
        let Admission::Required(lane) = job.admission else { return Some(job) };
        let work = self.lanes.queue(lane, job.work)?;
        Some(PoolJob { admission: Admission::Granted(self.permit(lane)), work })
    }

    /// Queues jobs that may run.
    fn push(&self, jobs: impl IntoIterator<Item = PoolJob<W>>) {
        let mut state = self.lock();
        let before = state.ready.len();
        state.ready.extend(jobs);
        let new = state.ready.len() - before;
        idle::wake(state, |state| &mut state.idle, new);
    }

    /// The life of a thread.
    fn work(&self) {
        let mut queued = None;
        while let Some(PoolJob { admission, work }) = self.next(queued) {
            caught::<W, _>(|| work.run());
            queued = match admission {
                Admission::Granted(permit) => {
                    permit.run_queued(&mut { QUEUED_MAX }, &mut W::Results::default())
                }
                Admission::Unrestricted | Admission::Required(_) => None,
            };
        }
    }

    /// Waits for the next job. A job that was `queued` in a lane comes after those of others.
    fn next(&self, queued: Option<PoolJob<W>>) -> Option<PoolJob<W>> {
        let mut state = self.lock();
        state.ready.extend(queued);
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = idle::wait(&self.state, state, |state| &mut state.idle);
        }
    }
}

/// Catches a panic of some work: a fault in one job must not take a thread from all others.
fn caught<W: Work, T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        W::panicked();
    }
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    enum Task {
        /// Would block.
        Blocks(Box<dyn FnOnce() + Send>),
        /// Sends its number, and whether the holder of a permit ran it.
        Quick(usize, Sender<(usize, bool)>),
    }

    impl Work for Task {
        type Results = ();

        fn run(self) {
            match self {
                Self::Blocks(work) => work(),
                Self::Quick(number, done) => done.send((number, false)).unwrap(),
            }
        }

        fn attempt(self, (): &mut ()) -> Option<Self> {
            match self {
                Self::Blocks(_) => return Some(self),
                Self::Quick(number, done) => done.send((number, true)).unwrap(),
            }
            None
        }

        fn panicked() {}
    }

    fn admission(lane: Option<Lane>) -> Admission<Task> {
        lane.map_or(Admission::Unrestricted, Admission::Required)
    }

    fn job(lane: Option<Lane>, work: impl FnOnce() + Send + 'static) -> PoolJob<Task> {
        PoolJob { admission: admission(lane), work: Task::Blocks(Box::new(work)) }
    }

    /// Jobs that send their number when they begin, and end on a message.
    fn held(
        lane: Option<Lane>,
        count: usize,
    ) -> (Vec<PoolJob<Task>>, Receiver<usize>, Vec<Sender<()>>) {
        let (begun, begins) = channel();
        let (mut jobs, mut ends) = (Vec::new(), Vec::new());
        for n in 0..count {
            let (begun, (end, told)) = (begun.clone(), channel());
            jobs.push(job(lane, move || {
                begun.send(n).unwrap();
                told.recv_timeout(LONG).unwrap();
            }));
            ends.push(end);
        }
        (jobs, begins, ends)
    }

    #[test]
    fn jobs_that_wait_for_each_other_get_all_threads() {
        // Never dropped: that would wait for ever if the jobs did not get all threads.
        let pool: &Pool<Task> = Box::leak(Box::new(Pool::start(16).unwrap()));
        let (together, (done, all)) = (Arc::new(Barrier::new(16)), channel());
        let one = || {
            let (together, done) = (Arc::clone(&together), done.clone());
            job(None, move || {
                together.wait();
                done.send(()).unwrap();
            })
        };
        while pool.queue.lock().idle.count() < 16 {
            thread::yield_now(); // otherwise they would find jobs without being woken
        }
        pool.run_all(&mut (0..16 * 20).map(|_| one()).collect());
        for _ in 0..16 * 20 {
            all.recv_timeout(LONG).unwrap();
        }
    }

    #[test]
    fn every_job_is_run_however_they_come() {
        let (pool, done) = (Pool::start(4).unwrap(), Arc::new(AtomicUsize::new(0)));
        for count in (0..1000).map(|n| n % 7) {
            let one = |n: u64| {
                let done = Arc::clone(&done);
                let lane = (n > 0).then_some(Lane { key: n % 3, width: 1 + (n % 3) as usize });
                job(lane, move || {
                    done.fetch_add(1, Ordering::Relaxed);
                })
            };
            pool.run_all(&mut (0..count).map(one).collect());
        }
        let queue = Arc::clone(&pool.queue);
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), (0..1000).map(|n| n % 7).sum::<usize>());
        assert!(queue.lanes.is_empty(), "nothing is kept of a lane that is empty");
    }

    #[test]
    fn a_lane_runs_in_its_order_and_delays_no_other_work() {
        let pool = Pool::start(4).unwrap();
        let (mut jobs, begins, ends) = held(Some(Lane { key: 7, width: 2 }), 5);
        pool.run_all(&mut jobs);
        let mut first = [begins.recv_timeout(LONG).unwrap(), begins.recv_timeout(LONG).unwrap()];
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        assert_eq!(pool.waiting(), 3);

        let (mut others, others_begin, ends_of_others) = held(None, 2);
        pool.run_all(&mut others);
        for _ in 0..2 {
            others_begin.recv_timeout(LONG).unwrap();
        }
        assert!(begins.try_recv().is_err(), "a third of the lane began");

        for (n, end) in ends.iter().enumerate() {
            end.send(()).unwrap();
            if n + 2 < ends.len() {
                assert_eq!(begins.recv_timeout(LONG), Ok(n + 2));
            }
        }
        ends_of_others.iter().for_each(|end| end.send(()).unwrap());
    }

    #[test]
    fn a_panic_ends_a_job_of_a_lane_as_well() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let lane = Some(Lane { key: 1, width: 1 });
        let panics = job(lane, || std::panic::resume_unwind(Box::new("on purpose")));
        pool.run_all(&mut vec![panics, job(lane, move || done.send(()).unwrap())]);
        all.recv_timeout(LONG).unwrap();
    }

    const LANE: Lane = Lane { key: 7, width: 1 };

    fn permit(pool: &Pool<Task>) -> LanePermit<Task> {
        pool.enter(LANE).unwrap_or_else(|_| panic!("the lane is full"))
    }

    fn queue(pool: &Pool<Task>, work: Task) {
        pool.run(PoolJob { admission: admission(Some(LANE)), work });
    }

    #[test]
    fn the_holder_of_a_permit_runs_queued_work() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (permit(&pool), 3);
        for n in 0..2 {
            queue(&pool, Task::Quick(n, done.clone()));
        }
        assert!(pool.enter(LANE).is_err());
        assert!(mine.run_queued(&mut budget, &mut ()).is_none());
        assert_eq!(all.try_iter().collect::<Vec<_>>(), [(0, true), (1, true)]);
        assert_eq!(budget, 1);
        drop(permit(&pool)); // it is free again
    }

    #[test]
    fn work_beyond_the_budget_goes_to_the_pool() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (permit(&pool), 1);
        for n in 0..3 {
            queue(&pool, Task::Quick(n, done.clone()));
        }
        let left = mine.run_queued(&mut budget, &mut ());
        assert_eq!(all.try_iter().collect::<Vec<_>>(), [(0, true)]);
        assert!(pool.enter(LANE).is_err(), "the permit was passed on");
        pool.run(left.unwrap());
        let next = || all.recv_timeout(LONG).unwrap();
        // The pool's thread holds the permit then, and runs the last job as well.
        assert_eq!([next(), next()], [(1, false), (2, true)]);
    }

    #[test]
    fn work_that_would_block_goes_to_the_pool_with_the_permit() {
        let pool = Pool::start(2).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (permit(&pool), 9);
        let (begun, begins) = channel();
        let (end, told) = channel();
        let blocks = move || {
            begun.send(()).unwrap();
            told.recv_timeout(LONG).unwrap();
        };
        queue(&pool, Task::Blocks(Box::new(blocks)));
        queue(&pool, Task::Quick(1, done));
        let left = mine.run_queued(&mut budget, &mut ());
        pool.run(left.unwrap());
        begins.recv_timeout(LONG).unwrap();
        assert!(pool.enter(LANE).is_err() && all.try_recv().is_err());
        end.send(()).unwrap();
        assert_eq!(all.recv_timeout(LONG), Ok((1, true)));
    }

    #[test]
    fn a_permit_that_is_dropped_is_passed_on() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let mine = permit(&pool);
        queue(&pool, Task::Quick(0, done));
        drop(mine);
        assert_eq!(all.recv_timeout(LONG), Ok((0, false)));
    }
}
