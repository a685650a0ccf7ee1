//! The record of the volume that a PV points to: reads what the PV is to this server, and writes
//! which PV holds the volume and which claim uses it. [`super::ownership`] decides both.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::cluster_view::ClusterView;
use super::context::Context;
use super::error::Result;
use super::objects::{self, annotation};
use super::ownership::{
    self, BindingFacts, CLAIM, CLAIM_UID, LabelUpdate, PV_UID, PvRelation, SERVER, ServerIdentity,
};
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;
use crate::volume::{self, Volumes};

/// Returns what a PV is to this server, as the records are now.
pub async fn relation(cx: &Context, pv: &PersistentVolume) -> PvRelation {
    let (provisioner, server) = (cx.provisioner.as_str(), cx.server_id.as_str());
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(provisioner) {
        return PvRelation::Foreign;
    }
    let path = pv.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).map(|nfs| &*nfs.path);
    let found = path.and_then(|path| cx.volumes.at_path(path));
    let address = match annotation(&pv.metadata, SERVER) {
        Some(by) if by == server => None,
        _ => cx.address.last_known(&cx.client).await,
    };
    let us = ServerIdentity { provisioner, server, address: address.as_ref() };
    ownership::relation(pv, found, us)
}

/// Updates the labels in the record of the volume that a PV points to, and returns what the PV is
/// to this server then. May be repeated.
///
/// # Errors
/// The registry cannot be written.
pub async fn update(cx: &Context, pv: &PersistentVolume) -> Result<PvRelation> {
    let before = relation(cx, pv).await;
    let spec = match &before {
        PvRelation::Foreign | PvRelation::Missing => return Ok(before),
        PvRelation::Unheld(spec) | PvRelation::Holder(spec) | PvRelation::HeldByOther(spec) => spec,
    };
    let facts = facts(&cx.cluster, pv, spec, cx.volumes.created(&spec.name));
    type Check = fn(&Volumes, &VolumeName) -> volume::error::Result<bool>;
    let (labels, check): (_, Check) = match ownership::label_update(pv, &before, facts) {
        LabelUpdate::None => return Ok(before),
        LabelUpdate::Always(labels) => (labels, |_, _| Ok(true)),
        LabelUpdate::IfUntouched(labels) => (labels, Volumes::is_untouched),
        LabelUpdate::IfEmpty(labels) => (labels, Volumes::is_empty),
    };
    let (name, id) = (spec.name.clone(), spec.id.clone());
    let write = move |volumes: &Arc<Volumes>| {
        let write = check(volumes, &name)?;
        let changes: Vec<_> = labels.iter().map(|(k, v)| (*k, Some(v.as_str()))).collect();
        if write { volumes.set_labels(&name, &id, &changes).map(drop) } else { Ok(()) }
    };
    cx.blocking(write).await?;
    Ok(relation(cx, pv).await)
}

/// Collects what is known of the objects that a PV and the record of its volume name. `created` is
/// when the volume was.
fn facts(
    cluster: &ClusterView,
    pv: &PersistentVolume,
    spec: &Spec,
    created: Option<Timestamp>,
) -> BindingFacts {
    let claim = objects::claim_of(pv);
    let at = claim.and_then(|claim| Some((claim.namespace.as_deref()?, claim.name.as_deref()?)));
    let has_claim = at.is_some_and(|(namespace, name)| {
        !cluster.watches(namespace)
            || cluster
                .claim_named(namespace, name)
                .is_some_and(|claim| ownership::is_bound(&claim, pv))
    });
    let of = claim.and_then(|claim| claim.uid.as_ref());
    let user = spec.labels.get(CLAIM_UID).filter(|user| Some(*user) != of);
    let at = spec.labels.get(CLAIM).and_then(|claim| claim.split_once('/'));
    let user_exists = user.zip(at).is_some_and(|(user, (namespace, name))| {
        let uses = |claim: Arc<PersistentVolumeClaim>| {
            claim.metadata.uid.as_ref() == Some(user) && ownership::names(&claim, pv)
        };
        // A claim in a namespace that is not watched may exist.
        !cluster.watches(namespace) || cluster.claim_named(namespace, name).is_some_and(uses)
    });
    let holder = spec.labels.get(PV_UID).filter(|holder| Some(*holder) != pv.metadata.uid.as_ref());
    BindingFacts {
        has_claim,
        holder_exists: holder.is_some_and(|uid| cluster.pv_with_uid(uid).is_some()),
        user_exists,
        made_together: ownership::made_together(pv, created),
    }
}
