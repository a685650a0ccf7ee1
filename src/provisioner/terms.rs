//! Terms by which claims and PersistentVolumes are found in the cache, and the fields of them that
//! are kept: only those that are read. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::cache::CachedObject;
use super::{objects, ownership, parked};

/// How much of one value of a claim is kept, in bytes. This is longer than any name or directory
/// may be: a value that is cut stays invalid.
const VALUE_MAX: usize = 2048;

/// How much is kept of a claim's labels, and of its annotations, in bytes: the shortest ones.
const VALUES_MAX: usize = 16 << 10;

/// Annotations of claims that the cluster or its tools write. They are always kept.
const ALWAYS_KEPT: [&str; 4] =
    [objects::PROVISIONER, objects::PROVISIONER_BETA, objects::CLASS_BETA, objects::SELECTED_NODE];

/// The term of the object with this uid.
pub fn uid(uid: &str) -> String {
    format!("uid {uid}")
}

/// The term of claims that name this PersistentVolume.
pub fn naming(pv: &str) -> String {
    format!("names {pv}")
}

/// The term of PersistentVolumes with this path. The terms of paths below it begin with it.
pub fn path(path: &str) -> String {
    let parts = ownership::components(path).map(|part| format!("{part}/"));
    format!("path {}", parts.collect::<String>())
}

/// The term of parked PersistentVolumes of this class.
pub fn parked_in(class: &str) -> String {
    format!("parked {class}")
}

impl CachedObject for StorageClass {}

impl CachedObject for PersistentVolume {
    fn terms(&self) -> Vec<String> {
        let spec = self.spec.as_ref();
        let nfs = spec.and_then(|spec| spec.nfs.as_ref()).map(|nfs| path(&nfs.path));
        let class = spec.and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let parked = parked::is_parked(self).then(|| parked_in(class));
        self.metadata.uid.as_deref().map(uid).into_iter().chain(nfs).chain(parked).collect()
    }
}

impl CachedObject for PersistentVolumeClaim {
    // Authors decide how large their claims are: a page stays small enough for the API server.
    const PAGE: u32 = 50;

    fn terms(&self) -> Vec<String> {
        let named = self.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        let named = named.filter(|name| !name.is_empty()).map(naming);
        self.metadata.uid.as_deref().map(uid).into_iter().chain(named).collect()
    }

    fn slim(&mut self) {
        let meta = &mut self.metadata;
        (meta.managed_fields, meta.owner_references, meta.finalizers) = (None, None, None);
        meta.labels.iter_mut().for_each(|labels| slim_values(labels, &[]));
        meta.annotations.iter_mut().for_each(|annotations| slim_values(annotations, &ALWAYS_KEPT));
        self.spec.iter_mut().for_each(slim_spec);
    }
}

fn slim_spec(spec: &mut PersistentVolumeClaimSpec) {
    if let Some(selector) = &mut spec.selector {
        *selector = LabelSelector::default(); // it only counts that there is one
    }
    if let Some(resources) = &mut spec.resources {
        resources.limits = None;
        resources.requests.iter_mut().for_each(|all| all.retain(|what, _| what == "storage"));
    }
    let mut seen = Vec::new();
    spec.access_modes.iter_mut().for_each(|modes| {
        modes.retain(|mode| {
            let is_new = !seen.contains(mode) && seen.len() < VALUE_MAX;
            if is_new {
                seen.push(mode.clone());
            }
            is_new
        });
    });
    spec.volume_name.iter_mut().for_each(cut);
    if let Some(from) = &mut spec.data_source {
        cut(&mut from.kind);
        cut(&mut from.name);
        from.api_group.iter_mut().for_each(cut);
    }
    if let Some(from) = &mut spec.data_source_ref {
        cut(&mut from.kind);
        cut(&mut from.name);
        from.api_group.iter_mut().for_each(cut);
        from.namespace.iter_mut().for_each(cut);
    }
}

/// Cuts values, and removes the longest until the rest fits. Those in `always_kept` are removed
/// last.
fn slim_values(values: &mut BTreeMap<String, String>, always_kept: &[&str]) {
    values.values_mut().for_each(cut);
    let size = |(key, value): (&String, &String)| key.len() + value.len();
    if values.iter().map(size).sum::<usize>() <= VALUES_MAX {
        return;
    }
    let mut all: Vec<_> = std::mem::take(values).into_iter().collect();
    all.sort_by_key(|(key, value)| (!always_kept.contains(&key.as_str()), size((key, value))));
    let mut left = VALUES_MAX;
    for (key, value) in all {
        let Some(rest) = left.checked_sub(size((&key, &value))) else { break };
        left = rest;
        values.insert(key, value);
    }
}

fn cut(text: &mut String) {
    if text.len() > VALUE_MAX {
        text.truncate(text.floor_char_boundary(VALUE_MAX));
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::provisioner::plan::{ClaimDecision, decide};
    use crate::provisioner::tests::{OURS, claim};

    fn slimmed(claim: Value) -> PersistentVolumeClaim {
        let mut claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        claim.slim();
        claim
    }

    fn size(claim: &PersistentVolumeClaim) -> usize {
        serde_json::to_string(claim).unwrap().len()
    }

    #[test]
    fn what_an_honest_claim_says_is_kept() {
        let mut honest = claim("data");
        honest["metadata"]["labels"] = json!({ "app": "web" });
        honest["metadata"]["annotations"]["example.org/directory"] = json!("a/b");
        honest["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied"] =
            json!("x".repeat(20_000));
        honest["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
        let kept = slimmed(honest.clone());
        let annotations = kept.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["example.org/directory"], "a/b");
        assert_eq!(annotations[objects::PROVISIONER], OURS);
        assert_eq!(serde_json::to_value(kept.spec).unwrap(), honest["spec"]);
        assert_eq!(serde_json::to_value(kept.metadata.labels).unwrap(), json!({ "app": "web" }));
    }

    #[test]
    fn a_claim_takes_little_memory_whatever_its_author_writes() {
        let many = |n: usize, long: usize| -> Value {
            (0..n).map(|n| (format!("example.org/k{n}"), json!("x".repeat(long)))).collect()
        };
        let long = "x".repeat(1_000_000);
        let cases = [
            ("/metadata/annotations", many(2, 120_000)),
            ("/metadata/annotations", many(120, 2_000)),
            ("/metadata/labels", many(10_000, 63)),
            ("/metadata/finalizers", json!(vec!["example.org/finalizer"; 10_000])),
            (
                "/metadata/ownerReferences",
                json!(vec![
                    json!({ "apiVersion": "v1", "kind": "Pod",
                "name": "p", "uid": "u" });
                    10_000
                ]),
            ),
            ("/spec/selector", json!({ "matchLabels": many(10_000, 63) })),
            ("/spec/dataSource", json!({ "kind": "PersistentVolumeClaim", "name": long })),
            (
                "/spec/dataSourceRef",
                json!({ "kind": long, "apiGroup": long, "name": long,
                "namespace": long }),
            ),
            ("/spec/volumeName", json!(long)),
            ("/spec/accessModes", json!(vec!["ReadWriteMany"; 50_000])),
            ("/spec/resources/limits", many(10_000, 1)),
        ];
        for (place, value) in cases {
            let mut giant = claim("data");
            for key in ["labels", "finalizers"] {
                giant["metadata"][key] = Value::Null;
            }
            let (parent, key) = place.rsplit_once('/').unwrap();
            giant.pointer_mut(parent).unwrap()[key] = value;
            giant["metadata"]["annotations"][objects::PROVISIONER] = json!(OURS);
            let kept = slimmed(giant);
            assert!(size(&kept) < 2 * VALUES_MAX, "{place}: {}", size(&kept));
            // The claim is still recognized as ours.
            let annotations = kept.metadata.annotations.as_ref().unwrap();
            assert_eq!(annotations[objects::PROVISIONER], OURS, "{place}");
        }
    }

    #[test]
    fn what_is_too_long_to_be_a_name_stays_too_long() {
        let mut giant = claim("data");
        giant["metadata"]["annotations"][objects::CLASS_BETA] = json!("fast".repeat(1000));
        let kept = slimmed(giant.clone());
        assert_eq!(objects::class_name(&kept).map(str::len), Some(VALUE_MAX));
        assert!(matches!(decide(&kept, None, OURS), ClaimDecision::Wait(_)));
    }

    #[test]
    fn paths_are_found_however_they_are_written() {
        let (cache, mut writer) = crate::provisioner::cache::cache::<PersistentVolume>();
        for (name, path) in
            [("same", "//v/./token/"), ("below", "/v/token/a"), ("beside", "/v/tokens")]
        {
            let pv = json!({ "metadata": { "name": name }, "spec": { "nfs": { "server": "s", "path": path } } });
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value(pv).unwrap()));
        }
        let mut found: Vec<_> = cache
            .beginning(&path("/v/token"))
            .iter()
            .map(|pv| pv.metadata.name.clone().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, ["below", "same"]);
        assert_eq!(cache.with(&path("/v/token")).len(), 1);
    }
}
