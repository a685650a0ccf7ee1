//! Reconciles claims that name a PV. For a claim that the cluster has bound, the volume's record is
//! updated and the volume is expanded when the claim has grown. A claim that only names a recycled
//! PV is given it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::context::Context;
use super::data_source::DataSource;
use super::error::Result;
use super::objects::full_name;
use super::ownership::{self, PvRelation};
use super::plan::plan;
use super::queue::ReconcileOutcome;
use super::{copy_source, expand, recycled, volume_record};

/// Reconciles a claim that names a PV.
///
/// # Errors
/// The claim could not be given the PV that it names.
pub async fn reconcile(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Result<ReconcileOutcome> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let Some(pv) = name.and_then(|name| cx.cluster.pv(name)) else {
        return Ok(ReconcileOutcome::Done);
    };
    if !ownership::is_bound(claim, &pv) {
        return give_named(cx, claim, class).await;
    }
    Ok(match volume_record::update(cx, &pv).await {
        Ok(PvRelation::Holder(volume)) => {
            copy_source::warn_of_source(cx, claim, &pv, &volume);
            expand::reconcile(cx, claim, &pv, &volume).await
        }
        Ok(_) => ReconcileOutcome::Done,
        Err(error) => {
            let pvc = full_name(claim);
            tracing::warn!(error = error.logged(), pvc, "cannot record which claim uses a volume");
            ReconcileOutcome::Failed
        }
    })
}

/// Gives a claim the recycled volume that it names, if that is free.
async fn give_named(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Result<ReconcileOutcome> {
    let ours = class.filter(|class| class.provisioner == cx.provisioner);
    let fits = claim.metadata.deletion_timestamp.is_none()
        && DataSource::of(claim) == Ok(DataSource::None);
    if let Some(Ok(plan)) = ours.filter(|_| fits).map(|class| plan(claim, class, None)) {
        recycled::give(cx, claim, &plan).await?;
    }
    Ok(ReconcileOutcome::Done)
}
