//! The admin socket in the life of the process: it is there before the first client is accepted, so
//! that a server without it never serves, and answers until the process is told to stop.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::api::About;
use crate::admin::{socket, v1};
use crate::volume::Volumes;

/// The admin socket, if there are volumes to talk about.
#[derive(Default)]
pub struct Office {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Office {
    /// Begins to answer over the socket at `path`; without volumes, there is nothing to answer.
    /// Blocks for some system calls, inside a runtime.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open(path: &Path, volumes: Option<&Arc<Volumes>>, about: About) -> Result<Self> {
        let office = Self::default();
        let Some(volumes) = volumes else { return Ok(office) };
        let api = v1::router(Arc::new(Arc::clone(volumes)), about);
        let listening = socket::listen(path).context("cannot open the admin socket")?;
        tracing::info!(path = %path.display(), "volumes can be managed (berth volume)");
        office.tasks.spawn(socket::serve(listening, api, office.stop.clone()));
        Ok(office)
    }

    /// Answers no more; what was begun is answered before, within some seconds.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
