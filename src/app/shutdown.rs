//! The shutdown of the process, which takes a bounded time even if a file system hangs.
//!
//! ```text
//!   SIGTERM --> calls in progress are finished --> files are flushed --> volumes stop --> exit
//!                    --grace                          together at most FLUSH
//! ```
//!
//! Threads that block on a file system that hangs are not joined. The locks are released
//! explicitly, because the kernel may keep the process, with all its open files, until a FUSE
//! daemon replies. A second signal ends the process at once.

use std::mem::ManuallyDrop;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::spawn_blocking;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::App;
use super::periodic_thread::PeriodicThread;
use super::signals::Signals;
use crate::provisioner::Provisioner;

/// Time limit of flushing, unless `--grace` is shorter.
const FLUSH: Duration = Duration::from_secs(20);

/// Shortest time limit of flushing.
const FLUSH_MIN: Duration = Duration::from_secs(1);

/// Exits at the next SIGTERM or SIGINT, without waiting for anything.
pub fn exit_at_next_signal(mut signals: Signals) {
    tokio::spawn(async move {
        signals.stop().await;
        tracing::warn!("second signal to stop: ending at once");
        process::exit(1);
    });
}

/// Accepts no more calls and requests, and finishes those in progress, for at most the grace
/// period.
pub async fn drain(app: &App, provisioner: Option<&Provisioner>) {
    let grace = app.config.grace;
    let provisioning = async {
        if let Some(provisioner) = provisioner {
            cut_off("provisioning", timeout(grace, provisioner.stop()).await);
        }
    };
    let admin_socket =
        async { cut_off("berth volume", timeout(grace, app.admin_socket.close()).await) };
    let serving = app.server.stop(grace);
    let ((), (), cut_off) = tokio::join!(provisioning, admin_socket, serving);
    if cut_off > 0 {
        tracing::warn!(cut_off, "connections were cut off at the end of the grace period");
    }
}

/// Logs that `what` did not stop in time: the API server or a disk may hang.
fn cut_off(what: &str, stopped: std::result::Result<(), Elapsed>) {
    if stopped.is_err() {
        tracing::warn!("{what} was cut off at the end of the grace period");
    }
}

/// Flushes all files, and stops the volumes. Must be called after [`drain`].
///
/// # Errors
/// It did not finish in time. Clients send the data that was not flushed again.
pub async fn finish(app: Arc<App>, upkeep: Vec<PeriodicThread>) -> Result<()> {
    let bound = FLUSH.min(app.config.grace).max(FLUSH_MIN);
    let until = Instant::now() + bound;
    let fs = Arc::clone(&app.fs);
    let left = spawn_blocking(move || fs.flush_all_within(bound)).await?;
    let (fs, volumes) = (Arc::clone(&app.fs), app.volumes.clone());
    let rest = spawn_blocking(move || {
        upkeep.into_iter().for_each(PeriodicThread::stop);
        fs.close_orphans();
        if let Some(volumes) = volumes {
            volumes.stop();
        }
    });
    // Dropping it would join threads that may hang in a file system.
    let app = ManuallyDrop::new(app);
    // If flushing used up the time, the rest still gets FLUSH_MIN.
    let stopped = timeout_at(until.max(Instant::now() + FLUSH_MIN), rest).await;
    if left == 0 && matches!(stopped, Ok(Ok(()))) {
        return Ok(());
    }
    app.unlock();
    tracing::error!(
        files = left, within = ?bound,
        "a file system does not respond, and some files are not flushed; data that was \
         acknowledged as stable is not lost, and clients send the rest again"
    );
    bail!("a file system does not respond; exiting without waiting for it")
}
