//! What is known of the cluster: claims, PVs and classes, as the watches keep them up to date.
//!
//! It may lag behind the cluster. What must not rest on old knowledge is read again from the API
//! server, or changed with the version that was looked at.

use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::reflector::ObjectRef;

use super::cache::{CacheWriter, ObjectCache, cache};
use super::objects::ObjectKey;
use super::{ownership, terms};
use crate::volume::spec::Spec;

/// The watched objects of the cluster.
pub struct ClusterView {
    claims: Vec<(Option<String>, ObjectCache<PersistentVolumeClaim>)>,
    pvs: ObjectCache<PersistentVolume>,
    classes: ObjectCache<StorageClass>,
}

/// Writes what the watches report into a [`ClusterView`].
pub struct ViewWriters {
    /// Claims, for each watched namespace; `None` stands for all.
    pub claims: Vec<(Option<String>, CacheWriter<PersistentVolumeClaim>)>,
    /// PVs.
    pub pvs: CacheWriter<PersistentVolume>,
    /// Classes.
    pub classes: CacheWriter<StorageClass>,
}

/// Returns an empty view of the claims of these namespaces (none: all), and its writers.
pub fn cluster_view(namespaces: &[String]) -> (ClusterView, ViewWriters) {
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
    let writers = ViewWriters { claims: writers, pvs: pv_writer, classes: class_writer };
    (ClusterView { claims: readers, pvs, classes }, writers)
}

impl ClusterView {
    /// The claim with this key; `None` if it is gone, even if another one has its name.
    pub fn claim(&self, key: &ObjectKey) -> Option<Arc<PersistentVolumeClaim>> {
        let found = self.claim_named(key.namespace.as_deref()?, &key.name)?;
        (found.metadata.uid.as_ref() == Some(&key.uid)).then_some(found)
    }

    /// The claim of this name.
    pub fn claim_named(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let key = ObjectRef::new(name).within(namespace);
        self.claims.iter().find_map(|(_, cache)| cache.get(&key))
    }

    /// Whether the claims of this namespace are watched.
    pub fn watches(&self, namespace: &str) -> bool {
        let fits = |watched: &Option<String>| watched.as_deref().is_none_or(|w| w == namespace);
        self.claims.iter().any(|(watched, _)| fits(watched))
    }

    /// All claims.
    pub fn claims(&self) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
        self.claims.iter().flat_map(|(_, cache)| cache.all())
    }

    /// The claim with this uid.
    pub fn claim_with_uid(&self, uid: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let found = self.claims.iter().flat_map(|(_, cache)| cache.with(&terms::uid(uid)));
        found.into_iter().find(|claim| claim.metadata.uid.as_deref() == Some(uid))
    }

    /// The claims that name this PV.
    pub fn claims_naming(&self, pv: &PersistentVolume) -> Vec<Arc<PersistentVolumeClaim>> {
        let term = terms::naming(pv.metadata.name.as_deref().unwrap_or_default());
        let found = self.claims.iter().flat_map(|(_, cache)| cache.with(&term));
        found.filter(|claim| ownership::names(claim, pv)).collect()
    }

    /// The PV of this name.
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
        self.pvs.with(&terms::parked_in(class))
    }

    /// The class of this name.
    pub fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectRef::new(name))
    }

    /// Waits until every kind has been listed once.
    pub async fn ready(&self) {
        for (_, cache) in &self.claims {
            cache.ready().await;
        }
        self.pvs.ready().await;
        self.classes.ready().await;
    }

    /// How many objects were returned so far.
    #[cfg(test)]
    pub fn returned(&self) -> usize {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let claims: usize = self.claims.iter().map(|(_, cache)| count(&cache.returned)).sum();
        claims + count(&self.pvs.returned)
    }
}
