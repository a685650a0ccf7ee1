//! Threads that run the same work once a second, until they are stopped.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Pause between two runs of the work.
const PAUSE: Duration = Duration::from_secs(1);

/// A thread that runs its work once a second. It is detached when this is dropped.
pub struct PeriodicThread {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl PeriodicThread {
    /// Starts a thread with this name. The first run of `work` is after one pause.
    ///
    /// # Errors
    /// The system cannot create the thread.
    pub fn start(name: &str, work: impl Fn() + Send + 'static) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let runs = move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                work();
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(runs);
        Ok(Self { stop, thread: thread.context("cannot start a thread")? })
    }

    /// Stops the thread. Blocks until the current run of the work has ended.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
