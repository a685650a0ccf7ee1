//! A cache of the objects of one kind, with an index by terms: uids, names of PersistentVolumes,
//! paths.
//!
//! Invariant: every object of the cache is in the index under all its terms. For a moment, the
//! index may have objects under terms that they had before; callers check what they get. Only one
//! task writes.
//!
//! All objects are in memory, and the authors of claims decide how large claims are: an object is
//! reduced to the fields that are read ([`CachedObject::slim`]) before it is kept.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher::Event;
use parking_lot::{Mutex, MutexGuard};
use serde::de::DeserializeOwned;

/// A kind of objects that can be cached.
pub trait CachedObject:
    Resource<DynamicType = ()>
    + Lookup<DynamicType = ()>
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// How many objects are listed in one request.
    const PAGE: u32 = 500;

    /// The terms under which the index has the object.
    fn terms(&self) -> Vec<String> {
        Vec::new()
    }

    /// Removes the fields that are not read.
    fn slim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

type TermIndex<K> = Mutex<BTreeMap<String, HashSet<ObjectRef<K>>>>;

/// The cached objects of one kind.
pub struct ObjectCache<K: CachedObject> {
    store: Store<K>,
    terms: Arc<TermIndex<K>>,
    /// How many objects were returned: the cost of searches.
    #[cfg(test)]
    pub returned: std::sync::atomic::AtomicUsize,
}

/// Writes what a watch reports into a cache.
pub struct CacheWriter<K: CachedObject> {
    writer: Writer<K>,
    store: Store<K>,
    terms: Arc<TermIndex<K>>,
}

/// Returns an empty cache and its writer.
pub fn cache<K: CachedObject>() -> (ObjectCache<K>, CacheWriter<K>) {
    let ((store, writer), terms) = (reflector::store(), Arc::<TermIndex<K>>::default());
    let cache_writer = CacheWriter { writer, store: store.clone(), terms: Arc::clone(&terms) };
    let cache = ObjectCache {
        store,
        terms,
        #[cfg(test)]
        returned: 0.into(),
    };
    (cache, cache_writer)
}

impl<K: CachedObject> ObjectCache<K> {
    /// The object with this reference.
    pub fn get(&self, at: &ObjectRef<K>) -> Option<Arc<K>> {
        self.store.get(at)
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.counted(self.store.state())
    }

    /// The objects with a term, and perhaps some that had it before.
    pub fn with(&self, term: &str) -> Vec<Arc<K>> {
        let found: Vec<_> = locked(&self.terms).get(term).into_iter().flatten().cloned().collect();
        self.counted(found.iter().filter_map(|at| self.store.get(at)).collect())
    }

    /// The objects with a term that begins with `start`, and perhaps some that had one before.
    pub fn beginning(&self, start: &str) -> Vec<Arc<K>> {
        let terms = locked(&self.terms);
        let range = terms.range(start.to_owned()..).take_while(|(term, _)| term.starts_with(start));
        let found: Vec<_> = range.flat_map(|(_, at)| at).cloned().collect();
        drop(terms);
        self.counted(found.iter().filter_map(|at| self.store.get(at)).collect())
    }

    /// Waits until the objects have been listed once.
    pub async fn ready(&self) {
        let _ = self.store.wait_until_ready().await;
    }

    fn counted(&self, found: Vec<Arc<K>>) -> Vec<Arc<K>> {
        #[cfg(test)]
        self.returned.fetch_add(found.len(), std::sync::atomic::Ordering::Relaxed);
        found
    }
}

impl<K: CachedObject> CacheWriter<K> {
    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Applies an event of the watch to the cache and its index.
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

fn locked<K: CachedObject>(
    terms: &TermIndex<K>,
) -> MutexGuard<'_, BTreeMap<String, HashSet<ObjectRef<K>>>> {
    terms.lock()
}

fn add<K: CachedObject>(
    all: &mut BTreeMap<String, HashSet<ObjectRef<K>>>,
    at: &ObjectRef<K>,
    terms: Vec<String>,
) {
    for term in terms {
        all.entry(term).or_default().insert(at.clone());
    }
}

fn remove<K: CachedObject>(
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
        let (cache, mut writer) = cache::<PersistentVolumeClaim>();
        let found = |cache: &ObjectCache<PersistentVolumeClaim>, term: &str| {
            let found = cache.with(term);
            let mut names: Vec<_> =
                found.iter().map(|claim| claim.metadata.name.clone().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        writer.apply_watcher_event(&Event::Apply(claim("a", "v")));
        writer.apply_watcher_event(&Event::Apply(claim("b", "v")));
        assert_eq!(found(&cache, &naming("v")), "a b");
        assert_eq!(found(&cache, &uid("uid-a")), "a");
        assert_eq!(cache.beginning("uid uid-").len(), 2);
        writer.apply_watcher_event(&Event::Apply(claim("a", "w")));
        assert_eq!(
            (found(&cache, &naming("v")), found(&cache, &naming("w"))),
            ("b".into(), "a".into())
        );
        writer.apply_watcher_event(&Event::Delete(claim("b", "")));
        assert_eq!(found(&cache, &naming("v")), "");
        // While the objects are listed again, the previous ones stay.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitApply(claim("c", "w")));
        assert_eq!(found(&cache, &naming("w")), "a");
        writer.apply_watcher_event(&Event::InitDone);
        assert_eq!(found(&cache, &naming("w")), "c");
        assert_eq!((locked(&cache.terms).len(), cache.all().len()), (2, 1));
    }
}
