//! Claims that have grown: their volumes, PVs and the claims' own status follow.
//!
//! **Flow.** A bound claim asks for more than its PV has ([`decide`]): the volume's limit is raised,
//! which its clients see at once; then the PV's capacity; then the claim's status, which ends the
//! expansion.
//!
//! **Guarantees.** Nothing shrinks. A PV never says more than its volume holds. Every step may be
//! repeated; a crash between two of them is made up for at the next look.
//!
//! **Assumes.** The cluster admitted the growth: it looks at the class's allowVolumeExpansion.
//!
//! **Errors.** `VolumeResizeFailed` on the claim; tried again when the disk may have more room.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::error::{Error, Result};
use super::events::Tone;
use super::objects::{self, annotation};
use super::queue::Outcome;
use super::{Context, call};
use crate::quantity;
use crate::volume;
use crate::volume::Growth;
use crate::volume::name::Name;

/// When something is looked at again that somebody else has just changed.
const SOON: Duration = Duration::from_millis(200);

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

/// What is owed to a bound claim. Pure.
pub fn decide(
    claim: &PersistentVolumeClaim,
    pv: Option<&PersistentVolume>,
    ours: &str,
) -> Decision {
    let Some(pv) = pv else { return Decision::Nothing };
    let uid = objects::claim_of(pv).and_then(|claim| claim.uid.as_ref());
    let is_ours = annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(ours)
        && annotation(&pv.metadata, objects::VOLUME).is_some();
    let leaving = claim.metadata.deletion_timestamp.is_some();
    if !is_ours || leaving || uid != claim.metadata.uid.as_ref() {
        return Decision::Nothing;
    }
    let (Some(wanted), Some(now)) = (requested(claim), objects::capacity(pv)) else {
        return Decision::Nothing;
    };
    // Only a PV that was made for the claim has as much as the claim asked for: a recycled one may
    // always have had more.
    let made_for_it = uid.is_some_and(|uid| pv.metadata.name == Some(objects::pv_name(uid)));
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

/// Looks at a bound claim, and does what is owed to it.
pub async fn reconcile(cx: &Context, claim: &PersistentVolumeClaim) -> Outcome {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let Some(pv) = name.and_then(|name| cx.stores.pv(name)) else { return Outcome::Done };
    let failed = match decide(claim, Some(&pv), &cx.settings.name) {
        Decision::Nothing => return Outcome::Done,
        Decision::Shrink { wanted, now } => {
            let message =
                format!("a volume cannot shrink: {wanted} bytes are asked for, it has {now}");
            cx.events.tell(objects::claim_ref(claim), Tone::Warning, "VolumeResizeFailed", message);
            return Outcome::Done;
        }
        Decision::Tell(now) => tell(cx, claim, now).await,
        Decision::Grow(wanted) => grow(cx, claim, &pv, wanted).await,
    };
    match failed {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_conflict() => Outcome::Again(SOON),
        Err(error) => {
            cx.metrics.expanded(false);
            let pvc = claim.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(error = error.logged(), pvc, "cannot expand");
            cx.events.failed(objects::claim_ref(claim), "VolumeResizeFailed", &error);
            Outcome::Failed
        }
    }
}

async fn grow(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    wanted: u64,
) -> Result<()> {
    let pv_name = pv.metadata.name.as_deref().unwrap_or_default();
    let volume = annotation(&pv.metadata, objects::VOLUME).unwrap_or_default();
    let id = annotation(&pv.metadata, objects::VOLUME_ID).unwrap_or_default().to_owned();
    let foreign = || Error::Foreign(format!("PersistentVolume {pv_name} has no volume of ours"));
    let volume = Name::new(volume).map_err(|_| foreign())?;
    let is_ours = cx
        .blocking(move |volumes| {
            if volumes.show(&volume)?.spec.id.as_str() != id {
                return Ok(false);
            }
            let growth = Growth { capacity: Some(wanted), ..Growth::default() };
            match volumes.expand(&volume, growth) {
                // Somebody has given it more already, beside the cluster.
                Ok(_) | Err(volume::error::Error::WouldShrink { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        })
        .await?;
    if !is_ours {
        return Err(foreign());
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

    const OURS: &str = "example.org/berth";

    fn claim(wanted: &str, told: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "5" },
            "spec": { "volumeName": "pvc-u", "resources": { "requests": { "storage": wanted } } },
            "status": { "capacity": { "storage": told } },
        }))
        .unwrap()
    }

    fn pv(name: &str, by: &str, uid: &str, capacity: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": {
                "pv.kubernetes.io/provisioned-by": by, "berth.io/volume": "v",
            } },
            "spec": { "capacity": { "storage": capacity }, "claimRef": { "uid": uid } },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_owed() {
        const GI: u64 = 1 << 30;
        let check = |wanted: &str, told: &str, pv: &PersistentVolume, expected| {
            assert_eq!(decide(&claim(wanted, told), Some(pv), OURS), expected, "{wanted} {told}");
        };
        let own = pv("pvc-u", OURS, "u", "1Gi");
        check("1Gi", "1Gi", &own, Decision::Nothing);
        check("2Gi", "1Gi", &own, Decision::Grow(2 * GI));
        check("2Gi", "1Gi", &pv("pvc-u", OURS, "u", "2Gi"), Decision::Tell(2 * GI));
        check("2Gi", "1Gi", &pv("pvc-u", "other", "u", "1Gi"), Decision::Nothing);
        check("2Gi", "1Gi", &pv("pvc-u", OURS, "other", "1Gi"), Decision::Nothing);
        check("512Mi", "1Gi", &own, Decision::Shrink { wanted: GI / 2, now: GI });
        check("512Mi", "1Gi", &pv("pvc-old", OURS, "u", "1Gi"), Decision::Nothing);
        check("nonsense", "1Gi", &own, Decision::Nothing);
        assert_eq!(decide(&claim("2Gi", "1Gi"), None, OURS), Decision::Nothing);
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
