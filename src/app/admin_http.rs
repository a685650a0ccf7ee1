//! The admin listener (HTTP over TCP) during the life of the process: it responds before the data
//! plane starts, and until after it has stopped.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::health::Health;
use crate::admin::host::AllowedHosts;
use crate::admin::listener::HttpListener;
use crate::admin::server_view::{ServerView, StaticExport, VolumesSnapshot};
use crate::admin::web::AdminPages;
use crate::export::Export;
use crate::export::table::Exports;
use crate::fs::Fs;
use crate::mount;
use crate::nfs;
use crate::portmap;
use crate::provisioner;
use crate::rpc::program::ProcedureNames;
use crate::rpc::transport::server::Server;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::scrape::Gauges;
use crate::volume::{DiskSpace, Volumes};

/// Time limit of requests in progress when the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// The admin listener, if one is configured, and the state that it reports.
pub struct AdminHttp {
    /// The metrics, which are counted with and without a listener.
    pub metrics: Arc<Metrics>,
    health: Arc<Health>,
    admin: Arc<AdminPages>,
    address: Option<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl AdminHttp {
    /// Starts to listen on `address`, and reports that the server is starting. `hosts` are names by
    /// which requests may address the server, besides its own.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn open(address: Option<SocketAddr>, hosts: &[String]) -> Result<Self> {
        let names = nfs::names().chain(mount::names()).chain(portmap::names());
        let labels = names.flat_map(ProcedureNames::into_labels);
        let (metrics, health) = (Arc::new(Metrics::new(labels)), Arc::new(Health::starting()));
        let admin = Arc::new(AdminPages::new(Arc::clone(&metrics), Arc::clone(&health)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut admin_http = Self { metrics, health, admin, address: None, tasks, stop };
        if let Some(address) = address {
            admin_http.listen(address, hosts).await.with_context(|| {
                format!("cannot listen on {address}; choose another address with --admin")
            })?;
        }
        Ok(admin_http)
    }

    async fn listen(&mut self, address: SocketAddr, hosts: &[String]) -> std::io::Result<()> {
        let listener = HttpListener::bind(address).await?;
        self.address = Some(listener.address());
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy();
        self.admin.set_hosts(AllowedHosts::new(listener.address(), &machine, hosts));
        let routes = Arc::clone(&self.admin).routes();
        self.tasks.spawn(listener.serve(routes, self.stop.clone()));
        self.tasks.spawn(Arc::clone(&self.admin).sample(self.stop.clone()));
        Ok(())
    }

    /// Returns the address on which it listens.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Reports from now on that the server serves NFS on `bound`, and the state of `parts`.
    pub fn serving(&self, parts: ServerParts, bound: &[SocketAddr]) {
        self.admin.started(Arc::new(parts), bound.to_vec());
        if let Some(&first) = bound.first() {
            self.health.serving(first);
        }
    }

    /// Reports from now on that the server is stopping.
    pub fn draining(&self) {
        self.health.draining();
    }

    /// Closes the listener, after at most [`GRACE`] for requests in progress.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(GRACE, self.tasks.wait()).await;
    }
}

/// The parts of the server whose state is reported.
pub struct ServerParts {
    /// The data plane.
    pub server: Arc<Server>,
    /// The exported file systems, with their open files.
    pub fs: Arc<Fs>,
    /// The export table.
    pub exports: Arc<Exports>,
    /// The volumes, if the server has a directory for them.
    pub volumes: Option<Arc<Volumes>>,
    /// The metrics of the provisioner, if the server is one.
    pub provisioner: Option<Arc<provisioner::metrics::ProvisionerMetrics>>,
}

impl ServerView for ServerParts {
    fn gauges(&self) -> Gauges {
        let nodes = self.fs.stats();
        Gauges {
            connections: self.server.connections(),
            queue: self.server.waiting(),
            memory: self.server.budget().taken(),
            memory_limit: self.server.budget().total(),
            memory_waits: self.server.budget().waits(),
            nodes: nodes.open,
            node_hits: nodes.hits,
            node_misses: nodes.misses,
            flushes: self.fs.flushes(),
        }
    }

    fn exports(&self, but_for: &HashSet<&str>) -> Vec<StaticExport> {
        let table = self.exports.load();
        let path = |export: &Export| String::from_utf8_lossy(&export.path).into_owned();
        let exports = table.iter().map(|export| (path(export), export));
        let others = exports.filter(|(path, _)| !but_for.contains(&**path));
        others.map(|(path, export)| exported(path, export)).collect()
    }

    fn volumes(&self) -> Option<VolumesSnapshot> {
        self.volumes.as_deref().map(VolumesSnapshot::of)
    }

    fn register(&self, registry: &mut Registry) {
        if let Some(metrics) = &self.provisioner {
            metrics.register(registry);
        }
    }
}

fn exported(path: String, export: &Export) -> StaticExport {
    StaticExport {
        path,
        directory: export.dir.display().to_string(),
        clients: export.clients().map(ToString::to_string).collect(),
        disk: DiskSpace::at(&export.dir).ok(),
    }
}
