//! Reconciles claims: each claim that waits for this provisioner gets a volume and a PV.
//!
//! **Flow.** [`decide`] looks at a claim that changed. Before anything is made for it, the claim is
//! read again from the API server. Then its volume is made, with the claim's uid as its id, and
//! then its PV, with a name made of the uid. Every step may be repeated: what exists is used as it
//! is, if it is ours.
//!
//! **Guarantees.** At most one volume and one PV for each claim, however often the process dies. A
//! claim that is deleted meanwhile leaves nothing behind ([`super::cleanup`]). A claim that cannot
//! be provisioned gets an event, and affects no other claim. What may work later is retried without
//! end, after 1 s to 5 min.
//!
//! **Assumes.** An annotation set by the cluster says which claims wait for this provisioner. One
//! process uses the directory of the volumes.
//!
//! **Errors.** `ProvisioningFailed` on the claim, with what to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::claim_progress::UnfinishedVolume;
use super::context::Context;
use super::data_source;
use super::error::{ClaimRefusal, Error, Result};
use super::events::EventType;
use super::objects::{self, ObjectKey, PvTemplate, annotation, full_name};
use super::ownership::SERVER;
use super::params::describe;
use super::plan::{ClaimDecision, ProvisionPlan, decide};
use super::queue::ReconcileOutcome;
use super::{bound, call, cleanup, collision, copy_source, recycled, volume_record};
use crate::mount_options;
use crate::volume;
use crate::volume::spec::{Spec, VolumePhase, VolumeStatus};
use crate::volume::{VolumeOrigin, Volumes};

/// Interval at which an unfinished copy is checked.
const CLONE_POLL: Duration = Duration::from_secs(1);

/// Reconciles a claim.
pub async fn reconcile(cx: &Context, key: &ObjectKey) -> ReconcileOutcome {
    let _guard = cx.progress.reconciling(key);
    let Some(claim) = cx.cluster.claim(key) else { return cleanup::reconcile_gone(cx, key).await };
    match act(cx, key, &claim).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_conflict() => ReconcileOutcome::Stale,
        Err(error) => fail(cx, &claim, &error),
    }
}

async fn act(
    cx: &Context,
    key: &ObjectKey,
    claim: &PersistentVolumeClaim,
) -> Result<ReconcileOutcome> {
    let class = objects::class_name(claim).and_then(|name| cx.cluster.class(name));
    let decision = decide(claim, class.as_deref(), &cx.provisioner);
    match decision {
        ClaimDecision::Nothing => return Ok(ReconcileOutcome::Done),
        ClaimDecision::Bound => {
            cx.progress.forget(key);
            return bound::reconcile(cx, claim, class.as_deref()).await;
        }
        ClaimDecision::Wait(_)
        | ClaimDecision::Refuse(_)
        | ClaimDecision::Populated(_)
        | ClaimDecision::Provision(_) => {}
    }
    // A new leader reconciles all claims. The end of the term waits for what was begun in it.
    let term = cx.term.read().await;
    if !*term {
        return Ok(ReconcileOutcome::Done);
    }
    match decision {
        ClaimDecision::Nothing | ClaimDecision::Bound => Ok(ReconcileOutcome::Done),
        ClaimDecision::Wait(why) => Err(Error::Waiting(why)),
        ClaimDecision::Refuse(refusal) => Err(Error::Refused(refusal)),
        ClaimDecision::Populated(source) => {
            leave_to_populator(cx, claim, &source);
            Ok(ReconcileOutcome::Done)
        }
        ClaimDecision::Provision(plan) => provision(cx, key, claim, &plan).await,
    }
}

/// Says once that a populator has to fill a claim.
fn leave_to_populator(cx: &Context, claim: &PersistentVolumeClaim, source: &str) {
    if !cx.progress.populated(claim.metadata.uid.clone().unwrap_or_default()) {
        return;
    }
    let message = format!(
        "{source} is filled by a populator, which binds the claim: no volume is provisioned for it"
    );
    let reason = "WaitForPopulator";
    cx.events.record(objects::claim_ref(claim), EventType::Normal, reason, message);
    let pvc = full_name(claim);
    tracing::info!(pvc, source, "left to a populator");
}

/// Reports why a claim has no volume yet.
fn fail(cx: &Context, claim: &PersistentVolumeClaim, error: &Error) -> ReconcileOutcome {
    let class = objects::class_name(claim).unwrap_or_default();
    cx.metrics.provision_failed(class, data_source::is_clone(claim));
    let pvc = full_name(claim);
    if cx.events.record_failure(objects::claim_ref(claim), "ProvisioningFailed", error) {
        tracing::warn!(error = error.logged(), pvc, "cannot provision");
    }
    if error.is_transient() { ReconcileOutcome::Failed } else { ReconcileOutcome::Done }
}

/// Gives a claim a volume and a PV: a recycled one, or new ones.
async fn provision(
    cx: &Context,
    key: &ObjectKey,
    claim: &PersistentVolumeClaim,
    plan: &ProvisionPlan,
) -> Result<ReconcileOutcome> {
    let name = objects::pv_name(&key.uid);
    if cx.cluster.pv(&name).is_some_and(|pv| is_of(&pv, key, cx)) {
        cx.progress.forget(key);
        return Ok(ReconcileOutcome::Done);
    }
    if let Some(outcome) = cx.progress.pending_binding(key, &cx.cluster) {
        return Ok(outcome);
    }
    let began = Instant::now();
    let address = cx.address.current(&cx.client).await?;
    mount_options::check_family(&plan.template.mount_options, &address.server)
        .map_err(ClaimRefusal::from)?;
    if !matches!(cx.progress.unfinished(key), Some(UnfinishedVolume::Made(_))) {
        // The watch may lag behind: nothing is made for a claim that is gone or has a volume.
        if !still_waits(cx, key).await? {
            return Ok(ReconcileOutcome::Done);
        }
        let message =
            format!("External provisioner is provisioning volume for claim {:?}", full_name(claim));
        let object = objects::claim_ref(claim);
        cx.events.record_once(object, EventType::Normal, "Provisioning", &message);
        if let Some(given) = recycled::give(cx, claim, plan).await? {
            cx.progress.given(key, &given);
            provisioned(cx, claim, plan, &given, began);
            return Ok(ReconcileOutcome::Done);
        }
    }
    let status = make(cx, claim, plan).await?;
    cx.progress.remember(key, UnfinishedVolume::Made(status.spec.name.clone()));
    match status.phase {
        VolumePhase::Ready | VolumePhase::Counting => {}
        VolumePhase::Cloning { .. } => return Ok(ReconcileOutcome::Again(CLONE_POLL)),
        VolumePhase::Failed { message } => return Err(Error::Clone(message)),
        VolumePhase::Lost { message } => {
            let name = status.spec.name;
            return Err(volume::error::Error::Lost { name, message }.into());
        }
    }
    let (volume, path) = (status.spec.name.clone(), status.path.clone());
    let template = PvTemplate { volume, path, ..plan.template.clone() };
    let mut pv = objects::persistent_volume(&template, &address);
    let annotations = pv.metadata.annotations.get_or_insert_default();
    annotations.insert(SERVER.into(), cx.server_id.clone());
    let saved = save(cx, key, &pv).await?;
    // If this fails, it is done when the watch shows the PV.
    volume_record::update(cx, &saved).await?;
    cx.progress.forget(key);
    let (pvc, like) = (full_name(claim), describe(&status.spec));
    tracing::info!(pvc, pv = name, volume = %template.volume, like, "provisioned");
    provisioned(cx, claim, plan, &name, began);
    Ok(ReconcileOutcome::Done)
}

/// Reports that a claim has its PV.
fn provisioned(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    plan: &ProvisionPlan,
    pv: &str,
    since: Instant,
) {
    cx.metrics.provisioned(&plan.template.class, plan.source.is_some(), since.elapsed());
    let message = format!("Successfully provisioned volume {pv}");
    let reason = "ProvisioningSucceeded";
    cx.events.record(objects::claim_ref(claim), EventType::Normal, reason, message);
}

/// Whether the API server has this claim, and without a volume.
async fn still_waits(cx: &Context, key: &ObjectKey) -> Result<bool> {
    let claim = call::get_claim(&cx.client, key).await?;
    Ok(claim.is_some_and(|claim| !objects::names_a_pv(&claim)))
}

/// Makes a claim's volume, or finds it.
async fn make(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    plan: &ProvisionPlan,
) -> Result<VolumeStatus> {
    let spec = plan.spec.clone();
    let origin = match &plan.source {
        Some(source) => {
            // A copy that has begun does not need its source to be usable still.
            let wanted = spec.clone();
            if let Some(begun) = cx.blocking(move |volumes| Ok(begun(volumes, &wanted))).await? {
                return Ok(begun);
            }
            VolumeOrigin::Clone(copy_source::source_volume(cx, claim, source).await?)
        }
        None => VolumeOrigin::Fresh,
    };
    let made = cx.blocking(move |volumes| create(volumes, &spec, &origin));
    match made.await {
        Err(error) => Err(collision::explained(cx, &plan.spec, error).await),
        made => made,
    }
}

/// The volume, if it exists as it is wanted, or is being copied.
fn begun(volumes: &Volumes, wanted: &Spec) -> Option<VolumeStatus> {
    let found = volumes.show(&wanted.name).ok()?;
    let usable = matches!(
        found.phase,
        VolumePhase::Ready | VolumePhase::Counting | VolumePhase::Cloning { .. }
    );
    (usable && found.spec.id == wanted.id).then_some(found)
}

/// Creates a volume, or finds it. A copy that failed is started again, and returned as failed, so
/// that the retries are backed off.
fn create(
    volumes: &Arc<Volumes>,
    spec: &Spec,
    origin: &VolumeOrigin,
) -> volume::error::Result<VolumeStatus> {
    // The token counts for a new volume only: the path of an existing one never changes.
    let spec = Spec { token: Some(volume::fresh_token()?), ..spec.clone() };
    let before = volumes.show(&spec.name).ok();
    let found = match volumes.create(spec.clone(), origin.clone()) {
        // The claim's labels have changed since: its volume keeps its first name.
        Err(volume::error::Error::OtherName { name, .. }) => {
            volumes.create(Spec { name, ..spec }, origin.clone())
        }
        other => other,
    }?;
    let before = before.filter(|status| status.spec.id == found.spec.id);
    Ok(match before.map(|status| status.phase) {
        Some(phase @ VolumePhase::Failed { .. }) => VolumeStatus { phase, ..found },
        _ => found,
    })
}

/// Whether a PV is the one that was made for a claim.
fn is_of(pv: &PersistentVolume, key: &ObjectKey, cx: &Context) -> bool {
    annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(&cx.provisioner)
        && pv.metadata.name == Some(objects::pv_name(&key.uid))
}

/// Saves a PV, and returns what is saved. An existing one is a success if it was made for the claim
/// and is not being deleted.
async fn save(cx: &Context, key: &ObjectKey, pv: &PersistentVolume) -> Result<PersistentVolume> {
    if let Some(saved) = call::create_pv(&cx.client, pv).await? {
        return Ok(saved);
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    match call::get_pv(&cx.client, name).await? {
        Some(pv) if !is_of(&pv, key, cx) => Err(Error::Foreign(format!(
            "PersistentVolume {name} exists and is not ours; nothing of it is touched"
        ))),
        Some(pv) if pv.metadata.deletion_timestamp.is_none() => Ok(pv),
        _ => Err(Error::Waiting(format!("PersistentVolume {name} is being deleted"))),
    }
}
