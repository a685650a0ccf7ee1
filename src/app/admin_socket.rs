//! The admin socket during the life of the process: it exists before the first NFS client is
//! accepted, because a server that cannot be managed must not serve, and until the process stops.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::api::ServerProperties;
use crate::admin::{socket, v1};
use crate::volume::Volumes;

/// The admin socket, if the server has volumes.
#[derive(Default)]
pub struct AdminSocket {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AdminSocket {
    /// Starts to serve the API over a socket at `path`; without volumes, it does nothing. Must be
    /// called inside a runtime. Blocks for a few system calls.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn open(
        path: &Path,
        volumes: Option<&Arc<Volumes>>,
        about: ServerProperties,
    ) -> Result<Self> {
        let admin_socket = Self::default();
        let Some(volumes) = volumes else { return Ok(admin_socket) };
        let api = v1::router(Arc::new(Arc::clone(volumes)), about);
        let listening = socket::listen(path).context("cannot open the admin socket")?;
        tracing::info!(path = %path.display(), "volumes can be managed (berth volume)");
        admin_socket.tasks.spawn(socket::serve(listening, api, admin_socket.stop.clone()));
        Ok(admin_socket)
    }

    /// Closes the socket, after a few seconds at most for requests in progress.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
