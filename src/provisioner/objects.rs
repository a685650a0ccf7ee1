//! Objects of the cluster: reads their fields, and makes PVs, patches and references. Pure.
//!
//! The annotations [`VOLUME_ID`] and [`VOLUME`] of a PV say which volume it is, for people; what
//! counts is the volume's own record ([`super::ownership`]). [`ON_DELETE`] says how the volume is
//! reclaimed, when the class and the claim may be gone. [`ENDING`] records that the reclaim has
//! begun. It is written before anything is removed, with the version of the PV that was looked at:
//! a PV that has changed loses nothing, and a volume that is missing later was removed by Berth.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use crate::label::SERVER;
pub use crate::label::{CLAIM_NAMESPACE, PROVISIONED_BY, VOLUME, VOLUME_ID};
use crate::mount_options;
use crate::quantity;
use crate::volume::name::VolumeName;
use crate::volume::spec::OnDelete;

/// The provisioner that a claim waits for, since 1.23.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The provisioner that a claim waits for, in older clusters.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// A claim's class in the oldest form; it counts before the field.
pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// The node that was selected for a claim's first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Keeps a PV until its volume is gone.
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// How a PV's volume is reclaimed. Whoever may patch PVs can only ask for more care.
pub const ON_DELETE: &str = "berth.io/on-delete";
/// The reclaim of a PV's volume has begun, after the claim with this uid.
pub const ENDING: &str = "berth.io/ending";

/// Where clients reach the NFS server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NfsAddress {
    /// A host name or an address, without brackets.
    pub server: String,
    /// The port for NFS and MOUNT.
    pub port: u16,
}

/// What the PV of a claim contains, except for the server's address.
#[derive(Clone, PartialEq, Debug)]
pub struct PvTemplate {
    /// The class's name.
    pub class: String,
    /// The provisioner's name.
    pub provisioner: String,
    /// Labels of the PV.
    pub labels: BTreeMap<String, String>,
    /// Access modes, as the claim has them.
    pub access_modes: Vec<String>,
    /// Delete or Retain.
    pub policy: String,
    /// The class's mount options.
    pub mount_options: Vec<String>,
    /// The volume's name.
    pub volume: VolumeName,
    /// The path that clients mount.
    pub path: String,
    /// Capacity in bytes.
    pub capacity: u64,
    /// How the volume is reclaimed.
    pub on_delete: OnDelete,
    /// The claim.
    pub claim: ObjectReference,
}

/// Identifies an object: this one, and not a later one of its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// Its namespace; PVs have none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    /// Returns a reference to the claim with this key, which may be gone.
    pub fn claim_ref(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            name: Some(self.name.clone()),
            namespace: self.namespace.clone(),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// The name of the PV that is made for the claim with this uid: always the same one.
pub fn pv_name(uid: &str) -> String {
    format!("pvc-{uid}")
}

/// Returns a reference to a claim.
pub fn claim_ref(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Returns a reference to a PV.
pub fn pv_ref(pv: &PersistentVolume) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolume".into()),
        name: pv.metadata.name.clone(),
        uid: pv.metadata.uid.clone(),
        resource_version: pv.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Returns the PV of a claim. With policy Delete it has our finalizer from the start.
pub fn persistent_volume(template: &PvTemplate, address: &NfsAddress) -> PersistentVolume {
    let uid = template.claim.uid.clone().unwrap_or_default();
    let annotations = [
        (PROVISIONED_BY, template.provisioner.clone()),
        (VOLUME_ID, uid.clone()),
        (VOLUME, template.volume.to_string()),
        (ON_DELETE, template.on_delete.name().into()),
    ];
    let own = |(key, value): (&str, String)| (key.to_owned(), value);
    let capacity = Quantity(quantity::exact(template.capacity));
    let nfs = NFSVolumeSource {
        server: address.server.clone(),
        path: template.path.clone(),
        read_only: None,
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(pv_name(&uid)),
            labels: Some(template.labels.clone()).filter(|labels| !labels.is_empty()),
            annotations: Some(annotations.into_iter().map(own).collect()),
            finalizers: (template.policy == "Delete").then(|| vec![FINALIZER.into()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(template.access_modes.clone()),
            capacity: Some(BTreeMap::from([("storage".into(), capacity)])),
            claim_ref: Some(template.claim.clone()),
            mount_options: Some(mount_options::complete(
                &template.mount_options,
                &address.server,
                address.port,
            )),
            nfs: Some(nfs),
            persistent_volume_reclaim_policy: Some(template.policy.clone()),
            storage_class_name: Some(template.class.clone()),
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// An annotation, unless it is absent or empty.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    let found = meta.annotations.as_ref()?.get(key)?;
    Some(found.as_str()).filter(|text| !text.is_empty())
}

/// The name of a claim's class.
pub fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let field = || claim.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&claim.metadata, CLASS_BETA).or_else(field).filter(|name| !name.is_empty())
}

/// Whether a claim names a PV. Its author can have it name any PV.
pub fn names_a_pv(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    named.is_some_and(|name| !name.is_empty())
}

/// Namespace and name of a claim, for the log and for messages.
pub fn full_name(claim: &PersistentVolumeClaim) -> String {
    let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
    format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// Whether claims of a class wait for their first pod.
pub fn waits_for_pod(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The capacity of a PV, in bytes.
pub fn capacity(pv: &PersistentVolume) -> Option<u64> {
    let capacity = pv.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    quantity::parse(&capacity.0).ok()
}

/// The phase of a PV; empty if the cluster has not set it yet.
pub fn phase(pv: &PersistentVolume) -> &str {
    pv.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// The claim that a PV is for.
pub fn claim_of(pv: &PersistentVolume) -> Option<&ObjectReference> {
    pv.spec.as_ref()?.claim_ref.as_ref()
}

/// The reclaim policy of a PV.
pub fn policy(pv: &PersistentVolume) -> &str {
    let policy = pv.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Whether a PV has our finalizer.
pub fn has_finalizer(pv: &PersistentVolume) -> bool {
    pv.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Adds to the metadata of a patch the version and the uid of the object that was looked at: if it
/// has changed since, the API server refuses the patch (409).
pub fn versioned(meta: &ObjectMeta, mut metadata: Value) -> Value {
    metadata["resourceVersion"] = json!(meta.resource_version);
    metadata["uid"] = json!(meta.uid);
    metadata
}

/// The patch that adds our finalizer to a PV, or removes it.
pub fn finalizer_patch(pv: &PersistentVolume, keep: bool) -> Value {
    let others = pv.metadata.finalizers.iter().flatten().filter(|other| *other != FINALIZER);
    let ours = keep.then(|| FINALIZER.to_owned());
    let all: Vec<_> = others.cloned().chain(ours).collect();
    json!({ "metadata": versioned(&pv.metadata, json!({ "finalizers": all })) })
}

/// The patch that records that the reclaim has begun, after the claim with the uid `of` and by
/// `server`.
pub fn ending_patch(pv: &PersistentVolume, of: &str, server: &str) -> Value {
    let annotations = json!({ "annotations": { ENDING: of, SERVER: server } });
    json!({ "metadata": versioned(&pv.metadata, annotations) })
}

/// The patch that takes a PV over from the recycler of the cluster.
pub fn take_over_patch(pv: &PersistentVolume) -> Value {
    let recycle = OnDelete::Recycle.name();
    json!({
        "metadata": versioned(&pv.metadata, json!({ "annotations": { ON_DELETE: recycle } })),
        "spec": { "persistentVolumeReclaimPolicy": "Delete" },
    })
}

/// The patch that sets the capacity of a PV.
pub fn capacity_patch(pv: &PersistentVolume, bytes: u64) -> Value {
    json!({
        "metadata": versioned(&pv.metadata, json!({})),
        "spec": { "capacity": { "storage": quantity::exact(bytes) } },
    })
}

/// The patch of a claim's status that ends its expansion.
pub fn grown_patch(claim: &PersistentVolumeClaim, bytes: u64) -> Value {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    let over = |kind: &str| matches!(kind, "Resizing" | "FileSystemResizePending");
    let rest: Vec<_> = conditions.into_iter().flatten().filter(|c| !over(&c.type_)).collect();
    json!({
        "metadata": versioned(&claim.metadata, json!({})),
        "status": { "capacity": { "storage": quantity::exact(bytes) }, "conditions": rest },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> PvTemplate {
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some("data".into()),
                namespace: Some("ns".into()),
                uid: Some("u-1".into()),
                resource_version: Some("7".into()),
                ..ObjectMeta::default()
            },
            ..PersistentVolumeClaim::default()
        };
        PvTemplate {
            class: "fast".into(),
            provisioner: "example.org/berth".into(),
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            access_modes: vec!["ReadWriteMany".into()],
            policy: "Delete".into(),
            mount_options: vec!["noatime,soft".into(), "timeo=30".into()],
            volume: VolumeName::new("ns-data").unwrap(),
            path: "/ns-data/secret".into(),
            capacity: 10 << 30,
            on_delete: OnDelete::Archive,
            claim: claim_ref(&claim),
        }
    }

    fn address(server: &str) -> NfsAddress {
        NfsAddress { server: server.into(), port: 2049 }
    }

    #[test]
    fn a_pv_says_everything() {
        let expected = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": "pvc-u-1",
                "labels": { "team": "blue" },
                "annotations": {
                    "pv.kubernetes.io/provisioned-by": "example.org/berth",
                    "berth.io/volume-id": "u-1",
                    "berth.io/volume": "ns-data",
                    "berth.io/on-delete": "archive",
                },
                "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"],
            },
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": { "storage": "10Gi" },
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data",
                    "namespace": "ns", "uid": "u-1", "resourceVersion": "7",
                },
                "mountOptions": [
                    "noatime,soft", "timeo=30", "nfsvers=3", "proto=tcp", "port=2049",
                    "mountport=2049", "mountproto=tcp", "nolock", "nosuid", "nodev",
                ],
                "nfs": { "server": "10.0.0.1", "path": "/ns-data/secret" },
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "fast",
                "volumeMode": "Filesystem",
            },
        });
        let made =
            serde_json::to_value(persistent_volume(&template(), &address("10.0.0.1"))).unwrap();
        assert_eq!(made, expected);
    }

    #[test]
    fn a_pv_that_is_retained_is_kept_by_nobody() {
        let retained = PvTemplate { policy: "Retain".into(), ..template() };
        assert!(!has_finalizer(&persistent_volume(&retained, &address("a"))));
    }

    #[test]
    fn a_change_names_the_version_that_was_looked_at() {
        let mut pv = persistent_volume(&template(), &address("a"));
        pv.metadata.resource_version = Some("9".into());
        pv.metadata.finalizers = Some(vec!["other".into(), FINALIZER.into()]);
        let patches = [
            finalizer_patch(&pv, false),
            ending_patch(&pv, "u", "me"),
            crate::provisioner::parked::parking_patch(&pv, 7),
            take_over_patch(&pv),
            capacity_patch(&pv, 5),
        ];
        patches.iter().for_each(|patch| assert_eq!(patch["metadata"]["resourceVersion"], "9"));
        assert_eq!(patches[0]["metadata"]["finalizers"], json!(["other"]));
        assert_eq!(finalizer_patch(&pv, true)["metadata"]["finalizers"][1], FINALIZER);
        assert_eq!(patches[2]["spec"], json!({ "claimRef": null }));
    }
}
