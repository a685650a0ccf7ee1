//! Kubernetes: provisions a volume and a PV for each claim, and reclaims the volume as the reclaim
//! policy says when the claim is gone.
//!
//! ```text
//!   API server --watch--> cluster_view, queue --> workers --blocking--> crate::volume
//!       ^                                       claims   claim -> volume, PV (or a recycled one)
//!       |                                       expand   larger claim -> larger volume and PV
//!       +------ PVs, patches, events <--------- volumes  released PV -> volume reclaimed
//!                                               orphans  volumes without PVs and the reverse
//! ```
//!
//! All of it runs on the control plane's runtime, beside the server of files. Several servers may
//! have one provisioner name: each reclaims, expands and watches its own volumes, and the Lease
//! ([`election`]) only decides which of them provisions. Files are served whatever happens to the
//! Lease or the API server.
//!
//! Each controller reads, decides (pure), and applies. Every step may be repeated, and the process
//! may die between any two. When nothing changes, only the watches and the Lease cause requests.
//!
//! # Files
//!
//! Imports go downwards in this table. No files import each other in a circle, and none imports
//! this one.
//!
//! | | |
//! |---|---|
//! | controllers | [`claims`] (with [`bound`] and [`expand`]), [`volumes`], [`orphans`] |
//! | their steps | [`cleanup`], [`collision`], [`copy_source`], [`recycled`], [`blockers`], [`volume_record`] |
//! | what they share | [`context`], [`claim_progress`], [`events`], [`address`], [`metrics`] |
//! | the cluster as it is known | [`watch`], [`cluster_view`], [`cache`], [`terms`], [`holder`] |
//! | decisions, pure | [`plan`], [`reclaim`], [`ownership`], [`parked`], [`data_source`] |
//! | basics | [`election`], [`call`], [`queue`], [`fair_queue`], [`reachability`], [`error`], [`objects`], [`params`], [`pattern`] |
//!
//! # What is believed
//!
//! | who writes | what | is believed for |
//! |---|---|---|
//! | the cluster | uids, phases, admitted sizes, `spec.claimRef` of a Bound PV | that a claim exists, is bound, or is gone |
//! | the author of a claim | size, access modes | this claim's volume; growth as far as the cluster admits it |
//! | | `volumeName` | nothing, until the PV names the claim by its uid ([`ownership::is_bound`]). Within its own namespace it keeps the PV's volume from being reclaimed: keeping is the safe mistake |
//! | | `dataSource`, `dataSourceRef` | a claim of the same namespace and class that is bound and uses a volume of ours, by that volume's record; everything else is refused |
//! | | name, namespace, labels, annotations | a directory by the class's `pathPattern`, below the root, that no other volume has or lies in ([`pattern`]) |
//! | | the annotations `storage-class`, `storage-provisioner`, `selected-node` | which class is meant and that provisioning may begin, as the cluster reads them; the class itself must name us |
//! | who may patch PVs | `berth.io/volume`, `berth.io/volume-id` | nothing |
//! | | `berth.io/server` | that the PV is another server's, which is then left alone |
//! | | `berth.io/on-delete` | more care than the volume's record asks for, never less |
//! | | `berth.io/ending` | that Berth has reclaimed a volume that is missing: the PV is deleted, no data |
//! | | `claimRef` | which claim is next, once the claim in the volume's record is gone |
//! | | reclaim policy | as in Kubernetes: Retain keeps, Delete reclaims this PV's own volume when its claim is gone |
//! | | capacity | nothing: a volume grows to what its claim asks for |
//! | | finalizers, labels, mount options, class | nothing about volumes |
//! | who may create PVs | uid and path, which cannot be changed later | which volume it points to; it decides about the volume once it is bound and no other PV is ([`ownership`]) |
//! | | path | also that a volume is not deleted by hand without `--force` ([`holder`]) |
//! | this server | labels in the record of a volume | which PV and which claim it belongs to |

pub mod address;
mod blockers;
mod bound;
mod cache;
mod call;
mod claim_progress;
mod claims;
mod cleanup;
mod cluster_view;
mod collision;
mod context;
mod copy_source;
mod data_source;
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
mod parked;
pub mod pattern;
mod plan;
pub mod queue;
mod reachability;
mod reclaim;
mod recycled;
mod terms;
#[cfg(test)]
mod tests;
mod volume_record;
mod volumes;
mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use address::{AddressResolver, AddressSource};
use claim_progress::ClaimProgress;
use cluster_view::{ViewWriters, cluster_view};
use context::Context;
use election::{LeaderElection, LeaseIdentity};
use events::{EventSender, event_queue};
use metrics::ProvisionerMetrics;
use objects::ObjectKey;
use orphans::ReportedOrphans;
use queue::{ReconcileOutcome, WorkQueue};
use reachability::ApiReachability;
use watch::WorkQueues;

use crate::volume::Volumes;

/// Number of claims that are reconciled at a time.
const CLAIM_WORKERS: usize = 16;

/// Number of PVs that are reconciled at a time.
const PV_WORKERS: usize = 8;

/// Interval at which all known objects are reconciled again. That causes no requests for objects
/// that need nothing, and repeats why a claim is refused: events are kept for an hour only.
const RESYNC: Duration = Duration::from_secs(15 * 60);

/// Interval between two searches for orphans. A search causes no requests unless it finds some.
const ORPHAN_SEARCH: Duration = Duration::from_secs(15);

/// How long the last events may take to be sent when the provisioner stops.
const EVENTS_MAX: Duration = Duration::from_secs(2);

/// How to provision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvisionerSettings {
    /// The provisioner's name, which StorageClasses name.
    pub name: String,
    /// Where the address of the server comes from.
    pub address: AddressSource,
    /// The kubeconfig file of the cluster; without it, the cluster that this process runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The namespaces whose claims are watched; none: all.
    pub namespaces: Vec<String>,
    /// The Lease's name.
    pub lease: String,
    /// The Lease's namespace; without it, that of the configuration.
    pub lease_namespace: Option<String>,
}

/// Why the provisioner cannot start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The kubeconfig file cannot be used.
    #[error("cannot use the configuration {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// There is no configuration.
    #[error("cannot find a cluster; name one with --kubeconfig FILE, or run in one")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The configuration makes no client.
    #[error("cannot talk to the cluster")]
    Client(#[source] kube::Error),
}

/// The running provisioner.
pub struct Provisioner {
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<ProvisionerMetrics>,
    leading: Arc<AtomicBool>,
}

impl Provisioner {
    /// Starts the provisioner on the current runtime. `port` is the port that the server listens
    /// on, `server` its identity ([`crate::state::StateFolder::server`]). Makes no request yet: it
    /// is no error that the API server cannot be reached.
    ///
    /// # Errors
    /// There is no usable configuration of the cluster.
    pub async fn start(
        settings: ProvisionerSettings,
        volumes: Arc<Volumes>,
        port: u16,
        server: &str,
    ) -> Result<Self, StartError> {
        let config = configuration(&settings).await?;
        let namespace = config.default_namespace.clone();
        let reachability = ApiReachability::new(config.cluster_url.to_string());
        let client = Client::try_from(config).map_err(StartError::Client)?;
        Ok(Self::with_client(reachability, client, settings, volumes, port, server, &namespace))
    }

    /// Starts the provisioner with a client; `namespace` is the default namespace of the Lease.
    fn with_client(
        reachability: ApiReachability,
        client: Client,
        settings: ProvisionerSettings,
        volumes: Arc<Volumes>,
        port: u16,
        server: &str,
        namespace: &str,
    ) -> Self {
        let started = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            metrics: Arc::default(),
            leading: Arc::default(),
        };
        let lease_namespace = settings.lease_namespace.as_deref().unwrap_or(namespace);
        let identity = LeaseIdentity::of(server);
        let election =
            LeaderElection::new(client.clone(), lease_namespace, &settings.lease, identity)
                .reporting(reachability);
        let (cluster, writers) = cluster_view(&settings.namespaces);
        let metrics = Arc::clone(&started.metrics);
        let (events, sender) = event_queue(client.clone(), &settings.name, Arc::clone(&metrics));
        let cx = Context {
            address: AddressResolver::new(settings.address, port),
            client,
            provisioner: settings.name,
            server_id: server.to_owned(),
            volumes,
            cluster: Arc::new(cluster),
            events,
            metrics,
            progress: ClaimProgress::default(),
            term: RwLock::new(false),
        };
        let (stop, leading) = (started.stop.clone(), Arc::clone(&started.leading));
        started.tasks.spawn(run(Arc::new(cx), election, writers, sender, leading, stop));
        started
    }

    /// Stops the provisioner: begins nothing more, waits for what was begun, and releases the
    /// Lease.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether this process holds the Lease and knows the objects of the cluster.
    pub fn leads(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<ProvisionerMetrics> {
        &self.metrics
    }
}

async fn configuration(settings: &ProvisionerSettings) -> Result<Config, StartError> {
    let Some(path) = &settings.kubeconfig else {
        return Config::infer().await.map_err(StartError::NoCluster);
    };
    let failed = |source| StartError::File { path: path.clone(), source };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

/// Manages this server's volumes, and provisions while it holds the Lease, until the token is
/// cancelled; then waits for what was begun.
async fn run(
    cx: Arc<Context>,
    election: LeaderElection,
    writers: ViewWriters,
    sender: EventSender,
    leading: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let queues = Arc::new(WorkQueues::default());
    let sending = tokio::spawn(sender.run());
    let mut watches =
        watch::start(&cx.client, writers, &cx.cluster, &queues, election.reachability());
    let working = async {
        if stop.run_until_cancelled(cx.cluster.ready()).await.is_some() {
            let cluster = Arc::clone(&cx.cluster);
            cx.volumes.set_holders(Box::new(move |spec| holder::find(&cluster, spec)));
            let mut orphans = ReportedOrphans::default();
            orphans::search(&cx, &mut orphans).await;
            work(&cx, &queues, orphans, &stop).await;
            cx.volumes.set_holders(Box::new(holder::by_labels));
        }
    };
    let term = |lost| lead(Arc::clone(&cx), Arc::clone(&queues), Arc::clone(&leading), lost);
    tokio::join!(working, election.run(&stop, term));
    watches.shutdown().await;
    drop(cx); // ends the queue of events
    let abort = sending.abort_handle();
    if timeout(EVENTS_MAX, sending).await.is_err() {
        abort.abort();
    }
}

/// Provisions until the token is cancelled, and waits for what was begun.
async fn lead(
    cx: Arc<Context>,
    queues: Arc<WorkQueues>,
    leading: Arc<AtomicBool>,
    lost: CancellationToken,
) {
    cx.metrics.leads(true);
    if lost.run_until_cancelled(cx.cluster.ready()).await.is_some() {
        tracing::info!(provisioner = cx.provisioner, "provisioning");
        *cx.term.write().await = true;
        leading.store(true, Ordering::Relaxed);
        // Claims that waited while this server did not lead.
        queues.add_claims(&cx.cluster);
        lost.cancelled().await;
        leading.store(false, Ordering::Relaxed);
        *cx.term.write().await = false;
    }
    cx.metrics.leads(false);
}

/// Reconciles what changed until the token is cancelled, and waits for what was begun.
async fn work(
    cx: &Arc<Context>,
    queues: &Arc<WorkQueues>,
    orphans: ReportedOrphans,
    stop: &CancellationToken,
) {
    let mut workers = JoinSet::new();
    for _ in 0..CLAIM_WORKERS {
        let (cx, queues, stop) = (Arc::clone(cx), Arc::clone(queues), stop.clone());
        let reconcile = move |key: ObjectKey| {
            let cx = Arc::clone(&cx);
            async move { claims::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.claims, &stop, reconcile).await });
    }
    for _ in 0..PV_WORKERS {
        let (cx, queues, stop) = (Arc::clone(cx), Arc::clone(queues), stop.clone());
        let reconcile = move |key: ObjectKey| {
            let cx = Arc::clone(&cx);
            async move { volumes::reconcile(&cx, &key).await }
        };
        workers.spawn(async move { worker(&queues.pvs, &stop, reconcile).await });
    }
    workers.spawn(repeat(Arc::clone(cx), Arc::clone(queues), orphans, stop.clone()));
    while workers.join_next().await.is_some() {}
}

/// Repeats the search for orphans, and less often the reconciliation of all objects.
async fn repeat(
    cx: Arc<Context>,
    queues: Arc<WorkQueues>,
    mut orphans: ReportedOrphans,
    stop: CancellationToken,
) {
    let mut resynced = Instant::now();
    while stop.run_until_cancelled(sleep(ORPHAN_SEARCH)).await.is_some() {
        if resynced.elapsed() >= RESYNC {
            resynced = Instant::now();
            orphans.report_again();
            cx.events.record_again();
            queues.add_all(&cx.cluster);
        }
        orphans::search(&cx, &mut orphans).await;
    }
}

/// Reconciles one object of a queue after the other.
async fn worker<F, Fut>(queue: &WorkQueue<ObjectKey>, stop: &CancellationToken, reconcile: F)
where
    F: Fn(ObjectKey) -> Fut,
    Fut: Future<Output = ReconcileOutcome> + Send + 'static,
{
    while let Some(key) = stop.run_until_cancelled(queue.next()).await {
        // In a task of its own: a panic on one object does not end the worker.
        let outcome = tokio::spawn(reconcile(key.clone())).await.unwrap_or_else(|error| {
            tracing::error!(%error, ?key, "cannot reconcile an object: this is a bug");
            ReconcileOutcome::Failed
        });
        queue.done(key, outcome);
    }
}
