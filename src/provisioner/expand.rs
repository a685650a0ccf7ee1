//! Claims that have grown: their volumes, PVs and the claims' own status follow.
//!
//! **Flow.** A bound claim asks for more than its PV has ([`decide`]): the volume's limit is
//! raised, which its clients see at once; then the PV's capacity; then the claim's status, which
//! ends the expansion.
//!
//! **Guarantees.** Nothing shrinks. A PV never says more than its volume holds. Every step may be
//! repeated; a crash between two of them is made up for at the next look.
//!
//! **Assumes.** The cluster admitted the growth: it looks at the class's allowVolumeExpansion.
//!
//! **Errors.** `VolumeResizeFailed` on the claim; tried again when the disk may have more room.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::error::{Error, Result};
use super::events::Tone;
use super::objects;
use super::ownership;
use super::queue::Outcome;
use super::{Context, call};
use crate::quantity;
use crate::volume;
use crate::volume::CapacityChange;
use crate::volume::spec::Spec;

/// What is owed to a bound claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing.
    Nothing,
    /// So many bytes, for all three.
    Grow(u64),
    /// The volume and the PV have these bytes; the claim was not told.
    Tell(u64),
    /// It asks for less than it has, which does not happen.
    Shrink {
        /// What it asks for, in bytes.
        wanted: u64,
        /// What it has, in bytes.
        now: u64,
    },
}

/// What is owed to a claim that is bound to a PV which holds this volume. Pure.
pub fn decide(claim: &PersistentVolumeClaim, pv: &PersistentVolume, volume: &Spec) -> Decision {
    let leaving = claim.metadata.deletion_timestamp.is_some();
    if leaving || !ownership::is_bound(claim, pv) || !ownership::is_used_by(volume, claim) {
        return Decision::Nothing;
    }
    let (Some(wanted), Some(now)) = (requested(claim), objects::capacity(pv)) else {
        return Decision::Nothing;
    };
    // Whoever may patch the PV may write into it what the volume has not.
    let now = now.min(volume.capacity);
    // Only a volume that was made for the claim has as much as the claim asked for: a recycled one
    // may always have had more.
    let made_for_it = claim.metadata.uid.as_deref() == Some(volume.id.as_str());
    match told(claim) {
        _ if wanted > now => Decision::Grow(wanted),
        Some(told) if told < wanted => Decision::Tell(now),
        Some(_) if wanted < now && made_for_it => Decision::Shrink { wanted, now },
        _ => Decision::Nothing,
    }
}

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    quantity::parse(&requests.get("storage")?.0).ok()
}

/// What the claim was told that it has.
fn told(claim: &PersistentVolumeClaim) -> Option<u64> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    quantity::parse(&capacity.get("storage")?.0).ok()
}

/// Looks at a claim that is bound to a PV which holds this volume, and does what is owed to it.
pub async fn reconcile(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
) -> Outcome {
    let failed = match decide(claim, pv, volume) {
        Decision::Nothing => return Outcome::Done,
        Decision::Shrink { wanted, now } => {
            let message =
                format!("a volume cannot shrink: {wanted} bytes are asked for, it has {now}");
            let of = objects::claim_ref(claim);
            cx.events.tell_once(of, Tone::Warning, "VolumeResizeFailed", &message);
            return Outcome::Done;
        }
        Decision::Tell(now) => tell(cx, claim, now).await,
        Decision::Grow(wanted) => grow(cx, claim, pv, volume, wanted).await,
    };
    match failed {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_conflict() => Outcome::Stale,
        Err(error) => {
            cx.metrics.expanded(false);
            let pvc = claim.metadata.name.as_deref().unwrap_or_default();
            if cx.events.failed(objects::claim_ref(claim), "VolumeResizeFailed", &error) {
                tracing::warn!(error = error.logged(), pvc, "cannot expand");
            }
            Outcome::Failed
        }
    }
}

async fn grow(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
    wanted: u64,
) -> Result<()> {
    let pv_name = pv.metadata.name.as_deref().unwrap_or_default();
    let (name, id) = (volume.name.clone(), volume.id.clone());
    let is_there = cx
        .blocking(move |volumes| {
            if volumes.show(&name)?.spec.id != id {
                return Ok(false);
            }
            let growth = CapacityChange { capacity: Some(wanted), ..CapacityChange::default() };
            match volumes.expand(&name, growth) {
                // Somebody has given it more already, beside the cluster.
                Ok(_) | Err(volume::error::Error::WouldShrink { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        })
        .await?;
    if !is_there {
        return Err(Error::Stale);
    }
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let patch = objects::capacity_patch(pv, wanted);
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let what = format!("patch PersistentVolume {pv_name}");
    call(what, api.patch(pv_name, &params, &patch)).await?;
    tell(cx, claim, wanted).await
}

/// Tells a claim what it has: the expansion is over.
async fn tell(cx: &Context, claim: &PersistentVolumeClaim, bytes: u64) -> Result<()> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(cx.client.clone(), namespace);
    let patch = objects::grown_patch(claim, bytes);
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let what = format!("patch status of PersistentVolumeClaim {namespace}/{name}");
    call(what, api.patch_status(name, &params, &patch)).await?;
    cx.metrics.expanded(true);
    let message = format!("The volume has {} now", quantity::exact(bytes));
    cx.events.tell(objects::claim_ref(claim), Tone::Normal, "VolumeExpanded", message);
    tracing::info!(pvc = name, bytes, "expanded");
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
        check("1Gi", "1Gi", &pv("u", "1Gi"), own(GI), Decision::Nothing);
        check("2Gi", "1Gi", &pv("u", "1Gi"), own(GI), Decision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "1Gi"), own(2 * GI), Decision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "2Gi"), own(2 * GI), Decision::Tell(2 * GI));
        // What the PV says without having it counts for nothing.
        check("2Gi", "1Gi", &pv("u", "8Ti"), own(GI), Decision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("u", "8Ti"), own(2 * GI), Decision::Tell(2 * GI));
        let shrink = Decision::Shrink { wanted: GI / 2, now: GI };
        check("512Mi", "1Gi", &pv("u", "1Gi"), own(GI), shrink);
        check("512Mi", "1Gi", &pv("u", "1Gi"), volume("old", "u", GI), Decision::Nothing);
        check("nonsense", "1Gi", &pv("u", "1Gi"), own(GI), Decision::Nothing);
        // The PV names another claim, or the volume is another one's by its record.
        check("2Gi", "1Gi", &pv("other", "1Gi"), own(GI), Decision::Nothing);
        check("2Gi", "1Gi", &pv("u", "1Gi"), volume("v", "victim", GI), Decision::Nothing);
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
