//! Names the users of a volume, to administrators who are about to delete it by hand, and to authors of
//! claims whose directory it has. Reads only what is known of the cluster.
//!
//! The record of a volume says which PV holds it ([`super::ownership`]). The phase of that PV,
//! which only the controller-manager sets, says whether a claim has it. Other PVs count if they
//! point to the path of the volume or below, on whichever server: the record may not have them yet,
//! or an administrator wrote them by hand. Such a PV could be forged, with the only effect that an
//! administrator has to write `--force`.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::cluster_view::ClusterView;
use super::objects;
use super::ownership::{CLAIM, PV_UID};
use crate::volume::spec::Spec;

/// Returns the user of a volume, as the cluster knows it; `None` if it may be deleted by hand.
pub fn find(cluster: &ClusterView, spec: &Spec) -> Option<String> {
    let holder = spec.labels.get(PV_UID).and_then(|uid| cluster.pv_with_uid(uid));
    let pvs = holder.into_iter().chain(cluster.pvs_at(spec));
    if let Some(holder) = pvs.into_iter().find_map(|pv| of_pv(&pv)) {
        return Some(holder);
    }
    let waits = cluster.claim_with_uid(spec.id.as_str())?;
    Some(claim(waits.metadata.namespace.as_deref(), waits.metadata.name.as_deref()))
}

/// Returns the user of a volume by its record, for when the cluster cannot be asked.
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

/// The claim that uses a volume by its record, or used it last, as `NAMESPACE/NAME`.
pub fn claim_of(spec: &Spec) -> Option<&str> {
    spec.labels.get(CLAIM).map(String::as_str)
}

fn of_pv(pv: &PersistentVolume) -> Option<String> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    match (objects::phase(pv), objects::claim_of(pv)) {
        // The claim is gone, and the volume is not in use.
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
