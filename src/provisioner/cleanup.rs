//! Cleaning up after claims that are gone: a volume that was made for a claim and that no PV ever
//! held is deleted.

use super::call;
use super::claim_progress::UnfinishedVolume;
use super::context::Context;
use super::error::{Error, Result};
use super::events::EventType;
use super::objects::{self, ObjectKey};
use super::ownership::{CLAIM_UID, PV_UID, PvRelation};
use super::queue::ReconcileOutcome;
use super::volume_record;
use crate::volume;
use crate::volume::name::VolumeName;
use crate::volume::spec::{OnDelete, Spec, VolumePhase, VolumeStatus};

/// Reconciles a claim that the watch does not show any more: deletes what was made for it and not
/// given to a PV.
pub async fn reconcile_gone(cx: &Context, key: &ObjectKey) -> ReconcileOutcome {
    let Some(unfinished) = cx.progress.unfinished(key) else {
        cx.progress.forget(key);
        return ReconcileOutcome::Done;
    };
    match clean_up(cx, key, unfinished).await {
        Ok(()) => {
            cx.progress.forget(key);
            ReconcileOutcome::Done
        }
        Err(error) if error.is_conflict() => ReconcileOutcome::Stale,
        Err(error) => {
            let pvc = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
            tracing::warn!(
                error = error.logged(),
                pvc,
                "cannot clean up after a claim that is gone"
            );
            let message =
                format!("Error cleaning provisioned volume for claim {pvc}: {}", error.public());
            let reason = "ProvisioningCleanupFailed";
            cx.events.record(key.claim_ref(), EventType::Warning, reason, message);
            ReconcileOutcome::Failed
        }
    }
}

/// Deletes a claim's volume if the claim is gone and no PV has the volume.
async fn clean_up(cx: &Context, key: &ObjectKey, unfinished: UnfinishedVolume) -> Result<()> {
    if call::get_claim(&cx.client, key).await?.is_some() {
        return Ok(());
    }
    let name = match unfinished {
        UnfinishedVolume::Given(..) => return Ok(()), // its PV is released, and reclaimed then
        UnfinishedVolume::Made(name) => name,
        UnfinishedVolume::Found(name) => {
            let spec = cx.volumes.specs().into_iter().find(|spec| spec.name == name);
            match spec {
                Some(spec) if is_never_used(cx, &spec).await => name,
                _ => return Ok(()), // the search for orphans finds it
            }
        }
    };
    delete_unheld(cx, key, name).await.map(|_| ())
}

/// Deletes the volume of a claim that is gone or has another volume, unless a PV holds it or may
/// hold it. Returns whether the volume is gone. May be repeated.
///
/// # Errors
/// The API server cannot be asked, or the disk fails.
pub async fn delete_unheld(cx: &Context, key: &ObjectKey, name: VolumeName) -> Result<bool> {
    if let Some(pv) = call::get_pv(&cx.client, &objects::pv_name(&key.uid)).await?
        && volume_record::relation(cx, &pv).await != PvRelation::Foreign
    {
        return Ok(false); // it is reclaimed with its PV
    }
    let (uid, shown) = (key.uid.clone(), name.clone());
    let deleted = cx.blocking(move |volumes| match volumes.show(&name) {
        Ok(status) if status.spec.labels.contains_key(PV_UID) => Ok(false),
        Ok(status) if status.spec.id.as_str() == uid => {
            volumes.give_up(&name, &status.spec.id);
            volumes.reclaim(&name, Some(OnDelete::Delete)).map(|_| true)
        }
        _ => Ok(true),
    });
    let deleted = match deleted.await {
        // The copy is being cancelled.
        Err(Error::Volume(volume::error::Error::Cloning(_))) => return Err(Error::Stale),
        deleted => deleted?,
    };
    if deleted {
        tracing::info!(volume = %shown, "the claim is gone: its unused volume is deleted");
    }
    Ok(deleted)
}

/// Whether no PV ever held a volume, and no client ever wrote into it or has it mounted: what a
/// crash during provisioning leaves. In doubt, `false`.
pub async fn is_never_used(cx: &Context, spec: &Spec) -> bool {
    // Records of earlier versions have neither label, whatever used the volume.
    if spec.labels.contains_key(PV_UID) || !spec.labels.contains_key(CLAIM_UID) {
        return false;
    }
    let name = spec.name.clone();
    let unused = cx.blocking(move |volumes| {
        let VolumeStatus { phase, mounted_by, .. } = volumes.show(&name)?;
        Ok(match phase {
            VolumePhase::Ready | VolumePhase::Counting => {
                mounted_by.is_empty() && volumes.is_untouched(&name)?
            }
            // A copy can be mounted only when it is complete.
            VolumePhase::Cloning { .. } | VolumePhase::Failed { .. } => true,
            VolumePhase::Lost { .. } => false,
        })
    });
    unused.await.unwrap_or(false)
}
