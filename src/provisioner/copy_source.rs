//! What a claim is to be a copy of, and whether it is.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::Context;
use super::claims::full_name;
use super::error::{Error, Refusal, Result};
use super::events::Tone;
use super::objects::{self, annotation};
use super::ownership::{self, Relation};
use super::source::Source;
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;

/// The volume of the claim that is to be copied: one of the same namespace, which is bound to a PV
/// of ours, and uses the PV's volume, as that volume's record has it. What the author of a claim
/// wrote into it (`volumeName`) proves nothing.
pub async fn source_volume(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    source: &str,
) -> Result<VolumeName> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let waiting = |why: &str| Error::Waiting(format!("data source {source} {why}"));
    let found = cx.stores.claim_named(namespace, source);
    let found = found.ok_or_else(|| waiting("is not there; create it, or remove dataSource"))?;
    let ours = objects::class_name(claim).unwrap_or_default();
    let theirs = objects::class_name(&found).unwrap_or_default();
    if ours != theirs {
        let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
        return Err(Refusal::OtherClass { claim: source.to_owned(), theirs, ours }.into());
    }
    let pv = found.spec.as_ref().and_then(|spec| cx.stores.pv(spec.volume_name.as_deref()?));
    let pv = pv.filter(|pv| ownership::is_bound(&found, pv));
    let pv = pv.ok_or_else(|| waiting("has no volume yet: it is not bound"))?;
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(&cx.settings.name) {
        return Err(Refusal::DataSource(format!("PersistentVolumeClaim {source}")).into());
    }
    match cx.settle(&pv).await? {
        Relation::Own(volume) if ownership::is_used_by(&volume, &found) => Ok(volume.name),
        Relation::Other => Err(waiting(
            "has its volume on another server; it can be copied when that one provisions",
        )),
        Relation::Missing => Err(waiting("has lost its volume")),
        Relation::New(_) | Relation::Own(_) | Relation::Stranger(_) => {
            Err(waiting("is bound to a volume that is another claim's"))
        }
    }
}

/// Says that a claim has not the content that it asks for: the cluster bound it to a volume that
/// was there.
pub fn warn_of_source(
    cx: &Context,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
    volume: &Spec,
) {
    let Ok(Source::Claim(source)) = Source::of(claim) else { return };
    if claim.metadata.uid.as_deref() == Some(volume.id.as_str()) {
        return;
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "The claim is not a copy of its data source {source}: it was bound to the PersistentVolume \
         {name}, which was there already. For a copy, delete the claim, and make it anew without \
         volumeName"
    );
    if cx.events.tell_once(objects::claim_ref(claim), Tone::Warning, "DataSourceIgnored", &message)
    {
        tracing::warn!(pvc = full_name(claim), pv = name, "bound without the content it asks for");
    }
}
