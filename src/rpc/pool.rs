//! The threads on which calls may sleep: a fixed number, fed through one queue.
//!
//! The queue is bounded by those who feed it: a connection hands over a limited number of calls
//! and bytes before it stops reading ([`super::link`]).
//!
//! Jobs that would only wait for each other stand in a lane ([`super::lanes`]) instead of on
//! threads: changes of one file come one after the other anyway. So a file that hangs takes one
//! thread and not all of them, and what runs has the processor's cache for itself: listings of one
//! directory, 16 at a time, went from 2.4 us an entry to 1.8, and the slowest from 28 ms to 10.
//!
//! Calls that run where they were read take a [`Place`] in their lane, too. Whoever has one does
//! what has come to stand in line behind it ([`Place::serve`]), with one send for the replies of a
//! connection:
//!
//! ```text
//!   data plane 0   CREATE, then what is in line: CREATE, CREATE ... 64 at most
//!   data plane 1   reads CREATE, CREATE: in line
//!   pool           what has to sleep, and what is more than 64; then, again, what is in line
//! ```
//!
//! So nobody is woken to wait for a lock, and clients that get their replies together make their
//! next calls together. Over eight connections writes of 4 KiB to one file went from 19 us to 15,
//! and REMOVE in one directory from 38 to 23, most of it by the sending. To try again what has just
//! found its lane taken, a few hundred times or when everything else is done, saved nothing.
//!
//! A thread is woken for each job. Waking one or two, and having each that finds more jobs wake the
//! next, saved durable writes of 4 KiB nothing and made those of 1 MiB a tenth dearer.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};

use super::handed::Bundle;
use super::lanes::{Lane, Lanes};
use crate::sched::idle::{self, Idle};
use crate::telemetry::bounded::OFTEN;

/// Stack of a thread. The deepest calls use a few KiB; directories are read into the heap.
const STACK: usize = 512 * 1024;

/// How many jobs a thread does in one go that stand in line behind a call of its own.
pub const SERVED: usize = 64;

/// Work for a thread that may sleep.
pub struct Job {
    /// For whom it may have to wait.
    pub stand: Stand,
    /// What is to be done.
    pub work: Box<dyn Work>,
}

/// What a job does.
pub trait Work: Send {
    /// Does it. May sleep.
    fn run(self: Box<Self>);

    /// Does it without sleeping, and has its reply sent with the `bundle`; gives it back if it
    /// would have to sleep.
    fn attempt(self: Box<Self>, bundle: &mut Bundle) -> Option<Box<dyn Work>>;
}

impl<F: FnOnce() + Send + 'static> Work for F {
    fn run(self: Box<Self>) {
        self();
    }

    fn attempt(self: Box<Self>, _: &mut Bundle) -> Option<Box<dyn Work>> {
        Some(self)
    }
}

/// Where a job stands.
pub enum Stand {
    /// Nowhere: it waits for a thread only.
    Nowhere,
    /// In line for a place.
    InLine(Lane),
    /// It has a place already.
    Begun(Place),
}

/// A place in a lane. Dropping it gives it up: the next who stands in line goes to the pool with
/// it.
#[must_use = "the place is given up when this is dropped"]
pub struct Place {
    queue: Arc<Queue>,
    lane: Lane,
    is_held: bool,
}

/// A fixed set of threads. Dropping it runs what is queued, and waits for that.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    lanes: Lanes<Box<dyn Work>>,
}

#[derive(Default)]
struct State {
    /// What can run.
    ready: VecDeque<Job>,
    idle: Idle,
    closed: bool,
}

impl Place {
    /// Where it is.
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// Ends what has the place; answers the work of the next who stands in line, whose place it is
    /// now.
    fn next(&mut self) -> Option<Box<dyn Work>> {
        let next = self.queue.lanes.leave(self.lane);
        self.is_held = next.is_some();
        next
    }

    /// Does what stands in line for it without sleeping, `budget` jobs at most; answers the job
    /// that it is left to, because that would have to sleep or is too much.
    pub fn serve(mut self, budget: &mut usize, bundle: &mut Bundle) -> Option<Job> {
        while let Some(mut work) = self.next() {
            if *budget > 0 {
                *budget -= 1;
                match caught(|| work.attempt(bundle)) {
                    Some(Some(given_back)) => work = given_back,
                    _ => continue,
                }
            }
            return Some(Job { stand: Stand::Begun(self), work });
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_held
            && let Some(work) = self.next()
        {
            self.is_held = false; // but by the one that is made here
            let place = self.queue.place(self.lane);
            self.queue.push([Job { stand: Stand::Begun(place), work }]);
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
        if !jobs.is_empty() {
            self.queue.push(jobs.drain(..).filter_map(|job| self.queue.line_up(job)));
        }
    }

    /// A place in a lane for a call that runs where it was read; the lane, if it has to stand in
    /// line. Does not block.
    pub fn enter(&self, lane: Lane) -> Result<Place, Lane> {
        if self.queue.lanes.enter(lane) { Ok(self.queue.place(lane)) } else { Err(lane) }
    }

    /// How many jobs wait for a thread, or in a lane.
    pub fn waiting(&self) -> usize {
        self.queue.lock().ready.len() + self.queue.lanes.waiting()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        idle::wake(state, |state| &mut state.idle, usize::MAX);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // it catches what panics
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn place(self: &Arc<Self>, lane: Lane) -> Place {
        Place { queue: Arc::clone(self), lane, is_held: true }
    }

    /// Has a job wait in its lane; gives it back if it can run.
    fn line_up(self: &Arc<Self>, job: Job) -> Option<Job> {
        let Stand::InLine(lane) = job.stand else { return Some(job) };
        let work = self.lanes.line_up(lane, job.work)?;
        Some(Job { stand: Stand::Begun(self.place(lane)), work })
    }

    /// Queues jobs that can run.
    fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut state = self.lock();
        let before = state.ready.len();
        state.ready.extend(jobs);
        let new = state.ready.len() - before;
        idle::wake(state, |state| &mut state.idle, new);
    }

    fn work(&self) {
        let mut follows = None;
        while let Some(Job { stand, work }) = self.next(follows) {
            caught(|| work.run());
            follows = match stand {
                Stand::Begun(place) => place.serve(&mut { SERVED }, &mut Bundle::default()),
                Stand::Nowhere | Stand::InLine(_) => None,
            };
        }
    }

    /// The next job; behind what others have waiting comes the one that `follows` in a lane.
    fn next(&self, follows: Option<Job>) -> Option<Job> {
        let mut state = self.lock();
        state.ready.extend(follows);
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

/// Does something for a call. A bug in one must not take a thread from all the others: what the job
/// held is dropped, and its connection given up.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        tracing::error!(name: OFTEN, "a call panicked; its connection is closed");
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

    fn job(lane: Option<Lane>, work: impl FnOnce() + Send + 'static) -> Job {
        Job { stand: lane.map_or(Stand::Nowhere, Stand::InLine), work: Box::new(work) }
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
        let queue = Arc::clone(&pool.queue);
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), (0..1000).map(|n| n % 7).sum::<usize>());
        assert!(queue.lanes.is_empty(), "nothing is kept of a lane that is empty");
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

    /// Work that says its number and how it was done: `true` if by whoever had the place.
    struct Quick(usize, Sender<(usize, bool)>);

    impl Work for Quick {
        fn run(self: Box<Self>) {
            self.1.send((self.0, false)).unwrap();
        }

        fn attempt(self: Box<Self>, _: &mut Bundle) -> Option<Box<dyn Work>> {
            self.1.send((self.0, true)).unwrap();
            None
        }
    }

    const LANE: Lane = Lane { key: 7, width: 1 };

    fn place(pool: &Pool) -> Place {
        pool.enter(LANE).unwrap_or_else(|_| panic!("the place is taken"))
    }

    fn line_up(pool: &Pool, work: impl Work + 'static) {
        pool.run(&mut vec![Job { stand: Stand::InLine(LANE), work: Box::new(work) }]);
    }

    #[test]
    fn who_has_the_place_does_what_stands_in_line() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (place(&pool), 3);
        for n in 0..2 {
            line_up(&pool, Quick(n, done.clone()));
        }
        assert!(pool.enter(LANE).is_err());
        assert!(mine.serve(&mut budget, &mut Bundle::default()).is_none());
        assert_eq!(all.try_iter().collect::<Vec<_>>(), [(0, true), (1, true)]);
        assert_eq!(budget, 1);
        drop(place(&pool)); // it is free again
    }

    #[test]
    fn what_is_too_much_goes_to_the_pool() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (place(&pool), 1);
        for n in 0..3 {
            line_up(&pool, Quick(n, done.clone()));
        }
        let left = mine.serve(&mut budget, &mut Bundle::default());
        assert_eq!(all.try_iter().collect::<Vec<_>>(), [(0, true)]);
        assert!(pool.enter(LANE).is_err(), "the place belongs to the next");
        pool.run(&mut left.into_iter().collect());
        let next = || all.recv_timeout(LONG).unwrap();
        // The pool's thread has the place then, and does the last in line as well.
        assert_eq!([next(), next()], [(1, false), (2, true)]);
    }

    #[test]
    fn what_has_to_sleep_takes_the_place_along_to_the_pool() {
        let pool = Pool::start(2).unwrap();
        let (done, all) = channel();
        let (mine, mut budget) = (place(&pool), 9);
        let (begun, begins) = channel();
        let (end, told) = channel();
        line_up(&pool, move || {
            begun.send(()).unwrap();
            told.recv_timeout(LONG).unwrap();
        });
        line_up(&pool, Quick(1, done));
        let left = mine.serve(&mut budget, &mut Bundle::default());
        pool.run(&mut left.into_iter().collect());
        begins.recv_timeout(LONG).unwrap();
        assert!(pool.enter(LANE).is_err() && all.try_recv().is_err());
        end.send(()).unwrap();
        assert_eq!(all.recv_timeout(LONG), Ok((1, true)));
    }

    #[test]
    fn a_place_that_is_dropped_goes_to_the_next() {
        let pool = Pool::start(1).unwrap();
        let (done, all) = channel();
        let mine = place(&pool);
        line_up(&pool, Quick(0, done));
        drop(mine);
        assert_eq!(all.recv_timeout(LONG), Ok((0, false)));
    }
}
