//! The threads on which calls may sleep: a fixed number, fed through one queue.
//!
//! The queue is bounded by those who feed it: a connection hands over a limited number of calls
//! and bytes before it stops reading ([`super::link`]).
//!
//! A thread is woken for each job. Waking one or two, and having each that finds more jobs wake the
//! next, saved durable writes of 4 KiB nothing and made those of 1 MiB a tenth dearer.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Stack of a thread. The deepest calls use a few KiB; directories are read into the heap.
const STACK: usize = 512 * 1024;

/// Work for a thread that may sleep.
pub type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads. Dropping it runs what is queued, and waits for that.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    closed: bool,
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
        let wake = jobs.len().min(state.idle);
        state.jobs.extend(jobs.drain(..));
        drop(state);
        (0..wake).for_each(|_| self.queue.filled.notify_one());
    }

    /// How many jobs wait for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.lock().jobs.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.filled.notify_all();
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
        while let Some(job) = self.next() {
            // A bug in one call must not take a thread from all the others. What the job held is
            // dropped, and its connection given up.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a call panicked; its connection is closed");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};
    use std::time::Duration;

    #[test]
    fn jobs_that_wait_for_each_other_get_all_threads() {
        // Never dropped: if they do not get them, that would wait for ever.
        let pool: &Pool = Box::leak(Box::new(Pool::start(16).unwrap()));
        let (together, (done, all)) = (Arc::new(Barrier::new(16)), mpsc::channel());
        let job = || -> Job {
            let (together, done) = (Arc::clone(&together), done.clone());
            Box::new(move || {
                together.wait();
                done.send(()).unwrap();
            })
        };
        while pool.queue.lock().idle < 16 {
            thread::yield_now(); // or they would find jobs without being woken
        }
        pool.run(&mut (0..16 * 20).map(|_| job()).collect());
        for _ in 0..16 * 20 {
            all.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn every_job_is_run_however_they_come() {
        let (pool, done) = (Pool::start(4).unwrap(), Arc::new(AtomicUsize::new(0)));
        for count in (0..1000).map(|n| n % 7) {
            let job = || -> Job {
                let done = Arc::clone(&done);
                Box::new(move || {
                    done.fetch_add(1, Ordering::Relaxed);
                })
            };
            pool.run(&mut (0..count).map(|_| job()).collect());
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), (0..1000).map(|n| n % 7).sum::<usize>());
    }
}
