//! The admin listener in the life of the process: it answers before the data plane starts, and
//! until after that has stopped.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use rustix::fs::statvfs;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::health::Health;
use crate::admin::host::Hosts;
use crate::admin::listener::Listener;
use crate::admin::source::{Exported, Found, Source};
use crate::admin::web::Admin;
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

/// How long requests may take to end at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The admin listener, if there is to be one, and what it tells.
pub struct Desk {
    /// What is counted, whether anybody can ask for it or not.
    pub metrics: Arc<Metrics>,
    health: Arc<Health>,
    admin: Arc<Admin>,
    address: Option<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// Begins to answer on `address` those who call this server by `hosts`, or by what is its own
    /// in any case: that the server is starting.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn open(address: Option<SocketAddr>, hosts: &[String]) -> Result<Self> {
        let names = nfs::names().chain(mount::names()).chain(portmap::names());
        let labels = names.flat_map(ProcedureNames::into_labels);
        let (metrics, health) = (Arc::new(Metrics::new(labels)), Arc::new(Health::starting()));
        let admin = Arc::new(Admin::new(Arc::clone(&metrics), Arc::clone(&health)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut desk = Self { metrics, health, admin, address: None, tasks, stop };
        if let Some(address) = address {
            desk.listen(address, hosts).await.with_context(|| {
                format!("cannot listen on {address}; choose another address with --admin")
            })?;
        }
        Ok(desk)
    }

    async fn listen(&mut self, address: SocketAddr, hosts: &[String]) -> std::io::Result<()> {
        let listener = Listener::bind(address).await?;
        self.address = Some(listener.address());
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy();
        self.admin.called(Hosts::new(listener.address(), &machine, hosts));
        let routes = Arc::clone(&self.admin).routes();
        self.tasks.spawn(listener.serve(routes, self.stop.clone()));
        self.tasks.spawn(Arc::clone(&self.admin).sample(self.stop.clone()));
        Ok(())
    }

    /// Where it listens.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// From now on: that the server serves at `bound`, and what.
    pub fn serving(&self, parts: Parts, bound: &[SocketAddr]) {
        self.admin.started(Arc::new(parts), bound.to_vec());
        if let Some(&first) = bound.first() {
            self.health.serving(first);
        }
    }

    /// From now on: that the server stops.
    pub fn draining(&self) {
        self.health.draining();
    }

    /// Answers no more.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(FAREWELL, self.tasks.wait()).await;
    }
}

/// The parts of the server that are asked.
pub struct Parts {
    /// The data plane.
    pub server: Arc<Server>,
    /// The open files.
    pub fs: Arc<Fs>,
    /// What is exported.
    pub exports: Arc<Exports>,
    /// The volumes, if there may be any.
    pub volumes: Option<Arc<Volumes>>,
    /// What the provisioner counts, if there is one.
    pub provisioner: Option<Arc<provisioner::metrics::Metrics>>,
}

impl Source for Parts {
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

    fn exports(&self, but_for: &HashSet<&str>) -> Vec<Exported> {
        let table = self.exports.load();
        let path = |export: &Export| String::from_utf8_lossy(&export.path).into_owned();
        let others = table.iter().map(|export| (path(export), export));
        let others = others.filter(|(path, _)| !but_for.contains(&**path));
        others.map(|(path, export)| exported(path, export)).collect()
    }

    fn volumes(&self) -> Option<Found> {
        self.volumes.as_deref().map(Found::of)
    }

    fn register(&self, registry: &mut Registry) {
        if let Some(metrics) = &self.provisioner {
            metrics.register(registry);
        }
    }
}

fn exported(path: String, export: &Export) -> Exported {
    Exported {
        path,
        directory: export.dir.display().to_string(),
        clients: export.clients().map(ToString::to_string).collect(),
        disk: disk(&export.dir),
    }
}

/// A file system as df(1) has it: what is reserved for root is not counted, so that it is full when
/// its users are out of space.
fn disk(dir: &Path) -> Option<DiskSpace> {
    let disk = statvfs(dir).ok()?;
    let (used, free) = (disk.f_blocks.saturating_sub(disk.f_bfree), disk.f_bavail);
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some(DiskSpace { size: bytes(used.saturating_add(free)), free: bytes(free) })
}
