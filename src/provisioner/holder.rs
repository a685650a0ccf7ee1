//! Who has a volume: what is said to those who would end it by hand, or whose own volume it is in the
//! way of. Only reads what is known of the cluster.
//!
//! The volume's record says which PV holds it, and a PV may say by its annotation which volume it is, for
//! both make people think twice; its phase, which only the controller-manager sets, says whether a claim
//! has it. Without a cluster there are only the labels
//! that a volume got when it was made for a claim: they are right unless the claim is gone since.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::objects::{self, annotation};
use super::ownership::PV_UID;
use super::watch::Stores;
use crate::volume::spec::Spec;

/// Who has a volume, as the cluster knows it; nobody, if it may be ended by hand.
pub fn of(stores: &Stores, spec: &Spec) -> Option<String> {
    let id = spec.id.as_str();
    let held = spec.labels.get(PV_UID);
    let is = |pv: &PersistentVolume| {
        annotation(&pv.metadata, objects::VOLUME_ID) == Some(id)
            || held.is_some() && held == pv.metadata.uid.as_ref()
    };
    let pvs = stores.pvs();
    let mut pvs = pvs.iter().filter(|pv| is(pv)).peekable();
    if pvs.peek().is_some() {
        return pvs.find_map(|pv| of_pv(pv));
    }
    let waits = stores.claims().find(|claim| claim.metadata.uid.as_deref() == Some(id))?;
    Some(claim(waits.metadata.namespace.as_deref(), waits.metadata.name.as_deref()))
}

/// Who has a volume, if the cluster cannot be asked: whom it was made for.
pub fn by_labels(spec: &Spec) -> Option<String> {
    let namespace = spec.labels.get(objects::CLAIM_NAMESPACE)?;
    let name = spec.labels.get(objects::CLAIM_NAME).map_or("?", String::as_str);
    Some(format!(
        "the claim {namespace}/{name}, as its labels say, for the cluster cannot be asked now"
    ))
}

/// The claim that a volume is of, or was, as `NAMESPACE/NAME`.
pub fn claim_of(stores: &Stores, spec: &Spec) -> Option<String> {
    let id = spec.id.as_str();
    let known = stores.claims().find(|claim| claim.metadata.uid.as_deref() == Some(id));
    let now = known
        .and_then(|claim| Some((claim.metadata.namespace.clone()?, claim.metadata.name.clone()?)));
    let label = |key| spec.labels.get(key).cloned();
    let then = || Some((label(objects::CLAIM_NAMESPACE)?, label(objects::CLAIM_NAME)?));
    now.or_else(then).map(|(namespace, name)| format!("{namespace}/{name}"))
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
