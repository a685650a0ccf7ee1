//! The signals by which administrators and service managers control the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The request that a signal makes.
#[derive(PartialEq, Eq)]
pub enum ControlSignal {
    /// SIGHUP: read the exports file again.
    Reload,
    /// SIGTERM or SIGINT: stop.
    Stop,
}

/// The signals that were received.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Registers the handlers. From now on, these signals do not end the process.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> ControlSignal {
        tokio::select! {
            _ = self.hangup.recv() => ControlSignal::Reload,
            _ = self.terminate.recv() => ControlSignal::Stop,
            _ = self.interrupt.recv() => ControlSignal::Stop,
        }
    }

    /// Waits for SIGTERM or SIGINT. SIGHUP remains for [`Signals::next`].
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
