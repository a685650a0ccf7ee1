//! What the cluster has, as far as it matters here: claims, PVs and classes, each watched and kept.
//!
//! A watch that breaks begins again, later each time ([`super::reach`]), for ever; until it does,
//! what is kept is what was known. A key is queued only when the store has what it stands for:
//! during a new list, that is at its end.

use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::task::JoinSet;

use super::cache::{Cache, Cached, Feed, cache};
use super::queue::{Member, Queue};
use super::reach::{self, Pauses, Reach};
use super::{objects, ownership, terms};
use crate::telemetry::log::Chain;
use crate::volume::spec::Spec;

/// An object: this one, not another one of its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its namespace; PVs have none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What is kept.
pub struct Stores {
    claims: Vec<(Option<String>, Cache<PersistentVolumeClaim>)>,
    pvs: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
}

/// The other ends of the stores.
pub struct Writers {
    /// For each namespace that is watched; `None` stands for all.
    pub claims: Vec<(Option<String>, Feed<PersistentVolumeClaim>)>,
    /// PVs.
    pub pvs: Feed<PersistentVolume>,
    /// Classes.
    pub classes: Feed<StorageClass>,
}

/// What is to be looked at.
#[derive(Default)]
pub struct Queues {
    /// Claims.
    pub claims: Queue<Key>,
    /// PVs.
    pub pvs: Queue<Key>,
}

impl Member for Key {
    fn group(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

impl Key {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

/// Empty stores for these namespaces, or for all if there are none.
pub fn stores(namespaces: &[String]) -> (Stores, Writers) {
    let every = if namespaces.is_empty() {
        vec![None]
    } else {
        namespaces.iter().cloned().map(Some).collect()
    };
    let claims = every.into_iter().map(|namespace| (namespace, cache()));
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for (namespace, (reader, writer)) in claims {
        readers.push((namespace.clone(), reader));
        writers.push((namespace, writer));
    }
    let ((pvs, pv_writer), (classes, class_writer)) = (cache(), cache());
    let writers = Writers { claims: writers, pvs: pv_writer, classes: class_writer };
    (Stores { claims: readers, pvs, classes }, writers)
}

impl Stores {
    /// A claim, unless it is gone.
    pub fn claim(&self, key: &Key) -> Option<Arc<PersistentVolumeClaim>> {
        let found = self.claim_named(key.namespace.as_deref()?, &key.name)?;
        (found.metadata.uid.as_ref() == Some(&key.uid)).then_some(found)
    }

    /// A claim by its name.
    pub fn claim_named(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let key = ObjectRef::new(name).within(namespace);
        self.claims.iter().find_map(|(_, store)| store.get(&key))
    }

    /// Whether claims of this namespace are known.
    pub fn watches(&self, namespace: &str) -> bool {
        let fits = |watched: &Option<String>| watched.as_deref().is_none_or(|w| w == namespace);
        self.claims.iter().any(|(watched, _)| fits(watched))
    }

    /// All claims.
    pub fn claims(&self) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
        self.claims.iter().flat_map(|(_, store)| store.all())
    }

    /// The claim with this uid.
    pub fn claim_with_uid(&self, uid: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let found = self.claims.iter().flat_map(|(_, store)| store.with(&terms::uid(uid)));
        found.into_iter().find(|claim| claim.metadata.uid.as_deref() == Some(uid))
    }

    /// The claims that name this PV.
    pub fn claims_naming(&self, pv: &PersistentVolume) -> Vec<Arc<PersistentVolumeClaim>> {
        let term = terms::naming(pv.metadata.name.as_deref().unwrap_or_default());
        let found = self.claims.iter().flat_map(|(_, store)| store.with(&term));
        found.filter(|claim| ownership::names(claim, pv)).collect()
    }

    /// A PV by its name.
    pub fn pv(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.pvs.get(&ObjectRef::new(name))
    }

    /// All PVs.
    pub fn pvs(&self) -> Vec<Arc<PersistentVolume>> {
        self.pvs.all()
    }

    /// The PV with this uid.
    pub fn pv_with_uid(&self, uid: &str) -> Option<Arc<PersistentVolume>> {
        let found = self.pvs.with(&terms::uid(uid));
        found.into_iter().find(|pv| pv.metadata.uid.as_deref() == Some(uid))
    }

    /// The PVs that point to a volume ([`ownership::points_to`]).
    pub fn pvs_at(&self, spec: &Spec) -> Vec<Arc<PersistentVolume>> {
        let mut found = self.pvs.beginning(&terms::path(&spec.export_path()));
        found.retain(|pv| ownership::points_to(pv, spec));
        found
    }

    /// The PVs of a class that are parked.
    pub fn parked_pvs(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.pvs.with(&terms::parked(class))
    }

    /// A class by its name.
    pub fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectRef::new(name))
    }

    /// Has everything looked at that is there.
    pub fn add_all(&self, queues: &Queues) {
        self.claims().for_each(|claim| queues.claims.add(Key::of(&*claim)));
        self.pvs().iter().for_each(|pv| queues.pvs.add(Key::of(&**pv)));
    }

    /// Waits until everything was listed once.
    pub async fn ready(&self) {
        for (_, store) in &self.claims {
            store.ready().await;
        }
        self.pvs.ready().await;
        self.classes.ready().await;
    }

    /// How many objects were handed out.
    #[cfg(test)]
    pub fn handed_out(&self) -> usize {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let claims: usize = self.claims.iter().map(|(_, store)| count(&store.handed_out)).sum();
        claims + count(&self.pvs.handed_out)
    }
}

/// Begins to watch. The tasks end when they are aborted.
pub fn begin(
    client: &Client,
    writers: Writers,
    stores: &Arc<Stores>,
    queues: &Arc<Queues>,
    reach: &Arc<Reach>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (namespace, writer) in writers.claims {
        let api = match &namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let (kept, queues) = (Arc::clone(stores), Arc::clone(queues));
        let changed = move |claim: &PersistentVolumeClaim| changed_claim(&kept, &queues, claim);
        tasks.spawn(follow(api, writer, Arc::clone(reach), changed));
    }
    let (kept, both) = (Arc::clone(stores), Arc::clone(queues));
    let changed = move |pv: &PersistentVolume| changed_pv(&kept, &both, pv);
    tasks.spawn(follow(Api::all(client.clone()), writers.pvs, Arc::clone(reach), changed));
    let (kept, queues) = (Arc::clone(stores), Arc::clone(queues));
    let changed = move |class: &StorageClass| changed_class(&kept, &queues, class);
    tasks.spawn(follow(Api::all(client.clone()), writers.classes, Arc::clone(reach), changed));
    tasks
}

/// A claim matters to the PV that it names: as long as it is there, the volume is kept.
fn changed_claim(stores: &Stores, queues: &Queues, claim: &PersistentVolumeClaim) {
    queues.claims.add(Key::of(claim));
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    if let Some(pv) = named.and_then(|name| stores.pv(name)) {
        queues.pvs.add(Key::of(&*pv));
    }
}

/// A PV matters to its claim too: for its growth. One that is free matters to the claims that name
/// it.
fn changed_pv(stores: &Stores, queues: &Queues, pv: &PersistentVolume) {
    queues.pvs.add(Key::of(pv));
    let Some(claim) = objects::claim_of(pv) else {
        let named = stores.claims_naming(pv);
        return named.iter().for_each(|claim| queues.claims.add(Key::of(&**claim)));
    };
    if let (Some(name), Some(uid)) = (&claim.name, &claim.uid) {
        let (name, uid) = (name.clone(), uid.clone());
        queues.claims.add(Key { namespace: claim.namespace.clone(), name, uid });
    }
}

/// A class matters to those who wait for it.
fn changed_class(stores: &Stores, queues: &Queues, class: &StorageClass) {
    let name = class.metadata.name.as_deref();
    let unbound = |claim: &Arc<PersistentVolumeClaim>| {
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
        bound.is_none_or(String::is_empty) && objects::class_name(claim) == name
    };
    stores.claims().filter(unbound).for_each(|claim| queues.claims.add(Key::of(&*claim)));
}

/// Keeps a store up to date, and says what changed; what is gone has changed too.
async fn follow<K: Cached>(
    api: Api<K>,
    mut feed: Feed<K>,
    reach: Arc<Reach>,
    changed: impl Fn(&K),
) {
    let config = Config::default().page_size(K::PAGE);
    let mut events =
        std::pin::pin!(watcher(api, config).backoff(Pauses::default()).modify(K::slim));
    // What was there before a list and is not in it is gone.
    let mut before: Vec<Arc<K>> = Vec::new();
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            feed.apply_watcher_event(event);
        }
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => changed(&object),
            Ok(Event::Init) => before = feed.all(),
            Ok(Event::InitApply(_)) => {}
            Ok(Event::InitDone) => {
                before.drain(..).for_each(|object| changed(&object));
                feed.all().iter().for_each(|object| changed(object));
            }
            Err(error) if reach::is_away(&error) => reach.failed(&Chain(&error).to_string()),
            Err(error) => {
                let (error, what) = (Chain(&error).to_string(), <K as Resource>::kind(&()));
                tracing::warn!(error, %what, "cannot watch; it is tried again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
        let (stores, mut writers) = stores(&[]);
        writers.claims[0].1.apply_watcher_event(&claim("names", "v"));
        writers.claims[0].1.apply_watcher_event(&claim("other", "w"));
        let of = json!({ "name": "of", "namespace": "ns", "uid": "of" });
        for (claim_ref, expected) in [(of, "of"), (Value::Null, "names")] {
            let pv = json!({ "metadata": { "name": "v" }, "spec": { "claimRef": claim_ref } });
            let queues = Queues::default();
            changed_pv(&stores, &queues, &serde_json::from_value(pv).unwrap());
            // Only one is queued, so that the next is this one.
            queues.claims.add(Key { namespace: None, name: "last".into(), uid: String::new() });
            assert_eq!(queues.claims.next().await.name, expected);
            assert_eq!(queues.claims.next().await.name, "last");
        }
    }
}
