//! Volumes that were emptied, and are free for the next claim.
//!
//! ```text
//!   Released --volume emptied--> Available, parked --a claim waits for us--> given: bound by the cluster
//! ```
//!
//! The cluster would give an Available PV to any claim of its class that it is large enough for,
//! also to one that asks for the content of another (`dataSource`), which would silently be empty.
//! So the PV is parked: by an annotation that the cluster's binder and scheduler read before the
//! field, it has a class of its own, which nobody can guess. No claim is bound to it, each asks us,
//! and one that wants no content is given the smallest free volume that fits before another is
//! made.
//!
//! Only the server whose volume it is gives it away, and only if the volume's record says that it
//! is free ([`super::ownership::CLAIM_UID`]): what a PV says is not enough.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};

use super::claims::Plan;
use super::error::{Error, Result};
use super::objects::{self, CLASS_BETA, ENDING, annotation};
use super::ownership::{CLAIM_UID, PV_UID, Relation};
use super::{Context, call};
use crate::volume::spec::Spec;

/// What classes of parked PVs begin with.
const PARKED: &str = "berth.io/recycled-";

/// Whether a volume is empty, held by a PV, and used by nobody, by its record.
fn is_free(spec: &Spec) -> bool {
    spec.labels.contains_key(PV_UID) && !spec.labels.contains_key(CLAIM_UID)
}

/// Whether a PV has the class of one that was emptied.
pub fn is_parked(pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, CLASS_BETA).is_some_and(|class| class.starts_with(PARKED))
}

/// Whether a PV could be bound to any claim although its volume is one to be given away.
pub fn is_to_be_parked(pv: &PersistentVolume, spec: &Spec) -> bool {
    objects::claim_of(pv).is_none() && is_free(spec) && !is_parked(pv)
}

/// Frees a PV from the claim that is gone, and parks it.
///
/// # Errors
/// There are no random numbers.
pub fn parking_patch(pv: &PersistentVolume) -> Result<Value> {
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|errno| Error::Waiting(format!("there are no random numbers: {errno}")))?;
    let class = format!("{PARKED}{:032x}", u128::from_ne_bytes(random));
    let annotations = json!({ "annotations": { ENDING: null, CLASS_BETA: class } });
    Ok(json!({
        "metadata": objects::versioned(&pv.metadata, annotations),
        "spec": { "claimRef": null },
    }))
}

/// Gives a PV to a claim.
fn giving_patch(pv: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let annotations = json!({ "annotations": { CLASS_BETA: null } });
    json!({
        "metadata": objects::versioned(&pv.metadata, annotations),
        "spec": { "claimRef": objects::claim_ref(claim) },
    })
}

/// Whether a PV is one that a claim of this plan could be bound to. Pure.
fn fits(pv: &PersistentVolume, plan: &Plan) -> bool {
    let wanted = &plan.wanted;
    let Some(spec) = &pv.spec else { return false };
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    is_parked(pv)
        && spec.claim_ref.is_none()
        && objects::phase(pv) == "Available"
        && pv.metadata.deletion_timestamp.is_none()
        && spec.storage_class_name.as_ref() == Some(&wanted.class)
        && objects::capacity(pv).is_some_and(|bytes| bytes >= wanted.capacity)
        && wanted.access_modes.iter().all(|mode| modes.contains(mode))
}

/// Gives a claim the smallest free volume that fits. Answers the PV's name, or nothing if there is
/// none, or the claim is to have content.
///
/// # Errors
/// A conflict: somebody else was quicker; look again.
pub async fn give(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    plan: &Plan,
) -> Result<Option<String>> {
    if plan.source.is_some() {
        return Ok(None);
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    let named = named.filter(|name| !name.is_empty());
    let mut found = cx.stores.parked_pvs(&plan.wanted.class);
    found.retain(|pv| fits(pv, plan) && named.is_none_or(|n| Some(n) == pv.metadata.name.as_ref()));
    found.sort_by_key(|pv| objects::capacity(pv));
    for pv in found {
        let Relation::Own(spec) = cx.relation(&pv).await else { continue };
        if !is_free(&spec) {
            continue;
        }
        let name = pv.metadata.name.clone().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(cx.client.clone());
        let (params, patch) = (PatchParams::default(), giving_patch(&pv, claim));
        let what = format!("patch PersistentVolume {name}");
        call(what, api.patch(&name, &params, &Patch::Merge(&patch))).await?;
        tracing::info!(pvc = super::claims::full_name(claim), pv = name, "given a recycled volume");
        return Ok(Some(name));
    }
    Ok(None)
}
