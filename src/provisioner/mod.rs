//! Kubernetes: a claim becomes a bound volume, and its end follows the reclaim policy.
//!
//! ```text
//!   API server --watch--> stores, queues --> workers --blocking--> crate::volume
//!       ^                 (watch, queue)     claims  PVC -> volume, PV (or a recycled one)
//!       |                                    expand  larger PVC -> limit, PV, status
//!       +------ PVs, patches, events <------ volumes released PV -> end of the volume
//!                                            orphans what does not belong together
//! ```
//!
//! All of it runs on the control plane's runtime, beside the server of files. Several servers may
//! have one provisioner's name: each ends, grows and watches over its own volumes, and the Lease
//! ([`election`]) decides only which one of them provisions. Whatever happens to the Lease or the
//! API server, files are served.
//!
//! Each controller reads, decides (pure: `decide`), and applies; every step may be repeated, and
//! the process may die between any two. Idle, nothing is asked but what watches and the Lease take.
//!
//! # What is believed
//!
//! | who writes | what | is believed for |
//! |---|---|---|
//! | the cluster | uids, phases, admitted sizes, `spec.claimRef` of a Bound PV | that a claim is there, is bound, or is gone |
//! | the author of a claim | size, access modes | this claim's volume; growth as far as the cluster admits it |
//! | | `volumeName` | nothing, until the PV names the claim by its uid ([`ownership::is_bound`]). It stands in the way of the PV's end within its own namespace: keeping is the safe mistake |
//! | | `dataSource`, `dataSourceRef` | a claim of the same namespace and class that is bound and uses a volume of ours, by that volume's record; all else is refused |
//! | | name, namespace, labels, annotations | a directory by the class's `pathPattern`, below the root, that no other volume has or lies in ([`pattern`]) |
//! | | the annotations `storage-class`, `storage-provisioner`, `selected-node` | which class is meant and that it may begin, as the cluster reads them; the class itself must name us |
//! | who may patch PVs | `berth.io/volume`, `berth.io/volume-id` | nothing |
//! | | `berth.io/server` | that it is another server's: hands off |
//! | | `berth.io/on-delete` | more care than the volume's record asks for, never less |
//! | | `berth.io/ending` | that a volume which is not here was ended by us: the PV goes, no data |
//! | | `claimRef` | who is next, once the claim in the volume's record is gone |
//! | | reclaim policy | as Kubernetes has it: Retain keeps, Delete ends this PV's own volume when its claim is gone |
//! | | capacity | nothing: a volume grows to what its claim asks for |
//! | | finalizers, labels, mount options, class | nothing about volumes |
//! | who may make PVs | uid and path, which nobody can change later | which volume it points to; it decides about it once it is bound and no other PV is ([`ownership`]) |
//! | | path | also that a volume is not ended by hand without `--force` ([`holder`]) |
//! | this server | labels in the record of a volume | which PV and which claim it belongs to |

mod bound;
mod cache;
mod claims;
mod collision;
mod copy_source;
mod election;
pub mod error;
mod events;
mod expand;
mod fair_queue;
pub mod holder;
pub mod metrics;
mod objects;
mod orphans;
mod ownership;
pub mod params;
pub mod pattern;
pub mod queue;
mod reach;
mod reclaim;
mod recycled;
pub mod server;
mod source;
mod terms;
#[cfg(test)]
mod tests;
mod unfinished;
mod volumes;
mod watch;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use election::{Election, Identity};
use error::{Error, Result};
use events::{Events, Teller, events};
use metrics::Metrics;
use queue::{Outcome, Queue};
use reach::Reach;
use server::{Server, Where};
use unfinished::Unfinished;
use watch::{Key, Queues, Stores, Writers};

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

/// How often it is looked for what does not belong together. That asks the API server nothing,
/// unless something is found.
const LOOK: Duration = Duration::from_secs(15);

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
    /// Which server of the provisioner's name this is.
    server_id: String,
    volumes: Arc<Volumes>,
    server: Server,
    stores: Arc<Stores>,
    events: Events,
    metrics: Arc<Metrics>,
    /// Volumes that are given to no PV yet, by the claim's uid.
    unfinished: Mutex<HashMap<String, Unfinished>>,
    /// Claims that were told that somebody else fills them, by uid.
    populated: Mutex<HashSet<String>>,
    /// Whether this server provisions now. Who provisions holds it for reading.
    term: RwLock<bool>,
    /// What was found that does not belong together.
    found: Mutex<orphans::Found>,
    /// Uids of the claims that are looked at in this moment.
    busy: Mutex<HashSet<String>>,
}

impl Provisioner {
    /// Starts on the runtime that this runs on. `port` is where the server itself listens, `server`
    /// which one it is ([`crate::state::StateFolder::server`]). Asks nobody yet: that the API server
    /// cannot be reached is no error.
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
        let reach = Reach::new(config.cluster_url.to_string());
        let client = Client::try_from(config).map_err(StartError::Client)?;
        Ok(Self::asking(reach, client, settings, volumes, port, server, &namespace))
    }

    /// Starts with a client.
    fn asking(
        reach: Reach,
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
        let lease_namespace = settings.lease_namespace.as_deref().unwrap_or(namespace);
        let election =
            Election::new(client.clone(), lease_namespace, &settings.lease, Identity::of(server));
        let election = election.telling(reach);
        let (stores, writers) = watch::stores(&settings.namespaces);
        let (events, teller) = events(client.clone(), &settings.name, Arc::clone(&started.metrics));
        let cx = Context {
            server: Server::new(settings.at.clone(), port),
            client,
            settings,
            server_id: server.to_owned(),
            volumes,
            stores: Arc::new(stores),
            events,
            metrics: Arc::clone(&started.metrics),
            unfinished: Mutex::default(),
            populated: Mutex::default(),
            term: RwLock::new(false),
            found: Mutex::default(),
            busy: Mutex::default(),
        };
        let (stop, ready) = (started.stop.clone(), Arc::clone(&started.ready));
        started.tasks.spawn(run(Arc::new(cx), election, writers, teller, ready, stop));
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

/// Takes care of this server's volumes, and provisions while the Lease is held, until the token is
/// cancelled; finishes what was begun.
async fn run(
    cx: Arc<Context>,
    election: Election,
    writers: Writers,
    teller: Teller,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let queues = Arc::new(Queues::default());
    let telling = tokio::spawn(teller.run());
    let mut watches = watch::begin(&cx.client, writers, &cx.stores, &queues, election.reach());
    let working = async {
        if stop.run_until_cancelled(cx.stores.ready()).await.is_some() {
            let stores = Arc::clone(&cx.stores);
            cx.volumes.set_holders(Box::new(move |spec| holder::of(&stores, spec)));
            orphans::look(&cx).await;
            work(&cx, &queues, &stop).await;
            cx.volumes.set_holders(Box::new(holder::by_labels));
        }
    };
    let term = |lost| lead(Arc::clone(&cx), Arc::clone(&queues), Arc::clone(&ready), lost);
    tokio::join!(working, election.run(&stop, term));
    watches.shutdown().await;
    drop(cx);
    // What was said is still told, if that can be done soon.
    let abort = telling.abort_handle();
    if timeout(Duration::from_secs(2), telling).await.is_err() {
        abort.abort();
    }
}

/// Provisions until the token is cancelled, and waits for what was begun.
async fn lead(
    cx: Arc<Context>,
    queues: Arc<Queues>,
    ready: Arc<AtomicBool>,
    lost: CancellationToken,
) {
    cx.metrics.leads(true);
    if lost.run_until_cancelled(cx.stores.ready()).await.is_some() {
        tracing::info!(provisioner = cx.settings.name, "provisioning");
        *cx.term.write().await = true;
        ready.store(true, Ordering::Relaxed);
        // Those who waited while nobody, or somebody else, led.
        cx.stores.claims().for_each(|claim| queues.claims.add(Key::of(&*claim)));
        lost.cancelled().await;
        ready.store(false, Ordering::Relaxed);
        *cx.term.write().await = false;
    }
    cx.metrics.leads(false);
}

/// Looks at what changed until the token is cancelled, and finishes what was begun.
async fn work(cx: &Arc<Context>, queues: &Arc<Queues>, stop: &CancellationToken) {
    let mut workers = JoinSet::new();
    for _ in 0..CLAIM_WORKERS {
        let (cx, queues, stop) = (Arc::clone(cx), Arc::clone(queues), stop.clone());
        let look = move |key: Key| {
            let cx = Arc::clone(&cx);
            async move { claims::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.claims, &stop, look).await });
    }
    for _ in 0..PV_WORKERS {
        let (cx, queues, stop) = (Arc::clone(cx), Arc::clone(queues), stop.clone());
        let look = move |key: Key| {
            let cx = Arc::clone(&cx);
            async move { volumes::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.pvs, &stop, look).await });
    }
    workers.spawn(repeat(Arc::clone(cx), Arc::clone(queues), stop.clone()));
    while workers.join_next().await.is_some() {}
}

/// Looks again and again: at all objects, and for what does not belong together.
async fn repeat(cx: Arc<Context>, queues: Arc<Queues>, stop: CancellationToken) {
    let mut all = Instant::now();
    while stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
        if all.elapsed() >= RESYNC {
            all = Instant::now();
            orphans::say_again(&cx);
            cx.stores.add_all(&queues);
        }
        orphans::look(&cx).await;
    }
}

/// Looks at one object after the other.
async fn worker<F, Fut>(queue: &Queue<Key>, stop: &CancellationToken, look: F)
where
    F: Fn(Key) -> Fut,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    while let Some(key) = stop.run_until_cancelled(queue.next()).await {
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
