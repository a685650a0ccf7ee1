//! Recycled volumes: emptied, and free for the next claim.
//!
//! ```text
//!   Released --volume emptied--> Available, parked --a claim of its class--> given, then bound
//! ```
//!
//! The cluster would bind an Available PV to any claim of its class that it is large enough for,
//! including one that asks for the content of another claim (`dataSource`), which would then be
//! empty. The PV is therefore parked ([`super::parked`]): every claim has to be provisioned, and
//! one without a data source is given the smallest free volume that fits before a new one is made.
//!
//! Only the server that has the volume gives it away, and only if the volume's record says that it
//! is free ([`super::ownership::CLAIM_UID`]): what the PV says is not enough.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use rustix::rand::{GetRandomFlags, getrandom};

use super::call;
use super::context::Context;
use super::error::{Error, Result};
use super::objects::{self, full_name};
use super::ownership::PvRelation;
use super::parked::{fits, giving_patch, is_free, parking_patch};
use super::plan::ProvisionPlan;
use super::volume_record;

/// Parks a PV: frees it from the claim that is gone, and keeps the cluster from binding it.
///
/// # Errors
/// There are no random numbers; the API server refuses; a conflict: the PV has changed.
pub async fn park(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|errno| Error::Waiting(format!("there are no random numbers: {errno}")))?;
    let patch = parking_patch(pv, u128::from_ne_bytes(random));
    call::patch_pv(&cx.client, pv, &patch).await.map(drop)
}

/// Gives a claim the smallest free volume that fits. Returns the PV's name; `None` if no volume is
/// free, or the claim has a data source.
///
/// # Errors
/// The API server refuses; a conflict: another claim was given the PV first.
pub async fn give(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    plan: &ProvisionPlan,
) -> Result<Option<String>> {
    if plan.source.is_some() {
        return Ok(None);
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    let named = named.filter(|name| !name.is_empty());
    let mut found = cx.cluster.parked_pvs(&plan.template.class);
    found.retain(|pv| fits(pv, plan) && named.is_none_or(|n| Some(n) == pv.metadata.name.as_ref()));
    found.sort_by_key(|pv| objects::capacity(pv));
    for pv in found {
        let PvRelation::Holder(spec) = volume_record::relation(cx, &pv).await else { continue };
        if !is_free(&spec) {
            continue;
        }
        call::patch_pv(&cx.client, &pv, &giving_patch(&pv, claim)).await?;
        let name = pv.metadata.name.clone().unwrap_or_default();
        tracing::info!(pvc = full_name(claim), pv = name, "given a recycled volume");
        return Ok(Some(name));
    }
    Ok(None)
}
