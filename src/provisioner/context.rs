//! What every controller needs: the client, the volumes, what is known of the cluster, and what is
//! in progress.

use std::sync::Arc;

use kube::Client;
use tokio::sync::RwLock;

use super::address::AddressResolver;
use super::claim_progress::ClaimProgress;
use super::cluster_view::ClusterView;
use super::error::{Error, Result};
use super::events::EventRecorder;
use super::metrics::ProvisionerMetrics;
use crate::volume::{self, Volumes};

/// What every controller needs.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The provisioner's name, which StorageClasses name.
    pub provisioner: String,
    /// Identity of this server among those with the same provisioner name.
    pub server_id: String,
    /// The volumes of this server.
    pub volumes: Arc<Volumes>,
    /// Finds the address that PVs have.
    pub address: AddressResolver,
    /// The watched objects of the cluster.
    pub cluster: Arc<ClusterView>,
    /// Takes events for claims and PVs.
    pub events: EventRecorder,
    /// The counters.
    pub metrics: Arc<ProvisionerMetrics>,
    /// What is in progress for claims.
    pub progress: ClaimProgress,
    /// Whether this server provisions now. Provisioning holds it for reading, so that the end of a
    /// term waits for what was begun in it.
    pub term: RwLock<bool>,
}

impl Context {
    /// Runs an operation on volumes, which may block, on a thread of its own.
    ///
    /// # Errors
    /// Those of the operation; [`Error::Panic`].
    pub async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Arc<Volumes>) -> volume::error::Result<T> + Send + 'static,
    ) -> Result<T> {
        let volumes = Arc::clone(&self.volumes);
        let done = tokio::task::spawn_blocking(move || operation(&volumes)).await;
        done.map_err(|_| Error::Panic)?.map_err(Error::from)
    }
}
