//! What does not belong together, looked for again and again: volumes of claims without a PV, and
//! PVs of this server without a volume.
//!
//! They are counted, and each is said once (and again with every resync): in the log, and to the
//! claim whose volume is gone. Nothing of them is deleted: somebody may restore the other half. One
//! kind is no orphan but a beginning, and is taken away again: what a crash in the middle of
//! provisioning leaves, which is a volume that no PV ever held ([`super::ownership`]), whose claim
//! is gone or has another volume, and in which nothing ever was; what earlier versions left is only
//! counted. A claim that still waits goes on with the volume that it has; for the case that it goes
//! before, its volume is kept in mind ([`Unfinished::Found`]).
//!
//! The leader also says which released PVs wait for another server that does not end them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::Context;
use super::claims;
use super::events::Tone;
use super::objects::{self, annotation};
use super::ownership::{CLAIM, CLAIM_UID, PV_UID, Relation, address};
use super::unfinished::{self, Unfinished};
use super::watch::Key;
use crate::volume::spec::{Spec, VolumePhase, VolumeStatus};

/// How long another server may take to end a volume before the leader says that it does not.
const ABANDONED: Duration = Duration::from_secs(45);

/// What was found, and said.
#[derive(Default)]
pub struct Found {
    /// Ids of volumes without a PV.
    volumes: HashSet<String>,
    /// Uids of PVs without a volume.
    pvs: HashSet<String>,
    /// The same of those whose end may just be under way: they count if they are found again.
    ending: HashSet<String>,
    /// Since when released PVs of other servers are known, by uid, and whether that was said.
    abandoned: HashMap<String, (Instant, bool)>,
}

/// Looks for what does not belong together; says what is new, and takes beginnings away.
pub async fn look(cx: &Context) {
    // First the volumes: one that is made meanwhile has its PV later.
    let volumes = cx.volumes.specs();
    let (mut held, mut missing, mut waiting) = (HashSet::new(), Vec::new(), Vec::new());
    for pv in cx.stores.pvs() {
        // There may be ten thousand, and nothing of them be waited for.
        consume_budget().await;
        // Also written down here: a claim whose predecessor has gone since is seen to use its
        // volume.
        let relation = match cx.settle(&pv).await {
            Ok(relation) => relation,
            Err(error) => {
                tracing::debug!(
                    error = error.logged(),
                    pv = pv.metadata.name,
                    "cannot write it down"
                );
                cx.relation(&pv).await
            }
        };
        match relation {
            Relation::New(spec) | Relation::Own(spec) | Relation::Stranger(spec) => {
                held.insert(spec.id.as_str().to_owned());
                // While a volume ends, it is lost too.
                if objects::phase(&pv) == "Bound" && cx.volumes.is_lost(&spec.name) {
                    missing.push(pv);
                }
            }
            Relation::Missing => missing.push(pv),
            Relation::Other => waiting.push(pv),
        }
    }
    let missing = really_missing(cx, missing).await;
    let mut alone = Vec::new();
    for spec in volumes.iter().filter(|spec| !held.contains(spec.id.as_str())) {
        consume_budget().await;
        if is_alone(cx, spec).await {
            alone.push(spec);
        }
    }
    cx.metrics.orphans(alone.len(), missing.len());
    say_volumes(cx, &alone);
    say_pvs(cx, &missing);
    if *cx.term.read().await {
        say_abandoned(cx, &waiting);
    }
}

/// Those PVs that still have no volume. Many may have ended meanwhile, each with its volume first,
/// and what is known of the last ones may be older than that.
async fn really_missing(
    cx: &Context,
    missing: Vec<Arc<PersistentVolume>>,
) -> Vec<Arc<PersistentVolume>> {
    let (mut still, mut ending) = (Vec::new(), HashSet::new());
    for pv in missing {
        let uid = pv.metadata.uid.clone().unwrap_or_default();
        let Some(now) = cx.stores.pv_with_uid(&uid) else { continue };
        match cx.relation(&now).await {
            Relation::Missing if may_be_ending(&now) => _ = ending.insert(uid),
            Relation::Missing => still.push(now),
            Relation::Own(_) | Relation::New(_) | Relation::Stranger(_) => still.push(now), // lost
            Relation::Other => {}
        }
    }
    let mut found = cx.found.lock();
    let before = std::mem::replace(&mut found.ending, ending);
    let again = found.ending.intersection(&before);
    still.extend(again.filter_map(|uid| cx.stores.pv_with_uid(uid)));
    still
}

fn may_be_ending(pv: &PersistentVolume) -> bool {
    matches!(objects::phase(pv), "Released" | "Failed") || pv.metadata.deletion_timestamp.is_some()
}

/// Has everything said again that is found from now on.
pub fn say_again(cx: &Context) {
    let mut found = cx.found.lock();
    found.volumes.clear();
    found.pvs.clear();
    found.abandoned.values_mut().for_each(|(_, said)| *said = false);
    drop(found);
    cx.events.say_again();
}

/// Whether a volume of a claim, which no PV points to, stays so.
async fn is_alone(cx: &Context, spec: &Spec) -> bool {
    // Volumes that people made have no claim's label.
    let Some(namespace) = spec.labels.get(objects::CLAIM_NAMESPACE) else { return false };
    if !cx.stores.watches(namespace) {
        return false;
    }
    let uid = spec.id.as_str();
    let of = |claim: &Arc<PersistentVolumeClaim>| is_of(claim, uid);
    let claim = match spec.labels.get(CLAIM).and_then(|c| c.split_once('/')) {
        Some((namespace, name)) => cx.stores.claim_named(namespace, name).filter(of),
        None => cx.stores.claim_with_uid(uid),
    };
    if let Some(claim) = &claim
        && !claims::names_a_volume(claim)
    {
        cx.remember(&Key::of(&**claim), Unfinished::Found(spec.name.clone()));
        return false;
    }
    // Its PV may be about to be saved. Once the claim is seen to be gone or to have a volume, none
    // is.
    if cx.is_busy_with(uid) {
        return false;
    }
    !(is_a_beginning(cx, spec).await && taken_away(cx, spec, namespace).await)
}

fn is_of(claim: &PersistentVolumeClaim, uid: &str) -> bool {
    claim.metadata.uid.as_deref() == Some(uid)
}

/// Whether no PV ever held a volume, and nobody ever wrote into it or has it mounted. In doubt,
/// somebody did.
pub async fn is_a_beginning(cx: &Context, spec: &Spec) -> bool {
    // Records of earlier versions name neither, whoever had the volume.
    if spec.labels.contains_key(PV_UID) || !spec.labels.contains_key(CLAIM_UID) {
        return false;
    }
    let name = spec.name.clone();
    let untouched = cx.blocking(move |volumes| {
        let VolumeStatus { phase, mounted_by, .. } = volumes.show(&name)?;
        Ok(match phase {
            VolumePhase::Ready | VolumePhase::Counting => {
                mounted_by.is_empty() && volumes.is_untouched(&name)?
            }
            // A copy is given to nobody before it is whole.
            VolumePhase::Cloning { .. } | VolumePhase::Failed { .. } => true,
            VolumePhase::Lost { .. } => false,
        })
    });
    untouched.await.unwrap_or(false)
}

async fn taken_away(cx: &Context, spec: &Spec, namespace: &str) -> bool {
    // The claim is known to be gone by its uid alone: its name is not needed any more.
    let uid = spec.id.as_str().to_owned();
    let key = Key { namespace: Some(namespace.to_owned()), name: String::new(), uid };
    match unfinished::end_unfinished(cx, &key, spec.name.clone()).await {
        Ok(ended) => ended,
        Err(error) => {
            let error = error.logged();
            tracing::warn!(error, volume = %spec.name, "cannot take a beginning away");
            false
        }
    }
}

fn say_volumes(cx: &Context, alone: &[&Spec]) {
    let mut found = cx.found.lock();
    let now: HashSet<_> = alone.iter().map(|spec| spec.id.as_str().to_owned()).collect();
    for spec in alone.iter().filter(|spec| !found.volumes.contains(spec.id.as_str())) {
        let (volume, id) = (&spec.name, spec.id.as_str());
        tracing::warn!(%volume, id, "the volume has no PersistentVolume");
    }
    found.volumes = now;
}

fn say_pvs(cx: &Context, missing: &[Arc<PersistentVolume>]) {
    let mut found = cx.found.lock();
    let uid = |pv: &PersistentVolume| pv.metadata.uid.clone().unwrap_or_default();
    for pv in missing.iter().filter(|pv| !found.pvs.contains(&uid(pv))) {
        let name = pv.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(pv = name, "the PersistentVolume has no volume here");
        let message = format!(
            "The volume of PersistentVolume {name} is not served any more: it was deleted beside \
             the cluster, or its directory or record is not what it was, which the server's log \
             says. Have it restored; if its data is gone for good, delete the claim and make it \
             anew"
        );
        if let Some(of) = objects::claim_of(pv).filter(|of| of.uid.is_some()) {
            cx.events.tell(of.clone(), Tone::Warning, "VolumeLost", message.clone());
        }
        cx.events.tell(objects::pv_ref(pv), Tone::Warning, "VolumeLost", message);
    }
    found.pvs = missing.iter().map(|pv| uid(pv)).collect();
}

/// Says which released PVs wait for a server that does not end them.
fn say_abandoned(cx: &Context, others: &[Arc<PersistentVolume>]) {
    let mut found = cx.found.lock();
    let before = std::mem::take(&mut found.abandoned);
    for pv in others.iter().filter(|pv| waits_for_its_end(cx, pv)) {
        let uid = pv.metadata.uid.clone().unwrap_or_default();
        let (since, mut said) = before.get(&uid).copied().unwrap_or((Instant::now(), false));
        if !said && since.elapsed() >= ABANDONED {
            said = true;
            let name = pv.metadata.name.as_deref().unwrap_or_default();
            let at = address(pv).map(|at| format!("{} port {}", at.server, at.port));
            let message = format!(
                "PersistentVolume {name} is of another server, at {}, which does not end it; does \
                 that server run, and with the right directory?",
                at.unwrap_or_default()
            );
            cx.events.tell(objects::pv_ref(pv), Tone::Warning, "VolumeFailedDelete", message);
        }
        found.abandoned.insert(uid, (since, said));
    }
}

/// Whether a PV of the provisioner's name is to be ended by some server.
fn waits_for_its_end(cx: &Context, pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(cx.settings.name.as_str())
        && matches!(objects::phase(pv), "Released" | "Failed")
        && objects::policy(pv) == "Delete"
        && cx.stores.claims_naming(pv).is_empty()
}
