//! What does not belong together when a server begins to provision: volumes of claims without a PV,
//! and PVs without a volume.
//!
//! They are said in the log and counted, and nothing of them is deleted: somebody may restore the
//! other half. One kind is no orphan but a beginning: a volume without any content of its own whose
//! claim is gone and whose PV was never there is what a crash in the middle of provisioning leaves,
//! and is taken away again. A claim that still waits goes on with the volume that it has; for the
//! case that it goes before, its volume is kept in mind ([`Unfinished::Found`]).

use std::collections::{HashMap, HashSet};

use super::Context;
use super::claims::{self, Unfinished};
use super::objects::{self, annotation};
use super::watch::Key;
use crate::volume::spec::{Phase, Status};

/// Looks for what does not belong together; says so, and takes beginnings away.
pub async fn report(cx: &Context) {
    let volumes = match cx.blocking(|volumes| Ok(volumes.list())).await {
        Ok(volumes) => volumes,
        Err(error) => return tracing::warn!(%error, "cannot look for orphans"),
    };
    let mut alone = 0;
    let pvs = cx.stores.pvs();
    let known: HashSet<_> = pvs.iter().filter_map(|pv| volume_id(pv)).collect();
    let claims: HashMap<_, _> =
        cx.stores.claims().filter_map(|claim| Some((claim.metadata.uid.clone()?, claim))).collect();
    for volume in &volumes {
        let id = volume.spec.id.as_str();
        // Volumes that people made have no claim's label, and those of claims will be taken up.
        let Some(namespace) = volume.spec.labels.get(objects::CLAIM_NAMESPACE) else { continue };
        if known.contains(id) || !cx.stores.watches(namespace) {
            continue;
        }
        if let Some(claim) = claims.get(id) {
            cx.remember(&Key::of(&**claim), Unfinished::Found(volume.spec.name.clone()));
            continue;
        }
        if is_a_beginning(cx, volume).await && taken_away(cx, volume, namespace).await {
            continue;
        }
        alone += 1;
        warn(volume);
    }
    let there: HashSet<_> = volumes.iter().map(|volume| volume.spec.id.as_str()).collect();
    let ours = pvs
        .iter()
        .filter(|pv| annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(&cx.settings.name));
    let mut missing = 0;
    for pv in ours.filter(|pv| volume_id(pv).is_none_or(|id| !there.contains(id))) {
        missing += 1;
        tracing::warn!(pv = pv.metadata.name, "the PersistentVolume has no volume here");
    }
    cx.metrics.orphans(alone, missing);
}

fn volume_id(pv: &k8s_openapi::api::core::v1::PersistentVolume) -> Option<&str> {
    annotation(&pv.metadata, objects::VOLUME_ID)
}

/// Says that a volume is alone.
pub fn warn(volume: &Status) {
    let (volume, id) = (&volume.spec.name, volume.spec.id.as_str());
    tracing::warn!(%volume, id, "the volume has no PersistentVolume");
}

/// Whether nobody ever wrote into a volume, or has it mounted. In doubt, somebody did.
pub async fn is_a_beginning(cx: &Context, volume: &Status) -> bool {
    let name = volume.spec.name.clone();
    let untouched = match volume.phase {
        Phase::Ready | Phase::Counting => {
            cx.blocking(move |volumes| volumes.is_empty(&name)).await.unwrap_or(false)
        }
        // A copy is given to nobody before it is whole.
        Phase::Cloning { .. } | Phase::Failed { .. } => true,
        Phase::Lost { .. } => false,
    };
    untouched && volume.mounted_by.is_empty()
}

async fn taken_away(cx: &Context, volume: &Status, namespace: &str) -> bool {
    // The claim is known to be gone by its uid alone: its name is not needed any more.
    let uid = volume.spec.id.as_str().to_owned();
    let key = Key { namespace: Some(namespace.to_owned()), name: String::new(), uid };
    match claims::end_unfinished(cx, &key, volume.spec.name.clone()).await {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, volume = %volume.spec.name, "cannot take a beginning away");
            false
        }
    }
}
