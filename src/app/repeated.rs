//! Threads that do the same thing again and again until they are told to stop.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Between two turns.
const PAUSE: Duration = Duration::from_secs(1);

/// A thread that does something once a second.
pub struct Repeated {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Repeated {
    /// Starts to do `work` on a thread of its own, called `name`.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub fn start(name: &str, work: impl Fn() + Send + 'static) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let turns = move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                work();
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(turns);
        Ok(Self { stop, thread: thread.context("cannot start a thread")? })
    }

    /// Stops, after the turn that is going on. Blocks until then.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
