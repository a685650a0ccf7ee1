//! The admin socket in the life of the process: it answers once the volumes are served, until the
//! process is told to stop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::api::About;
use crate::admin::{socket, v1};
use crate::volume::Volumes;

/// The admin socket, if there are volumes to talk about.
pub struct Office {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Office {
    /// Begins to answer over the socket at `path`. Blocks for some system calls.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open(
        path: &Path,
        volumes: Option<&Arc<Volumes>>,
        listen: &[SocketAddr],
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let Some(volumes) = volumes else { return Ok(Self { stop, task: None }) };
        let about = About { version: env!("CARGO_PKG_VERSION").into(), listen: listen.to_vec() };
        let api = v1::router(Arc::new(Arc::clone(volumes)), about);
        let listening = socket::listen(path).context("cannot open the admin socket")?;
        tracing::info!(path = %path.display(), "volumes can be managed (berth volume)");
        let task = tokio::spawn(socket::serve(listening, api, stop.clone()));
        Ok(Self { stop, task: Some(task) })
    }

    /// Answers no more; what was begun is answered before, within some seconds.
    pub async fn close(self) {
        self.stop.cancel();
        if let Some(task) = self.task {
            let _ = task.await; // that it panicked has been said
        }
    }
}
