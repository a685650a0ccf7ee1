//! Who has a volume: what is said to those who would end it by hand, or in whose way it is. Only
//! reads what is known of the cluster.
//!
//! The record of a volume says which PV holds it ([`super::ownership`]); the phase of that PV,
//! which only the controller-manager sets, says whether a claim has it. A PV that is not in the
//! record yet, or that an administrator wrote for another provisioner or none, is known by where it
//! points: to the path of the volume, or below, on whichever server. That could be forged, and
//! would then only have an administrator write `--force`.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::objects;
use super::ownership::{CLAIM, PV_UID};
use super::watch::Stores;
use crate::volume::spec::Spec;

/// Who has a volume, as the cluster knows it; nobody, if it may be ended by hand.
pub fn of(stores: &Stores, spec: &Spec) -> Option<String> {
    let holder = spec.labels.get(PV_UID).and_then(|uid| stores.pv_with_uid(uid));
    let pvs = holder.into_iter().chain(stores.pvs_at(spec));
    if let Some(holder) = pvs.into_iter().find_map(|pv| of_pv(&pv)) {
        return Some(holder);
    }
    let waits = stores.claim_with_uid(spec.id.as_str())?;
    Some(claim(waits.metadata.namespace.as_deref(), waits.metadata.name.as_deref()))
}

/// Who has a volume, if the cluster cannot be asked: whom its record names.
pub fn by_labels(spec: &Spec) -> Option<String> {
    let holder = if let Some(claim) = claim_of(spec) {
        format!("the claim {claim}")
    } else if spec.labels.contains_key(PV_UID) {
        "a PersistentVolume that is free for any claim".to_owned()
    } else {
        format!("a claim of the namespace {}", spec.labels.get(objects::CLAIM_NAMESPACE)?)
    };
    Some(format!("{holder}, as its labels say, for the cluster cannot be asked now"))
}

/// The claim that has a volume by its record, or had it last, as `NAMESPACE/NAME`.
pub fn claim_of(spec: &Spec) -> Option<&str> {
    spec.labels.get(CLAIM).map(String::as_str)
}

fn of_pv(pv: &PersistentVolume) -> Option<String> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    match (objects::phase(pv), objects::claim_of(pv)) {
        // The claim is gone, and what becomes of the volume is open.
        ("Released" | "Failed", _) => None,
        (_, Some(of)) => Some(claim(of.namespace.as_deref(), of.name.as_deref())),
        (_, None) => Some(format!(
            "the PersistentVolume {name}, which is free for any claim (kubectl delete pv {name})"
        )),
    }
}

fn claim(namespace: Option<&str>, name: Option<&str>) -> String {
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    format!("the claim {namespace}/{name} (kubectl -n {namespace} delete pvc {name})")
}
