//! Threads that wait for work: the one that has waited least is woken first.
//!
//! What it worked with is still in its processor's cache, and a thread that always comes to the
//! turn when there is little to do stays on one processor. A condition variable wakes the one that
//! has waited longest, so that each piece of work goes to another thread.

use std::thread::{self, Thread};

use parking_lot::{Mutex, MutexGuard};

/// The threads that wait, kept with the work under one lock.
#[derive(Default)]
pub struct Idle(Vec<Thread>);

impl Idle {
    /// How many wait.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, count: usize) -> Vec<Thread> {
        self.0.split_off(self.0.len().saturating_sub(count))
    }
}

/// Gives the lock back, and wakes up to `count` of those that wait in the [`Idle`] that is in it.
pub fn wake<T>(mut held: MutexGuard<'_, T>, idle: impl Fn(&mut T) -> &mut Idle, count: usize) {
    let woken = idle(&mut held).take(count);
    drop(held); // or they would wait for it at once
    woken.iter().for_each(Thread::unpark);
}

/// Gives the lock back until [`wake`] has come to this thread.
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
        // Parking may end without a reason.
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

    /// Starts a thread that waits once, and says when it does so no more.
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
        wake(waiting.lock(), |idle| idle, 1); // there is nobody, which is no harm
    }

    #[test]
    fn nobody_goes_on_without_being_taken() {
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
