//! The source of a copy: which volume a claim is to be a copy of, and whether it may be.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::context::Context;
use super::data_source::DataSource;
use super::error::{ClaimRefusal, Error, Result};
use super::events::EventType;
use super::objects::{self, annotation, full_name};
use super::ownership::{self, PvRelation};
use super::volume_record;
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;

/// Returns the volume of the claim that is to be copied. That claim must be in the same namespace,
/// be bound to a PV of ours, and use the PV's volume by that volume's record. What its author wrote
/// into it (`volumeName`) proves nothing.
///
/// # Errors
/// The source cannot be copied, or not yet.
pub async fn source_volume(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    source: &str,
) -> Result<VolumeName> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let waiting = |why: &str| Error::Waiting(format!("data source {source} {why}"));
    let found = cx.cluster.claim_named(namespace, source);
    let found = found.ok_or_else(|| waiting("does not exist; create it, or remove dataSource"))?;
    let ours = objects::class_name(claim).unwrap_or_default();
    let theirs = objects::class_name(&found).unwrap_or_default();
    if ours != theirs {
        let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
        return Err(ClaimRefusal::OtherClass { claim: source.to_owned(), theirs, ours }.into());
    }
    let pv = found.spec.as_ref().and_then(|spec| cx.cluster.pv(spec.volume_name.as_deref()?));
    let pv = pv.filter(|pv| ownership::is_bound(&found, pv));
    let pv = pv.ok_or_else(|| waiting("has no volume yet: it is not bound"))?;
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(&cx.provisioner) {
        return Err(ClaimRefusal::DataSource(format!("PersistentVolumeClaim {source}")).into());
    }
    match volume_record::update(cx, &pv).await? {
        PvRelation::Holder(volume) if ownership::is_used_by(&volume, &found) => Ok(volume.name),
        PvRelation::Foreign => Err(waiting(
            "has its volume on another server; it can be copied when that one provisions",
        )),
        PvRelation::Missing => Err(waiting("has lost its volume")),
        PvRelation::Unheld(_) | PvRelation::Holder(_) | PvRelation::HeldByOther(_) => {
            Err(waiting("is bound to a volume that is another claim's"))
        }
    }
}

/// Reports that a claim does not have the content that it asks for, because the cluster bound it to
/// an existing volume.
pub fn warn_of_source(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
) {
    let Ok(DataSource::Claim(source)) = DataSource::of(claim) else { return };
    if claim.metadata.uid.as_deref() == Some(volume.id.as_str()) {
        return;
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "The claim is not a copy of its data source {source}: it was bound to the existing \
         PersistentVolume {name}. For a copy, delete the claim, and create it again without \
         volumeName"
    );
    let object = objects::claim_ref(claim);
    if cx.events.record_once(object, EventType::Warning, "DataSourceIgnored", &message) {
        tracing::warn!(pvc = full_name(claim), pv = name, "bound without the content it asks for");
    }
}
