//! Kubernetes: a claim becomes a bound volume, and its end follows the reclaim policy.
//!
//! ```text
//!   API server --watch--> stores, queues --> workers --blocking--> crate::volume
//!       ^                 (watch, queue)     claims  PVC -> volume, PV
//!       |                                    expand  larger PVC -> limit, PV, status
//!       +------ PVs, patches, events <------ volumes released PV -> end of the volume
//! ```
//!
//! All of it runs on the control plane's runtime, beside the server of files, while this process
//! holds a Lease ([`election`]). Whatever happens to the Lease or the API server, files are served.
//!
//! Each controller reads, decides (pure: `decide`), and applies; every step may be repeated, and the
//! process may die between any two. Idle, nothing is asked but what watches and the Lease take.

mod claims;
mod collision;
mod election;
pub mod error;
mod events;
mod expand;
pub mod holder;
pub mod metrics;
mod objects;
mod orphans;
pub mod params;
pub mod pattern;
pub mod queue;
pub mod server;
mod source;
#[cfg(test)]
mod tests;
mod volumes;
mod watch;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use claims::Unfinished;
use election::{Election, Identity};
use error::{Error, Result};
use events::{Events, events};
use metrics::Metrics;
use queue::{Outcome, Queue};
use server::{Server, Where};
use watch::{Key, Queues, Stores};

use crate::volume;
use crate::volume::Volumes;

/// Longest time that one call to the API server may take; watches have their own.
const CALL: Duration = Duration::from_secs(30);

/// Claims that are worked on at a time.
const CLAIM_WORKERS: usize = 16;

/// PVs that are worked on at a time.
const PV_WORKERS: usize = 8;

/// How often everything that is known is looked at again. It asks the API server nothing where
/// nothing is owed, and says anew why a claim is refused: events are kept for an hour only.
const RESYNC: Duration = Duration::from_secs(15 * 60);

/// How to provision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The provisioner's name, which classes name.
    pub name: String,
    /// Where clients find the server.
    pub at: Where,
    /// The cluster, by a file; without it, the one that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The namespaces whose claims are seen; none: all.
    pub namespaces: Vec<String>,
    /// The Lease's name.
    pub lease: String,
    /// Its namespace; without it, that of the configuration.
    pub lease_namespace: Option<String>,
}

/// Why the provisioner cannot start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The file makes no sense.
    #[error("cannot use the configuration {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// There is none.
    #[error("cannot find a cluster; name one with --kubeconfig FILE, or run in one")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// It makes no client.
    #[error("cannot talk to the cluster")]
    Client(#[source] kube::Error),
}

/// The running provisioner.
pub struct Provisioner {
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

/// What every controller needs.
struct Context {
    client: Client,
    settings: Settings,
    volumes: Arc<Volumes>,
    server: Server,
    stores: Arc<Stores>,
    events: Events,
    metrics: Arc<Metrics>,
    /// Volumes that are given to no PV yet, by the claim's uid.
    unfinished: Mutex<HashMap<String, Unfinished>>,
    /// Claims that were told that somebody else fills them, by uid.
    populated: Mutex<HashSet<String>>,
}

impl Provisioner {
    /// Starts on the runtime that this runs on. `port` is where the server itself listens, `server`
    /// which one it is ([`crate::state::State::server`]). Asks nobody yet: that the API server cannot
    /// be reached is no error.
    ///
    /// # Errors
    /// The configuration of the cluster cannot be had.
    pub async fn start(
        settings: Settings,
        volumes: Arc<Volumes>,
        port: u16,
        server: &str,
    ) -> std::result::Result<Self, StartError> {
        let config = configuration(&settings).await?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(StartError::Client)?;
        Ok(Self::with(client, settings, volumes, port, server, &namespace))
    }

    /// Starts with a client.
    fn with(
        client: Client,
        settings: Settings,
        volumes: Arc<Volumes>,
        port: u16,
        server: &str,
        namespace: &str,
    ) -> Self {
        let started = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            metrics: Arc::default(),
            ready: Arc::default(),
        };
        let namespace = settings.lease_namespace.as_deref().unwrap_or(namespace);
        let election =
            Election::new(client.clone(), namespace, &settings.lease, Identity::of(server));
        let (stop, ready, metrics) =
            (started.stop.clone(), started.ready.clone(), started.metrics.clone());
        started.tasks.spawn(async move {
            let term = |lost| {
                let (client, settings) = (client.clone(), settings.clone());
                let (volumes, metrics) = (Arc::clone(&volumes), Arc::clone(&metrics));
                lead(client, settings, volumes, port, metrics, Arc::clone(&ready), lost)
            };
            election.run(&stop, term).await;
        });
        started
    }

    /// Begins nothing any more, finishes what was begun, and releases the Lease.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether this process leads and knows the cluster.
    pub fn leads(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

async fn configuration(settings: &Settings) -> std::result::Result<Config, StartError> {
    let Some(path) = &settings.kubeconfig else {
        return Config::infer().await.map_err(StartError::NoCluster);
    };
    let failed = |source| StartError::File { path: path.clone(), source };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

/// Provisions until the token is cancelled, and finishes what was begun.
async fn lead(
    client: Client,
    settings: Settings,
    volumes: Arc<Volumes>,
    port: u16,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    lost: CancellationToken,
) {
    let (stores, writers) = watch::stores(&settings.namespaces);
    let (stores, queues) = (Arc::new(stores), Arc::new(Queues::default()));
    let (events, teller) = events(client.clone(), &settings.name, Arc::clone(&metrics));
    let cx = Arc::new(Context {
        server: Server::new(settings.at.clone(), port),
        client,
        settings,
        volumes,
        stores,
        events,
        metrics,
        unfinished: Mutex::default(),
        populated: Mutex::default(),
    });
    cx.metrics.leads(true);
    let telling = tokio::spawn(teller.run());
    let mut watches = watch::begin(&cx.client, writers, &cx.stores, &queues);
    if lost.run_until_cancelled(cx.stores.ready()).await.is_some() {
        tracing::info!(provisioner = cx.settings.name, "provisioning");
        ready.store(true, Ordering::Relaxed);
        let stores = Arc::clone(&cx.stores);
        cx.volumes.set_holders(Box::new(move |spec| holder::of(&stores, spec)));
        orphans::report(&cx).await;
        work(&cx, &queues, &lost).await;
        cx.volumes.set_holders(Box::new(holder::by_labels));
        ready.store(false, Ordering::Relaxed);
    }
    watches.shutdown().await;
    cx.metrics.leads(false);
    drop(cx);
    // What was said is still told, if that can be done soon.
    let abort = telling.abort_handle();
    if timeout(Duration::from_secs(2), telling).await.is_err() {
        abort.abort();
    }
}

/// Looks at what changed until the token is cancelled, and finishes what was begun.
async fn work(cx: &Arc<Context>, queues: &Arc<Queues>, lost: &CancellationToken) {
    let mut workers = JoinSet::new();
    for _ in 0..CLAIM_WORKERS {
        let (cx, queues, lost) = (Arc::clone(cx), Arc::clone(queues), lost.clone());
        let look = move |key: Key| {
            let cx = Arc::clone(&cx);
            async move { claims::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.claims, &lost, look).await });
    }
    for _ in 0..PV_WORKERS {
        let (cx, queues, lost) = (Arc::clone(cx), Arc::clone(queues), lost.clone());
        let look = move |key: Key| {
            let cx = Arc::clone(&cx);
            async move { volumes::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.pvs, &lost, look).await });
    }
    let (cx, queues, lost) = (Arc::clone(cx), Arc::clone(queues), lost.clone());
    workers.spawn(async move {
        while lost.run_until_cancelled(sleep(RESYNC)).await.is_some() {
            cx.stores.add_all(&queues);
        }
    });
    while workers.join_next().await.is_some() {}
}

/// Looks at one object after the other.
async fn worker<F, Fut>(queue: &Queue<Key>, lost: &CancellationToken, look: F)
where
    F: Fn(Key) -> Fut,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    while let Some(key) = lost.run_until_cancelled(queue.next()).await {
        // In a task of its own, so that a fault in one object's treatment is not the end of all.
        let outcome = tokio::spawn(look(key.clone())).await.unwrap_or_else(|error| {
            tracing::error!(%error, ?key, "a fault of this program");
            Outcome::Failed
        });
        queue.done(key, outcome);
    }
}

/// A call to the API server, which may not take for ever.
async fn call<T>(
    what: impl Into<String>,
    request: impl Future<Output = std::result::Result<T, kube::Error>>,
) -> Result<T> {
    let what = what.into();
    match timeout(CALL, request).await {
        Ok(answer) => answer.map_err(Error::api(what)),
        Err(_) => Err(Error::Timeout { what, after: CALL }),
    }
}

impl Context {
    /// An operation on volumes, which may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Arc<Volumes>) -> volume::error::Result<T> + Send + 'static,
    ) -> Result<T> {
        let volumes = Arc::clone(&self.volumes);
        let done = tokio::task::spawn_blocking(move || operation(&volumes)).await;
        done.map_err(|_| Error::Panic)?.map_err(Error::from)
    }
}
