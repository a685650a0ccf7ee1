//! Reconciles PVs: when the claim of a PV is gone, its volume is reclaimed, that is deleted,
//! archived, recycled or retained.
//!
//! **Flow.** [`decide`] looks at a PV that changed. The reclaim is first recorded on the PV, with
//! the version that was looked at; then the volume is reclaimed; then the PV is deleted and its
//! finalizer removed, or, if the volume was recycled, the PV is made available to other claims.
//!
//! ```text
//!   Released --record--> recorded --reclaim--> deleted, archived, retained --> PV deleted
//!                                         \--> recycled --claimRef cleared--> Available
//! ```
//!
//! **Guarantees.** A PV with policy Retain is never reclaimed. Only the PV that holds a volume by
//! the volume's record ([`super::ownership`]) reclaims it, and only if nothing blocks that
//! ([`super::blockers`]); otherwise an event says what to do. Nothing is done to a PV that has
//! changed since it was looked at: a recycled PV that has its next claim already loses nothing. The
//! record of the reclaim names the claim that is gone; a PV that has one is read again before
//! anything is done. A volume that is missing without such a record is an error and not a success,
//! because the server may have been started with an empty directory.
//!
//! **Assumes.** The cluster says when a claim is gone (phase Released).
//!
//! **Errors.** `VolumeFailedDelete` on the PV; retried without end.

use std::time::Instant;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::blockers::VOLUME_KEPT;
use super::context::Context;
use super::error::{Error, Result};
use super::events::EventType;
use super::objects::{self, ObjectKey};
use super::ownership::{CLAIM, CLAIM_UID, PvRelation};
use super::queue::ReconcileOutcome;
use super::reclaim::{LATER, PvDecision, ReclaimPlan, decide};
use super::{blockers, call, recycled, volume_record};
use crate::volume;
use crate::volume::spec::{OnDelete, Spec};
use crate::volume::{Reclaimed, Volumes};

/// Reconciles a PV.
pub async fn reconcile(cx: &Context, key: &ObjectKey) -> ReconcileOutcome {
    let Some(pv) = cx.cluster.pv(&key.name) else { return ReconcileOutcome::Done };
    match act(cx, &pv).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_conflict() => ReconcileOutcome::Stale,
        Err(error) => {
            cx.metrics.delete_failed(class(&pv));
            if cx.events.record_failure(objects::pv_ref(&pv), "VolumeFailedDelete", &error) {
                let logged = error.logged();
                tracing::warn!(
                    error = logged,
                    pv = key.name,
                    "cannot reconcile a PersistentVolume"
                );
            }
            ReconcileOutcome::Failed
        }
    }
}

fn class(pv: &PersistentVolume) -> &str {
    let class = pv.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    class.unwrap_or_default()
}

async fn act(cx: &Context, pv: &PersistentVolume) -> Result<ReconcileOutcome> {
    let relation = volume_record::update(cx, pv).await?;
    match decide(pv, &relation) {
        PvDecision::Nothing => {}
        PvDecision::Invalid(why) => return Err(Error::Foreign(why)),
        PvDecision::AddFinalizer => {
            call::patch_pv(&cx.client, pv, &objects::finalizer_patch(pv, true)).await?;
        }
        PvDecision::RemoveFinalizer => remove_finalizer(cx, pv).await?,
        PvDecision::TakeOverRecycling => take_over_recycling(cx, pv).await?,
        PvDecision::Park => recycled::park(cx, pv).await?,
        PvDecision::DeletePv => delete_pv(cx, pv).await?,
        PvDecision::Disown { pv_is_deleted, why } => {
            report_disowned(cx, pv, &why);
            if pv_is_deleted {
                remove_finalizer(cx, pv).await?;
            }
            // The record of the volume may change without a change of the PV.
            return Ok(ReconcileOutcome::Again(LATER));
        }
        PvDecision::Reclaim(plan) => {
            if let PvRelation::Holder(spec) = &relation {
                return apply(cx, pv, spec, &plan).await;
            }
        }
    }
    Ok(ReconcileOutcome::Done)
}

/// Reports to a PV, and to the claim that names it, why its volume is not reclaimed.
fn report_disowned(cx: &Context, pv: &PersistentVolume, why: &str) {
    if cx.events.record_once(objects::pv_ref(pv), EventType::Warning, VOLUME_KEPT, why) {
        let name = pv.metadata.name.as_deref();
        tracing::info!(
            pv = name,
            "the volume is kept: the PersistentVolume is not the one that holds it"
        );
    }
    let named = cx.cluster.claims_naming(pv);
    if let Some(claim) = named.iter().find(|claim| is_near(claim, pv)) {
        cx.events.record_once(objects::claim_ref(claim), EventType::Warning, VOLUME_KEPT, why);
    }
}

/// Whether a claim is in the namespace that a PV is for.
fn is_near(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let of = objects::claim_of(pv).and_then(|of| of.namespace.as_ref());
    of.is_some() && of == claim.metadata.namespace.as_ref()
}

async fn take_over_recycling(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    call::patch_pv(&cx.client, pv, &objects::take_over_patch(pv)).await?;
    let message = "Berth recycles this volume itself, at once, when its claim is gone: the reclaim \
                   policy is Delete again, with berth.io/on-delete: recycle. Patch it to Retain to \
                   keep the data";
    let reason = "VolumeRecycleTakenOver";
    cx.events.record(objects::pv_ref(pv), EventType::Normal, reason, message);
    tracing::info!(pv = pv.metadata.name, "recycling is taken over");
    Ok(())
}

/// Reclaims a PV's volume.
async fn apply(
    cx: &Context,
    pv: &PersistentVolume,
    spec: &Spec,
    plan: &ReclaimPlan,
) -> Result<ReconcileOutcome> {
    let began = Instant::now();
    if let Some(blocker) = blockers::find(cx, pv, spec).await? {
        return blockers::report(cx, pv, &blocker);
    }
    let Some(pv) = record(cx, pv, plan).await? else { return Ok(ReconcileOutcome::Done) };
    let planned = plan.clone();
    let reclaimed = cx.blocking(move |volumes| reclaim(volumes, &planned)).await?;
    let of = objects::pv_ref(&pv);
    let tell = |reason, message: String| cx.events.record(of, EventType::Normal, reason, message);
    match &reclaimed {
        Some(Reclaimed::Recycled(_)) => {
            recycled::park(cx, &pv).await?;
            tell("VolumeRecycled", "The volume is empty, and free for the next claim".into());
        }
        // The event comes first: if only a second attempt deletes the PV, where the data is can no
        // longer be told.
        Some(Reclaimed::Archived(to)) => {
            tell("VolumeArchived", format!("The data is kept in the directory {to}"));
            delete_pv(cx, &pv).await?;
        }
        Some(Reclaimed::Retained(_)) => {
            tell("VolumeRetained", format!("The data is kept as the volume {}", plan.volume));
            delete_pv(cx, &pv).await?;
        }
        Some(Reclaimed::Deleted) | None => delete_pv(cx, &pv).await?,
    }
    cx.metrics.deleted(class(&pv), began.elapsed());
    let (volume, how) = (&plan.volume, plan.on_delete);
    tracing::info!(pv = pv.metadata.name, %volume, ?how, "the claim is gone: volume reclaimed");
    Ok(ReconcileOutcome::Done)
}

/// Records on the PV that its volume is being reclaimed, with the version that was looked at. A PV
/// that has the record is read again, because it may have its next claim since. Returns the current
/// PV; `None` if the decision about it is another one now.
async fn record(
    cx: &Context,
    pv: &PersistentVolume,
    plan: &ReclaimPlan,
) -> Result<Option<PersistentVolume>> {
    if !plan.is_recorded {
        let patch = objects::ending_patch(pv, &plan.claim, &cx.server_id);
        return call::patch_pv(&cx.client, pv, &patch).await.map(Some);
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let live = call::get_pv(&cx.client, name).await?;
    let Some(live) = live.filter(|live| live.metadata.uid == pv.metadata.uid) else {
        return Ok(None);
    };
    let relation = volume_record::relation(cx, &live).await;
    let is_unchanged = decide(&live, &relation) == PvDecision::Reclaim(plan.clone());
    Ok(is_unchanged.then_some(live))
}

/// Reclaims a volume. `None`: it is gone already, and by our own doing, because the reclaim was
/// recorded.
fn reclaim(volumes: &Volumes, plan: &ReclaimPlan) -> volume::error::Result<Option<Reclaimed>> {
    match volumes.show(&plan.volume) {
        Ok(status) if status.spec.id == plan.id => {}
        Ok(_) | Err(volume::error::Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    }
    let on_delete = match plan.on_delete {
        // No claim could be bound to it: its PV is being deleted.
        OnDelete::Recycle if plan.pv_is_deleted => OnDelete::Delete,
        on_delete => on_delete,
    };
    let reclaimed = volumes.reclaim(&plan.volume, Some(on_delete))?;
    if let Reclaimed::Recycled(_) = &reclaimed {
        volumes.set_labels(&plan.volume, &plan.id, &[(CLAIM_UID, None), (CLAIM, None)])?;
    }
    Ok(Some(reclaimed))
}

/// Deletes a PV, and removes our finalizer from it.
async fn delete_pv(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    match call::delete_pv(&cx.client, pv).await? {
        Some(left) => remove_finalizer(cx, &left).await,
        None => Ok(()),
    }
}

/// Removes our finalizer from a PV. A PV that is gone is a success.
async fn remove_finalizer(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    if !objects::has_finalizer(pv) {
        return Ok(());
    }
    let patch = objects::finalizer_patch(pv, false);
    call::none_if_gone(call::patch_pv(&cx.client, pv, &patch).await).map(drop)
}
