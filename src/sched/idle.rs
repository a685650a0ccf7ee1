//! Threads that wait for work. The most recently parked one is woken first.
//!
//! Its data is still in its processor's cache, and under a low load the same thread does all work
//! on one processor. A condition variable wakes the thread that has waited longest, so each piece
//! of work would go to another thread.

use std::thread::{self, Thread};

use parking_lot::{Mutex, MutexGuard};

/// The parked threads, in the order in which they parked. Kept under the lock of the work.
#[derive(Default)]
pub struct Idle(Vec<Thread>);

impl Idle {
    /// Returns how many are parked.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, count: usize) -> Vec<Thread> {
        self.0.split_off(self.0.len().saturating_sub(count))
    }
}

/// Unlocks, and wakes up to `count` threads of the [`Idle`] under the lock.
pub fn wake<T>(mut held: MutexGuard<'_, T>, idle: impl Fn(&mut T) -> &mut Idle, count: usize) {
    let woken = idle(&mut held).take(count);
    drop(held); // otherwise the threads would wait for the lock at once
    woken.iter().for_each(Thread::unpark);
}

/// Unlocks, blocks until [`wake`] wakes this thread, and locks again.
pub fn wait<'a, T>(
    lock: &'a Mutex<T>,
    mut held: MutexGuard<'a, T>,
    idle: impl Fn(&mut T) -> &mut Idle,
) -> MutexGuard<'a, T> {
    let me = thread::current();
    idle(&mut held).0.push(me.clone());
    loop {
        drop(held);
        thread::park();
        held = lock.lock();
        // Parking may end spuriously.
        if idle(&mut held).0.iter().all(|waiting| waiting.id() != me.id()) {
            return held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    type Waiting = Arc<Mutex<Idle>>;

    /// Starts a thread that waits once, and sends its number when it was woken.
    fn start(waiting: &Waiting, number: usize) -> Receiver<usize> {
        let (woken, wakes) = channel();
        let (lock, before) = (Arc::clone(waiting), waiting.lock().count());
        thread::spawn(move || {
            drop(wait(&lock, lock.lock(), |idle| idle));
            woken.send(number).unwrap();
        });
        while waiting.lock().count() == before {
            thread::yield_now();
        }
        wakes
    }

    #[test]
    fn the_last_is_woken_first() {
        let waiting = Waiting::default();
        let wakes: Vec<_> = (0..3).map(|number| start(&waiting, number)).collect();
        for number in [2, 1, 0] {
            wake(waiting.lock(), |idle| idle, 1);
            assert_eq!(wakes[number].recv_timeout(Duration::from_secs(60)), Ok(number));
            assert_eq!(waiting.lock().count(), number);
        }
        wake(waiting.lock(), |idle| idle, 1); // none waits, which is allowed
    }

    #[test]
    fn a_thread_waits_until_it_is_woken_by_the_queue() {
        let waiting = Waiting::default();
        let wakes = start(&waiting, 0);
        let thread = waiting.lock().0[0].clone();
        for _ in 0..1000 {
            thread.unpark();
            thread::yield_now();
        }
        assert!(wakes.try_recv().is_err());
        wake(waiting.lock(), |idle| idle, 7);
        assert_eq!(wakes.recv_timeout(Duration::from_secs(60)), Ok(0));
    }
}
