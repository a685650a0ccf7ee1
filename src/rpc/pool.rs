//! The threads on which calls may sleep: a fixed number, fed through one queue.
//!
//! The queue is bounded by those who feed it: a connection hands over a limited number of calls
//! and bytes before it stops reading ([`super::link`]).
//!
//! Jobs that would only wait for each other stand in a [`Lane`] instead of on threads: changes of one
//! file come one after the other anyway. So a file that hangs takes one thread and not all of them, and
//! what runs has the processor's cache for itself: listings of one directory, 16 at a time, went from
//! 2.4 us an entry to 1.8, and the slowest from 28 ms to 10; durable writes of one file from 48 us to
//! 40; changes of one directory over eight connections from 43 to 29. Trying a file's lock a few hundred
//! times before a call goes to the pool saved nothing on top of that.
//!
//! A thread is woken for each job. Waking one or two, and having each that finds more jobs wake the
//! next, saved durable writes of 4 KiB nothing and made those of 1 MiB a tenth dearer.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use crate::sys::idle::{self, Idle};

/// Stack of a thread. The deepest calls use a few KiB; directories are read into the heap.
const STACK: usize = 512 * 1024;

/// Work for a thread that may sleep.
pub struct Job {
    /// Where it stands in line; `None`: nowhere.
    pub lane: Option<Lane>,
    /// What is to be done.
    pub work: Box<dyn FnOnce() + Send>,
}

/// Jobs that would wait for each other. They begin in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The same for all of them, and of nobody's choice.
    pub key: u64,
    /// How many may run at a time.
    pub width: usize,
}

/// A fixed set of threads. Dropping it runs what is queued, and waits for that.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What can run.
    ready: VecDeque<Job>,
    /// The lanes in which there is something.
    lanes: HashMap<u64, Line>,
    /// Jobs that wait in them.
    lined_up: usize,
    idle: Idle,
    closed: bool,
}

/// What there is in a lane.
#[derive(Default)]
struct Line {
    /// Jobs that run or can.
    begun: usize,
    waiting: VecDeque<Job>,
}

impl State {
    /// Takes a job in; answers whether it can run.
    fn add(&mut self, job: Job) -> bool {
        if let Some(lane) = job.lane {
            let line = self.lanes.entry(lane.key).or_default();
            if line.begun >= lane.width {
                line.waiting.push_back(job);
                self.lined_up += 1;
                return false;
            }
            line.begun += 1;
        }
        self.ready.push_back(job);
        true
    }

    /// Notes that a job of a lane has ended, whose place the next one takes: behind what others
    /// have waiting.
    fn advance(&mut self, lane: Lane) {
        let Some(line) = self.lanes.get_mut(&lane.key) else { return };
        if let Some(next) = line.waiting.pop_front() {
            self.lined_up -= 1;
            self.ready.push_back(next);
            return;
        }
        line.begun -= 1;
        if line.begun == 0 {
            self.lanes.remove(&lane.key);
        }
    }
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let start = |n| {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name(format!("berth-pool-{n}")).stack_size(STACK);
            thread.spawn(move || queue.work())
        };
        let threads = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Self { queue, threads })
    }

    /// Queues all of `jobs`, in their order. Does not block.
    pub fn run(&self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.queue.lock();
        let ready = jobs.drain(..).map(|job| state.add(job)).filter(|ready| *ready).count();
        let woken = state.idle.take(ready);
        drop(state);
        woken.iter().for_each(Thread::unpark);
    }

    /// How many jobs wait for a thread, or in a lane.
    pub fn waiting(&self) -> usize {
        let state = self.queue.lock();
        state.ready.len() + state.lined_up
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        let woken = state.idle.take(usize::MAX);
        drop(state);
        woken.iter().for_each(Thread::unpark);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // it catches what panics
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut ended = None;
        while let Some(Job { lane, work }) = self.next(ended) {
            // A bug in one call must not take a thread from all the others. What the job held is
            // dropped, and its connection given up.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("a call panicked; its connection is closed");
            }
            ended = lane;
        }
    }

    /// The next job, after one of the lane `ended`.
    fn next(&self, ended: Option<Lane>) -> Option<Job> {
        let mut state = self.lock();
        if let Some(lane) = ended {
            state.advance(lane);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    fn job(lane: Option<Lane>, work: impl FnOnce() + Send + 'static) -> Job {
        Job { lane, work: Box::new(work) }
    }

    /// Jobs that say their number when they begin, and end when they are told to.
    fn held(lane: Option<Lane>, count: usize) -> (Vec<Job>, Receiver<usize>, Vec<Sender<()>>) {
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
        // Never dropped: if they do not get them, that would wait for ever.
        let pool: &Pool = Box::leak(Box::new(Pool::start(16).unwrap()));
        let (together, (done, all)) = (Arc::new(Barrier::new(16)), channel());
        let one = || {
            let (together, done) = (Arc::clone(&together), done.clone());
            job(None, move || {
                together.wait();
                done.send(()).unwrap();
            })
        };
        while pool.queue.lock().idle.count() < 16 {
            thread::yield_now(); // or they would find jobs without being woken
        }
        pool.run(&mut (0..16 * 20).map(|_| one()).collect());
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
            pool.run(&mut (0..count).map(one).collect());
        }
        let lanes = Arc::clone(&pool.queue);
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), (0..1000).map(|n| n % 7).sum::<usize>());
        assert!(lanes.lock().lanes.is_empty(), "nothing is kept of a lane that is empty");
    }

    #[test]
    fn a_lane_runs_in_its_order_and_holds_nobody_else_up() {
        let pool = Pool::start(4).unwrap();
        let (mut jobs, begins, ends) = held(Some(Lane { key: 7, width: 2 }), 5);
        pool.run(&mut jobs);
        let mut first = [begins.recv_timeout(LONG).unwrap(), begins.recv_timeout(LONG).unwrap()];
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        assert_eq!(pool.waiting(), 3);

        let (mut others, others_begin, ends_of_others) = held(None, 2);
        pool.run(&mut others);
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
        pool.run(&mut vec![panics, job(lane, move || done.send(()).unwrap())]);
        all.recv_timeout(LONG).unwrap();
    }
}
