//! Watches claims, PVs and classes: keeps the [`ClusterView`] up to date, and queues what changed.
//!
//! A watch that fails is retried without end, with backoff ([`super::reachability`]); until it
//! succeeds, the view stays as it was. A key is queued only when the view has its object: while
//! objects are being listed, that is at the end of the list.

use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::task::JoinSet;

use super::cache::{CacheWriter, CachedObject};
use super::cluster_view::{ClusterView, ViewWriters};
use super::objects::{self, ObjectKey};
use super::queue::{QueueKey, WorkQueue};
use super::reachability::{self, ApiReachability, WatchBackoff};
use crate::telemetry::log::Chain;

/// The objects to reconcile.
#[derive(Default)]
pub struct WorkQueues {
    /// Claims.
    pub claims: WorkQueue<ObjectKey>,
    /// PVs.
    pub pvs: WorkQueue<ObjectKey>,
}

impl QueueKey for ObjectKey {
    fn group(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

impl WorkQueues {
    /// Queues every object that is known.
    pub fn add_all(&self, cluster: &ClusterView) {
        self.add_claims(cluster);
        cluster.pvs().iter().for_each(|pv| self.pvs.add(ObjectKey::of(&**pv)));
    }

    /// Queues every claim that is known.
    pub fn add_claims(&self, cluster: &ClusterView) {
        cluster.claims().for_each(|claim| self.claims.add(ObjectKey::of(&*claim)));
    }
}

/// Starts the watches. The tasks end when they are aborted.
pub fn start(
    client: &Client,
    writers: ViewWriters,
    cluster: &Arc<ClusterView>,
    queues: &Arc<WorkQueues>,
    reachability: &Arc<ApiReachability>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (namespace, writer) in writers.claims {
        let api = match &namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let (view, queues) = (Arc::clone(cluster), Arc::clone(queues));
        let changed = move |claim: &PersistentVolumeClaim| changed_claim(&view, &queues, claim);
        tasks.spawn(run(api, writer, Arc::clone(reachability), changed));
    }
    let (view, both) = (Arc::clone(cluster), Arc::clone(queues));
    let changed = move |pv: &PersistentVolume| changed_pv(&view, &both, pv);
    tasks.spawn(run(Api::all(client.clone()), writers.pvs, Arc::clone(reachability), changed));
    let (view, queues) = (Arc::clone(cluster), Arc::clone(queues));
    let changed = move |class: &StorageClass| changed_class(&view, &queues, class);
    tasks.spawn(run(Api::all(client.clone()), writers.classes, Arc::clone(reachability), changed));
    tasks
}

/// Queues a claim, and the PV that it names: as long as the claim exists, the volume is kept.
fn changed_claim(cluster: &ClusterView, queues: &WorkQueues, claim: &PersistentVolumeClaim) {
    queues.claims.add(ObjectKey::of(claim));
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    if let Some(pv) = named.and_then(|name| cluster.pv(name)) {
        queues.pvs.add(ObjectKey::of(&*pv));
    }
}

/// Queues a PV, and its claim, whose expansion depends on it. For a PV that is free, the claims
/// that name it are queued.
fn changed_pv(cluster: &ClusterView, queues: &WorkQueues, pv: &PersistentVolume) {
    queues.pvs.add(ObjectKey::of(pv));
    let Some(claim) = objects::claim_of(pv) else {
        let named = cluster.claims_naming(pv);
        return named.iter().for_each(|claim| queues.claims.add(ObjectKey::of(&**claim)));
    };
    if let (Some(name), Some(uid)) = (&claim.name, &claim.uid) {
        let (name, uid) = (name.clone(), uid.clone());
        queues.claims.add(ObjectKey { namespace: claim.namespace.clone(), name, uid });
    }
}

/// Queues the unbound claims of a class.
fn changed_class(cluster: &ClusterView, queues: &WorkQueues, class: &StorageClass) {
    let name = class.metadata.name.as_deref();
    let unbound = |claim: &Arc<PersistentVolumeClaim>| {
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
        bound.is_none_or(String::is_empty) && objects::class_name(claim) == name
    };
    cluster.claims().filter(unbound).for_each(|claim| queues.claims.add(ObjectKey::of(&*claim)));
}

/// Keeps a cache up to date, and reports every object that changed or is gone.
async fn run<K: CachedObject>(
    api: Api<K>,
    mut writer: CacheWriter<K>,
    reachability: Arc<ApiReachability>,
    changed: impl Fn(&K),
) {
    let config = Config::default().page_size(K::PAGE);
    let mut events =
        std::pin::pin!(watcher(api, config).backoff(WatchBackoff::default()).modify(K::slim));
    // Objects that were known before a list and are not in it are gone.
    let mut before: Vec<Arc<K>> = Vec::new();
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            writer.apply_watcher_event(event);
        }
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => changed(&object),
            Ok(Event::Init) => before = writer.all(),
            Ok(Event::InitApply(_)) => {}
            Ok(Event::InitDone) => {
                before.drain(..).for_each(|object| changed(&object));
                writer.all().iter().for_each(|object| changed(object));
            }
            Err(error) if reachability::is_outage(&error) => {
                reachability.failed(&Chain(&error).to_string());
            }
            Err(error) => {
                let (error, what) = (Chain(&error).to_string(), <K as Resource>::kind(&()));
                tracing::warn!(error, %what, "cannot watch; retrying");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::provisioner::cluster_view::cluster_view;

    #[tokio::test]
    async fn a_pv_matters_to_the_claim_that_it_is_for_or_that_names_it() {
        let claim = |name: &str, volume: &str| {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "ns", "uid": name },
                "spec": { "volumeName": volume },
            }))
            .unwrap();
            Event::Apply(claim)
        };
        let (cluster, mut writers) = cluster_view(&[]);
        writers.claims[0].1.apply_watcher_event(&claim("names", "v"));
        writers.claims[0].1.apply_watcher_event(&claim("other", "w"));
        let of = json!({ "name": "of", "namespace": "ns", "uid": "of" });
        for (claim_ref, expected) in [(of, "of"), (Value::Null, "names")] {
            let pv = json!({ "metadata": { "name": "v" }, "spec": { "claimRef": claim_ref } });
            let queues = WorkQueues::default();
            changed_pv(&cluster, &queues, &serde_json::from_value(pv).unwrap());
            // Shows that no other claim was queued before.
            queues.claims.add(ObjectKey {
                namespace: None,
                name: "last".into(),
                uid: String::new(),
            });
            assert_eq!(queues.claims.next().await.name, expected);
            assert_eq!(queues.claims.next().await.name, "last");
        }
    }
}
