//! What keeps the volume of a released PV from being reclaimed: a claim that names the PV, or
//! another PV of the same volume that is in use.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::call;
use super::cluster_view::ClusterView;
use super::context::Context;
use super::error::{Error, Result};
use super::events::EventType;
use super::objects::{self, annotation, full_name};
use super::ownership::{self, CLAIM, SERVER};
use super::queue::ReconcileOutcome;
use super::reclaim::{LATER, unbind};
use crate::volume::spec::Spec;

/// The reason of the event that says why a volume is not reclaimed.
pub const VOLUME_KEPT: &str = "VolumeKept";

/// What keeps a volume from being reclaimed.
pub enum ReclaimBlocker {
    /// A claim that names the PV.
    Claim(Arc<PersistentVolumeClaim>),
    /// Another PV of the same volume, which is bound to a claim.
    OtherPv(Arc<PersistentVolume>),
}

/// Finds what keeps the volume of a PV from being reclaimed. What is known of the cluster is looked
/// at first; then the claim that the PV was for is read from the API server, because it may have
/// been restored just now.
///
/// # Errors
/// The API server cannot be asked.
pub async fn find(
    cx: &Context,
    pv: &PersistentVolume,
    spec: &Spec,
) -> Result<Option<ReclaimBlocker>> {
    if let Some(claim) = claim_naming(&cx.cluster, pv, spec) {
        return Ok(Some(ReclaimBlocker::Claim(claim)));
    }
    if let Some(other) = other_in_use(&cx.cluster, pv, spec) {
        return Ok(Some(ReclaimBlocker::OtherPv(other)));
    }
    let claim = live_claim_naming(cx, pv).await?;
    Ok(claim.map(|claim| ReclaimBlocker::Claim(Arc::new(claim))))
}

/// Reports why a volume is not reclaimed.
///
/// # Errors
/// [`Error::Stale`]: what is known of the PV or of the claim is out of date.
pub fn report(
    cx: &Context,
    pv: &PersistentVolume,
    blocker: &ReclaimBlocker,
) -> Result<ReconcileOutcome> {
    match blocker {
        ReclaimBlocker::Claim(claim) => {
            report_claim(cx, pv, claim).map(|()| ReconcileOutcome::Done)
        }
        ReclaimBlocker::OtherPv(other) => {
            report_other(cx, pv, other);
            Ok(ReconcileOutcome::Again(LATER))
        }
    }
}

/// A claim that names the PV, in the namespace of the claim that the PV is for or that used its
/// volume. Claims of other namespaces do not count: anyone may make them.
fn claim_naming(
    cluster: &ClusterView,
    pv: &PersistentVolume,
    spec: &Spec,
) -> Option<Arc<PersistentVolumeClaim>> {
    let of = objects::claim_of(pv).and_then(|claim| claim.namespace.as_deref());
    let used = spec.labels.get(CLAIM).and_then(|claim| claim.split_once('/')).map(|pair| pair.0);
    let near = |claim: &PersistentVolumeClaim| {
        let namespace = claim.metadata.namespace.as_deref();
        namespace.is_some() && (namespace == of || namespace == used)
    };
    cluster.claims_naming(pv).into_iter().find(|claim| near(claim))
}

/// Another PV that points to the same volume and is bound to a claim, unless it says that it is of
/// another server.
fn other_in_use(
    cluster: &ClusterView,
    pv: &PersistentVolume,
    spec: &Spec,
) -> Option<Arc<PersistentVolume>> {
    let server = annotation(&pv.metadata, SERVER);
    cluster.pvs_at(spec).into_iter().find(|other| {
        let theirs = annotation(&other.metadata, SERVER);
        other.metadata.uid != pv.metadata.uid
            && objects::phase(other) == "Bound"
            && (theirs.is_none() || server.is_none() || theirs == server)
    })
}

/// The claim that the PV is for, if the API server has one of its name that names the PV.
async fn live_claim_naming(
    cx: &Context,
    pv: &PersistentVolume,
) -> Result<Option<PersistentVolumeClaim>> {
    let of =
        objects::claim_of(pv).and_then(|of| Some((of.namespace.as_deref()?, of.name.as_deref()?)));
    let Some((namespace, name)) = of.filter(|(namespace, _)| cx.cluster.watches(namespace)) else {
        return Ok(None);
    };
    let found = call::get_claim_named(&cx.client, namespace, name).await?;
    Ok(found.filter(|claim| ownership::names(claim, pv)))
}

/// Reports to a PV and to the claim that names it that the volume is kept for the claim.
fn report_claim(cx: &Context, pv: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
    let uid = objects::claim_of(pv).and_then(|of| of.uid.as_ref());
    if uid.is_some() && uid == claim.metadata.uid.as_ref() {
        return Err(Error::Stale); // a released PV's claim is gone: one of both is out of date
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "PersistentVolume {name} is not bound to the claim {} that names it (restored from a \
         backup?): its volume is kept. To bind them: {}. To have the volume reclaimed: delete the \
         claim",
        full_name(claim),
        unbind(name)
    );
    if cx.events.record_once(objects::pv_ref(pv), EventType::Warning, VOLUME_KEPT, &message) {
        let pvc = full_name(claim);
        tracing::info!(pv = name, pvc, "the volume is kept for a claim that names its PV");
    }
    cx.events.record_once(objects::claim_ref(claim), EventType::Warning, VOLUME_KEPT, &message);
    Ok(())
}

/// Reports to a PV that its volume is kept because a claim uses it through another PV.
fn report_other(cx: &Context, pv: &PersistentVolume, other: &PersistentVolume) {
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let (name, other_name) = (text(&pv.metadata.name), text(&other.metadata.name));
    let message = format!(
        "The volume of PersistentVolume {name} is also that of PersistentVolume {other_name}, \
         which is bound to a claim: it is kept. It is reclaimed when that claim is deleted"
    );
    if cx.events.record_once(objects::pv_ref(pv), EventType::Warning, VOLUME_KEPT, &message) {
        tracing::info!(pv = name, other_name, "the volume is kept: another PV of it is in use");
    }
}
