//! Expands the volumes of claims that have grown.
//!
//! **Flow.** If a bound claim asks for more than its PV has ([`decide`]), the volume's capacity is
//! raised, which clients see at once; then the PV's capacity; then the claim's status, which ends
//! the expansion.
//!
//! **Guarantees.** Nothing shrinks. A PV never says more than its volume has. Every step may be
//! repeated; after a crash between two of them, the next reconciliation does the rest.
//!
//! **Assumes.** The cluster admitted the growth: it checks the class's allowVolumeExpansion.
//!
//! **Errors.** `VolumeResizeFailed` on the claim; retried without end.

use super::call;
use super::context::Context;
use super::error::{Error, Result};
use super::events::EventType;
use super::objects::{self, full_name};
use super::ownership;
use super::queue::ReconcileOutcome;
use crate::quantity;
use crate::volume;
use crate::volume::CapacityChange;
use crate::volume::spec::Spec;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// What happens to a bound claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpandDecision {
    /// Nothing.
    Nothing,
    /// Volume, PV and claim get this many bytes.
    Grow(u64),
    /// The volume and the PV have this many bytes; the claim's status says less.
    UpdateStatus(u64),
    /// The claim asks for less than it has, which is refused.
    Shrink {
        /// What it asks for, in bytes.
        wanted: u64,
        /// What it has, in bytes.
        now: u64,
    },
}

/// Decides what happens to a claim that is bound to a PV which holds this volume. Pure.
pub fn decide(
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
) -> ExpandDecision {
    let leaving = claim.metadata.deletion_timestamp.is_some();
    if leaving || !ownership::is_bound(claim, pv) || !ownership::is_used_by(volume, claim) {
        return ExpandDecision::Nothing;
    }
    let (Some(wanted), Some(now)) = (requested(claim), objects::capacity(pv)) else {
        return ExpandDecision::Nothing;
    };
    // The PV can be patched to say more than the volume has.
    let now = now.min(volume.capacity);
    // Only a volume that was made for the claim has exactly what the claim asked for: a recycled
    // one may have more.
    let made_for_it = claim.metadata.uid.as_deref() == Some(volume.id.as_str());
    match status_capacity(claim) {
        _ if wanted > now => ExpandDecision::Grow(wanted),
        Some(status) if status < wanted => ExpandDecision::UpdateStatus(now),
        Some(_) if wanted < now && made_for_it => ExpandDecision::Shrink { wanted, now },
        _ => ExpandDecision::Nothing,
    }
}

/// The storage that a claim requests, in bytes.
fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    quantity::parse(&requests.get("storage")?.0).ok()
}

/// The capacity that the claim's status says, in bytes.
fn status_capacity(claim: &PersistentVolumeClaim) -> Option<u64> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    quantity::parse(&capacity.get("storage")?.0).ok()
}

/// Reconciles a claim that is bound to a PV which holds this volume.
pub async fn reconcile(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
) -> ReconcileOutcome {
    let failed = match decide(claim, pv, volume) {
        ExpandDecision::Nothing => return ReconcileOutcome::Done,
        ExpandDecision::Shrink { wanted, now } => {
            let message =
                format!("a volume cannot shrink: {wanted} bytes are asked for, it has {now}");
            let of = objects::claim_ref(claim);
            cx.events.record_once(of, EventType::Warning, "VolumeResizeFailed", &message);
            return ReconcileOutcome::Done;
        }
        ExpandDecision::UpdateStatus(now) => finish(cx, claim, now).await,
        ExpandDecision::Grow(wanted) => grow(cx, claim, pv, volume, wanted).await,
    };
    match failed {
        Ok(()) => ReconcileOutcome::Done,
        Err(error) if error.is_conflict() => ReconcileOutcome::Stale,
        Err(error) => {
            cx.metrics.expanded(false);
            let pvc = full_name(claim);
            if cx.events.record_failure(objects::claim_ref(claim), "VolumeResizeFailed", &error) {
                tracing::warn!(error = error.logged(), pvc, "cannot expand");
            }
            ReconcileOutcome::Failed
        }
    }
}

/// Expands the volume, the PV and the claim to `wanted` bytes.
async fn grow(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
    wanted: u64,
) -> Result<()> {
    let (name, id) = (volume.name.clone(), volume.id.clone());
    let exists = cx
        .blocking(move |volumes| {
            if volumes.show(&name)?.spec.id != id {
                return Ok(false);
            }
            let growth = CapacityChange { capacity: Some(wanted), ..CapacityChange::default() };
            match volumes.expand(&name, growth) {
                // An administrator has expanded it further already.
                Ok(_) | Err(volume::error::Error::WouldShrink { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        })
        .await?;
    if !exists {
        return Err(Error::Stale);
    }
    call::patch_pv(&cx.client, pv, &objects::capacity_patch(pv, wanted)).await?;
    finish(cx, claim, wanted).await
}

/// Ends an expansion: sets the capacity in the claim's status, and reports it.
async fn finish(cx: &Context, claim: &PersistentVolumeClaim, bytes: u64) -> Result<()> {
    call::patch_claim_status(&cx.client, claim, &objects::grown_patch(claim, bytes)).await?;
    cx.metrics.expanded(true);
    let message = format!("The volume has {} now", quantity::exact(bytes));
    cx.events.record(objects::claim_ref(claim), EventType::Normal, "VolumeExpanded", message);
    tracing::info!(pvc = full_name(claim), bytes, "expanded");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::volume::name::{VolumeId, VolumeName};

    const GI: u64 = 1 << 30;

    fn claim(wanted: &str, told: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "5" },
            "spec": { "volumeName": "pvc-u", "resources": { "requests": { "storage": wanted } } },
            "status": { "capacity": { "storage": told } },
        }))
        .unwrap()
    }

    fn pv(uid: &str, capacity: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": "pvc-u" },
            "spec": {
                "capacity": { "storage": capacity },
                "claimRef": { "namespace": "ns", "name": "c", "uid": uid },
            },
            "status": { "phase": "Bound" },
        }))
        .unwrap()
    }

    fn volume(id: &str, user: &str, capacity: u64) -> Spec {
        let (name, id) = (VolumeName::new("v").unwrap(), VolumeId::new(id).unwrap());
        let mut spec = Spec::new(name, id, capacity);
        spec.labels.insert(ownership::CLAIM_UID.into(), user.into());
        spec
    }

    #[test]
    fn what_is_owed() {
        let own = |bytes| volume("u", "u", bytes);
        let check = |wanted: &str, told: &str, pv: &PersistentVolume, volume: Spec, expected| {
            assert_eq!(decide(&claim(wanted, told), pv, &volume), expected, "{wanted} {told}");
        };
        check("1Gi", "1Gi", &pv("u", "1Gi"), own(GI), ExpandDecision::Nothing);
        check("2Gi", "1Gi", &pv("u", "1Gi"), own(GI), ExpandDecision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "1Gi"), own(2 * GI), ExpandDecision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "2Gi"), own(2 * GI), ExpandDecision::UpdateStatus(2 * GI));
        // What the PV says without having it counts for nothing.
        check("2Gi", "1Gi", &pv("u", "8Ti"), own(GI), ExpandDecision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "8Ti"), own(2 * GI), ExpandDecision::UpdateStatus(2 * GI));
        let shrink = ExpandDecision::Shrink { wanted: GI / 2, now: GI };
        check("512Mi", "1Gi", &pv("u", "1Gi"), own(GI), shrink);
        check("512Mi", "1Gi", &pv("u", "1Gi"), volume("old", "u", GI), ExpandDecision::Nothing);
        check("nonsense", "1Gi", &pv("u", "1Gi"), own(GI), ExpandDecision::Nothing);
        // The PV names another claim, or the volume is another one's by its record.
        check("2Gi", "1Gi", &pv("other", "1Gi"), own(GI), ExpandDecision::Nothing);
        check("2Gi", "1Gi", &pv("u", "1Gi"), volume("v", "victim", GI), ExpandDecision::Nothing);
    }

    #[test]
    fn the_end_takes_only_our_conditions_away() {
        let mut claim = claim("2Gi", "1Gi");
        let conditions = json!([
            { "type": "Resizing", "status": "True" },
            { "type": "FileSystemResizePending", "status": "True" },
            { "type": "Other", "status": "True" },
        ]);
        let status = claim.status.as_mut().unwrap();
        status.conditions = serde_json::from_value(conditions).unwrap();
        let patch = objects::grown_patch(&claim, 2 << 30);
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(patch["metadata"]["resourceVersion"], "5");
    }
}
