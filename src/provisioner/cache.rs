//! What is kept of the objects of one kind, and an index of it: which objects have a uid, name a
//! PersistentVolume, or point to a path.
//!
//! Invariant: whatever the store has is in the index under all its terms. The index may have more
//! for a moment, so that callers check what they are given. Only one task writes.
//!
//! Authors of claims decide how large their objects are, and all of them are in memory: an object
//! is cut ([`Cached::slim`]) to what is read of it before it is kept.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher::Event;
use parking_lot::{Mutex, MutexGuard};
use serde::de::DeserializeOwned;

/// A kind of objects that can be kept.
pub trait Cached:
    Resource<DynamicType = ()>
    + Lookup<DynamicType = ()>
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// How many are listed at a time.
    const PAGE: u32 = 500;

    /// Under what it is found.
    fn terms(&self) -> Vec<String> {
        Vec::new()
    }

    /// Takes away what nobody reads.
    fn slim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

type Terms<K> = Mutex<BTreeMap<String, HashSet<ObjectRef<K>>>>;

/// What is kept of one kind.
pub struct Cache<K: Cached> {
    store: Store<K>,
    terms: Arc<Terms<K>>,
    /// How many objects were handed out: what looking for something costs.
    #[cfg(test)]
    pub handed_out: std::sync::atomic::AtomicUsize,
}

/// The other end: what changes goes in here.
pub struct Feed<K: Cached> {
    writer: Writer<K>,
    store: Store<K>,
    terms: Arc<Terms<K>>,
}

/// An empty one.
pub fn cache<K: Cached>() -> (Cache<K>, Feed<K>) {
    let ((store, writer), terms) = (reflector::store(), Arc::<Terms<K>>::default());
    let feed = Feed { writer, store: store.clone(), terms: Arc::clone(&terms) };
    let cache = Cache {
        store,
        terms,
        #[cfg(test)]
        handed_out: 0.into(),
    };
    (cache, feed)
}

impl<K: Cached> Cache<K> {
    /// One object.
    pub fn get(&self, at: &ObjectRef<K>) -> Option<Arc<K>> {
        self.store.get(at)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.counted(self.store.state())
    }

    /// Those with a term; callers check that.
    pub fn with(&self, term: &str) -> Vec<Arc<K>> {
        let found: Vec<_> = locked(&self.terms).get(term).into_iter().flatten().cloned().collect();
        self.counted(found.iter().filter_map(|at| self.store.get(at)).collect())
    }

    /// Those with a term that begins so; callers check that.
    pub fn beginning(&self, start: &str) -> Vec<Arc<K>> {
        let terms = locked(&self.terms);
        let range = terms.range(start.to_owned()..).take_while(|(term, _)| term.starts_with(start));
        let found: Vec<_> = range.flat_map(|(_, at)| at).cloned().collect();
        drop(terms);
        self.counted(found.iter().filter_map(|at| self.store.get(at)).collect())
    }

    /// Waits until all were listed once.
    pub async fn ready(&self) {
        let _ = self.store.wait_until_ready().await;
    }

    fn counted(&self, found: Vec<Arc<K>>) -> Vec<Arc<K>> {
        #[cfg(test)]
        self.handed_out.fetch_add(found.len(), std::sync::atomic::Ordering::Relaxed);
        found
    }
}

impl<K: Cached> Feed<K> {
    /// What is kept now.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Has the store and the index follow what was seen.
    pub fn apply_watcher_event(&mut self, event: &Event<K>) {
        match event {
            Event::Apply(object) => {
                let (at, new) = (ObjectRef::from_obj(object), object.terms());
                let old = self.store.get(&at).map(|old| old.terms()).unwrap_or_default();
                add(&mut locked(&self.terms), &at, new.clone());
                self.writer.apply_watcher_event(event);
                let over = old.into_iter().filter(|term| !new.contains(term));
                remove(&mut locked(&self.terms), &at, over);
            }
            Event::Delete(object) => {
                let at = ObjectRef::from_obj(object);
                let old = self.store.get(&at).map(|old| old.terms()).unwrap_or_default();
                self.writer.apply_watcher_event(event);
                remove(&mut locked(&self.terms), &at, old);
            }
            Event::InitApply(object) => {
                add(&mut locked(&self.terms), &ObjectRef::from_obj(object), object.terms());
                self.writer.apply_watcher_event(event);
            }
            Event::Init => self.writer.apply_watcher_event(event),
            Event::InitDone => {
                self.writer.apply_watcher_event(event);
                let mut terms = BTreeMap::new();
                for object in self.store.state() {
                    add(&mut terms, &ObjectRef::from_obj(&*object), object.terms());
                }
                *locked(&self.terms) = terms;
            }
        }
    }
}

fn locked<K: Cached>(terms: &Terms<K>) -> MutexGuard<'_, BTreeMap<String, HashSet<ObjectRef<K>>>> {
    terms.lock()
}

fn add<K: Cached>(
    all: &mut BTreeMap<String, HashSet<ObjectRef<K>>>,
    at: &ObjectRef<K>,
    terms: Vec<String>,
) {
    for term in terms {
        all.entry(term).or_default().insert(at.clone());
    }
}

fn remove<K: Cached>(
    all: &mut BTreeMap<String, HashSet<ObjectRef<K>>>,
    at: &ObjectRef<K>,
    terms: impl IntoIterator<Item = String>,
) {
    for term in terms {
        if let Some(objects) = all.get_mut(&term) {
            objects.remove(at);
            if objects.is_empty() {
                all.remove(&term);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;
    use crate::provisioner::terms::{naming, uid};

    fn claim(name: &str, names: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "ns", "uid": format!("uid-{name}") },
            "spec": { "volumeName": names },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_kept_is_found_by_its_terms_whatever_happened_before() {
        let (cache, mut feed) = cache::<PersistentVolumeClaim>();
        let found = |cache: &Cache<PersistentVolumeClaim>, term: &str| {
            let found = cache.with(term);
            let mut names: Vec<_> =
                found.iter().map(|claim| claim.metadata.name.clone().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        feed.apply_watcher_event(&Event::Apply(claim("a", "v")));
        feed.apply_watcher_event(&Event::Apply(claim("b", "v")));
        assert_eq!(found(&cache, &naming("v")), "a b");
        assert_eq!(found(&cache, &uid("uid-a")), "a");
        assert_eq!(cache.beginning("uid uid-").len(), 2);
        feed.apply_watcher_event(&Event::Apply(claim("a", "w")));
        assert_eq!(
            (found(&cache, &naming("v")), found(&cache, &naming("w"))),
            ("b".into(), "a".into())
        );
        feed.apply_watcher_event(&Event::Delete(claim("b", "")));
        assert_eq!(found(&cache, &naming("v")), "");
        // While everything is listed anew, what was known stays.
        feed.apply_watcher_event(&Event::Init);
        feed.apply_watcher_event(&Event::InitApply(claim("c", "w")));
        assert_eq!(found(&cache, &naming("w")), "a");
        feed.apply_watcher_event(&Event::InitDone);
        assert_eq!(found(&cache, &naming("w")), "c");
        assert_eq!((locked(&cache.terms).len(), cache.all().len()), (2, 1));
    }
}
