//! Claims that name a PV. Most are bound to it: what that means is written down with the volume,
//! and the volume grows with the claim. Others name one that the cluster has not bound to them.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::claims::{fail, full_name, plan};
use super::ownership::{self, Relation};
use super::queue::Outcome;
use super::source::Source;
use super::{Context, copy_source, expand, recycled};

/// Looks at a claim that names a PV.
pub async fn look(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Outcome {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let Some(pv) = name.and_then(|name| cx.stores.pv(name)) else { return Outcome::Done };
    if !ownership::is_bound(claim, &pv) {
        return named(cx, claim, class).await;
    }
    match cx.settle(&pv).await {
        Ok(Relation::Own(volume)) => {
            copy_source::warn_of_source(cx, claim, &pv, &volume);
            expand::reconcile(cx, claim, &pv, &volume).await
        }
        Ok(_) => Outcome::Done,
        Err(error) => {
            tracing::warn!(error = error.logged(), pvc = full_name(claim), "cannot write it down");
            Outcome::Failed
        }
    }
}

/// Gives a claim the recycled volume that it names, if that is free.
async fn named(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Outcome {
    let ours = class.filter(|class| class.provisioner == cx.settings.name);
    let fits = claim.metadata.deletion_timestamp.is_none() && Source::of(claim) == Ok(Source::None);
    let Some(Ok(plan)) = ours.filter(|_| fits).map(|class| plan(claim, class, None)) else {
        return Outcome::Done;
    };
    match recycled::give(cx, claim, &plan).await {
        Ok(_) => Outcome::Done,
        Err(error) if error.is_conflict() => Outcome::Stale,
        Err(error) => fail(cx, claim, &error),
    }
}
