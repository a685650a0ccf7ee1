//! Parking: how the PV of an emptied volume is kept from being bound, and how it is given to a
//! claim. Pure; [`super::recycled`] applies it.
//!
//! A parked PV has an annotation that the cluster's binder and scheduler read before the field
//! `storageClassName`: it names a class that nobody can guess, so that no claim is bound to the PV.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::objects::{self, CLASS_BETA, ENDING, annotation};
use super::ownership::{CLAIM_UID, PV_UID};
use super::plan::ProvisionPlan;
use crate::volume::spec::Spec;

/// Prefix of the classes of parked PVs.
const PARKED: &str = "berth.io/recycled-";

/// Whether a volume is empty, held by a PV, and not used by a claim, by its record.
pub fn is_free(spec: &Spec) -> bool {
    spec.labels.contains_key(PV_UID) && !spec.labels.contains_key(CLAIM_UID)
}

/// Whether a PV has the class of a parked one.
pub fn is_parked(pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, CLASS_BETA).is_some_and(|class| class.starts_with(PARKED))
}

/// Whether any claim could be bound to a PV, although its volume is free to be given away.
pub fn is_to_be_parked(pv: &PersistentVolume, spec: &Spec) -> bool {
    objects::claim_of(pv).is_none() && is_free(spec) && !is_parked(pv)
}

/// Whether a claim with this plan could be given a PV.
pub fn fits(pv: &PersistentVolume, plan: &ProvisionPlan) -> bool {
    let template = &plan.template;
    let Some(spec) = &pv.spec else { return false };
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    is_parked(pv)
        && spec.claim_ref.is_none()
        && objects::phase(pv) == "Available"
        && pv.metadata.deletion_timestamp.is_none()
        && spec.storage_class_name.as_ref() == Some(&template.class)
        && objects::capacity(pv).is_some_and(|bytes| bytes >= template.capacity)
        && template.access_modes.iter().all(|mode| modes.contains(mode))
}

/// The patch that removes the claim that is gone from a PV and parks the PV. `unguessable` must be
/// random.
pub fn parking_patch(pv: &PersistentVolume, unguessable: u128) -> Value {
    let class = format!("{PARKED}{unguessable:032x}");
    let annotations = json!({ "annotations": { ENDING: null, CLASS_BETA: class } });
    json!({
        "metadata": objects::versioned(&pv.metadata, annotations),
        "spec": { "claimRef": null },
    })
}

/// The patch that gives a parked PV to a claim.
pub fn giving_patch(pv: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let annotations = json!({ "annotations": { CLASS_BETA: null } });
    json!({
        "metadata": objects::versioned(&pv.metadata, annotations),
        "spec": { "claimRef": objects::claim_ref(claim) },
    })
}
