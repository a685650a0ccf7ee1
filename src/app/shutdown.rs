//! The end of the process, which no file system can put off.
//!
//! ```text
//!   SIGTERM --> calls are answered --> what was written is flushed --> volumes stop --> end
//!                    --grace                 together at most FLUSH
//! ```
//!
//! What hangs is left to itself, and so are the threads that wait for it: to join them would be to
//! wait, too. The locks are given up explicitly, because the kernel may keep a process, with all
//! that it has open, until a FUSE daemon has answered. A second signal ends the process at once.

use std::mem::ManuallyDrop;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::spawn_blocking;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::App;
use super::repeated::Repeated;
use super::signals::Signals;
use crate::provisioner::Provisioner;

/// How long flushing may take, if `--grace` is not less.
const FLUSH: Duration = Duration::from_secs(20);

/// The least that it may take.
const FLUSH_MIN: Duration = Duration::from_secs(1);

/// Ends the process at the next signal that says so.
pub fn at_once(mut signals: Signals) {
    tokio::spawn(async move {
        signals.stop().await;
        tracing::warn!("told again to stop: ending at once");
        process::exit(1);
    });
}

/// Answers what was asked, for no longer than the grace period, and accepts no more.
pub async fn answer(app: &App, provisioner: Option<&Provisioner>) {
    let grace = app.config.grace;
    let provisioning = async {
        if let Some(provisioner) = provisioner {
            cut_off("provisioning", timeout(grace, provisioner.stop()).await);
        }
    };
    let office = async { cut_off("berth volume", timeout(grace, app.office.close()).await) };
    let serving = app.server.stop(grace);
    let ((), (), cut_off) = tokio::join!(provisioning, office, serving);
    if cut_off > 0 {
        tracing::warn!(cut_off, "connections were cut off at the end of the grace period");
    }
}

/// What hangs in the cluster or on a disk must not hold up the end of serving.
fn cut_off(what: &str, stopped: std::result::Result<(), Elapsed>) {
    if stopped.is_err() {
        tracing::warn!("{what} was cut off at the end of the grace period");
    }
}

/// Flushes what was written, and stops the volumes. Nobody is served any more.
///
/// # Errors
/// It took too long, and was given up. Clients send again what was not flushed.
pub async fn finish(app: Arc<App>, upkeep: Vec<Repeated>) -> Result<()> {
    let bound = FLUSH.min(app.config.grace).max(FLUSH_MIN);
    let until = Instant::now() + bound;
    let fs = Arc::clone(&app.fs);
    let left = spawn_blocking(move || fs.flush_all_within(bound)).await?;
    let (fs, volumes) = (Arc::clone(&app.fs), app.volumes.clone());
    let rest = spawn_blocking(move || {
        upkeep.into_iter().for_each(Repeated::stop);
        fs.close_orphans();
        if let Some(volumes) = volumes {
            volumes.stop();
        }
    });
    // Dropping it would join threads, of which any may hang in a file system.
    let app = ManuallyDrop::new(app);
    // What was not flushed hangs: the rest gets the chance to show that it does not.
    let stopped = timeout_at(until.max(Instant::now() + FLUSH_MIN), rest).await;
    if left == 0 && matches!(stopped, Ok(Ok(()))) {
        return Ok(());
    }
    app.unlock();
    tracing::error!(
        files = left, within = ?bound,
        "a file system does not answer: not all that was written is flushed; nothing that was \
         acknowledged as stable is lost, and clients that are still there send the rest again"
    );
    bail!("a file system does not answer; the end was not waited for")
}
