//! Searches for orphans: volumes of claims without a PV, and PVs of this server without a volume.
//!
//! Orphans are counted, and each is reported once (and again after every resync): in the log, and
//! for a missing volume in events of the PV and its claim. They are not deleted, because the other
//! half may be restored.
//!
//! A volume that no PV ever held ([`super::ownership`]), whose claim is gone or has another volume,
//! and that was never used is no orphan: a crash during provisioning left it, and it is deleted
//! ([`super::cleanup`]). Such volumes of earlier versions are only counted. While the claim still
//! waits, it will get the volume; the volume is noted ([`UnfinishedVolume::Found`]) in case that
//! the claim is deleted first.
//!
//! The leader also reports released PVs of other servers that are not reclaimed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::claim_progress::UnfinishedVolume;
use super::context::Context;
use super::events::EventType;
use super::objects::{self, ObjectKey, annotation};
use super::ownership::{CLAIM, PvRelation, address, is_ended};
use super::{cleanup, volume_record};
use crate::volume::spec::Spec;

/// How long another server may take to reclaim a volume before the leader reports it.
const ABANDONED: Duration = Duration::from_secs(45);

/// The orphans of the last search, and what was reported of them.
#[derive(Default)]
pub struct ReportedOrphans {
    /// Ids of volumes without a PV.
    volumes: HashSet<String>,
    /// Uids of PVs without a volume.
    pvs: HashSet<String>,
    /// Uids of PVs without a volume that may just be being reclaimed. They count if the next search
    /// finds them, too.
    ending: HashSet<String>,
    /// Released PVs of other servers, by uid: since when they are known, and whether that was
    /// reported.
    abandoned: HashMap<String, (Instant, bool)>,
}

/// What the PVs say.
#[derive(Default)]
struct PvSurvey {
    /// Ids of the volumes that PVs point to.
    referenced: HashSet<String>,
    /// PVs of this server without a volume.
    missing: Vec<Arc<PersistentVolume>>,
    /// PVs of other servers and provisioners.
    foreign: Vec<Arc<PersistentVolume>>,
}

impl ReportedOrphans {
    /// Reports all orphans again when they are found the next time.
    pub fn report_again(&mut self) {
        self.volumes.clear();
        self.pvs.clear();
        self.abandoned.values_mut().for_each(|(_, reported)| *reported = false);
    }
}

/// Searches for orphans, reports new ones, and deletes volumes that were never used.
pub async fn search(cx: &Context, reported: &mut ReportedOrphans) {
    // The volumes come first: the PV of a volume that is made meanwhile is saved later.
    let volumes = cx.volumes.specs();
    let survey = survey(cx).await;
    let missing = still_missing(cx, survey.missing, &mut reported.ending).await;
    let mut alone = Vec::new();
    for spec in volumes.iter().filter(|spec| !survey.referenced.contains(spec.id.as_str())) {
        consume_budget().await;
        if is_orphan(cx, spec).await {
            alone.push(spec);
        }
    }
    cx.metrics.orphans(alone.len(), missing.len());
    report_volumes(&alone, &mut reported.volumes);
    report_pvs(cx, &missing, &mut reported.pvs);
    if *cx.term.read().await {
        report_abandoned(cx, &survey.foreign, &mut reported.abandoned);
    }
}

async fn survey(cx: &Context) -> PvSurvey {
    let mut survey = PvSurvey::default();
    for pv in cx.cluster.pvs() {
        // There may be ten thousand, and none of them may have to be waited for.
        consume_budget().await;
        // The record is updated here, too: a claim may use a volume only since its predecessor is
        // gone, and that changes no PV.
        let relation = match volume_record::update(cx, &pv).await {
            Ok(relation) => relation,
            Err(error) => {
                let (error, pv_name) = (error.logged(), &pv.metadata.name);
                tracing::debug!(error, pv = pv_name, "cannot update the record of a volume");
                volume_record::relation(cx, &pv).await
            }
        };
        match relation {
            PvRelation::Unheld(spec) | PvRelation::Holder(spec) | PvRelation::HeldByOther(spec) => {
                survey.referenced.insert(spec.id.as_str().to_owned());
                // A volume that is being reclaimed is lost, too.
                if objects::phase(&pv) == "Bound" && cx.volumes.is_lost(&spec.name) {
                    survey.missing.push(pv);
                }
            }
            PvRelation::Missing => survey.missing.push(pv),
            PvRelation::Foreign => survey.foreign.push(pv),
        }
    }
    survey
}

/// Returns the PVs that still have no volume. Many may have been reclaimed meanwhile, each with its
/// volume first, and the view may not show the last ones yet: those have to be found twice.
async fn still_missing(
    cx: &Context,
    missing: Vec<Arc<PersistentVolume>>,
    ending: &mut HashSet<String>,
) -> Vec<Arc<PersistentVolume>> {
    let (mut still, mut now_ending) = (Vec::new(), HashSet::new());
    for pv in missing {
        let uid = pv.metadata.uid.clone().unwrap_or_default();
        let Some(now) = cx.cluster.pv_with_uid(&uid) else { continue };
        match volume_record::relation(cx, &now).await {
            PvRelation::Missing if is_ended(&now) => _ = now_ending.insert(uid),
            PvRelation::Missing => still.push(now),
            // The volume is lost.
            PvRelation::Holder(_) | PvRelation::Unheld(_) | PvRelation::HeldByOther(_) => {
                still.push(now);
            }
            PvRelation::Foreign => {}
        }
    }
    let before = std::mem::replace(ending, now_ending);
    let again = ending.intersection(&before);
    still.extend(again.filter_map(|uid| cx.cluster.pv_with_uid(uid)));
    still
}

/// Whether a volume that no PV points to is a claim's and stays without a PV. One that was never
/// used is deleted.
async fn is_orphan(cx: &Context, spec: &Spec) -> bool {
    // Volumes that administrators created have no label of a claim.
    let Some(namespace) = spec.labels.get(objects::CLAIM_NAMESPACE) else { return false };
    if !cx.cluster.watches(namespace) {
        return false;
    }
    let uid = spec.id.as_str();
    let of = |claim: &Arc<PersistentVolumeClaim>| claim.metadata.uid.as_deref() == Some(uid);
    let claim = match spec.labels.get(CLAIM).and_then(|c| c.split_once('/')) {
        Some((namespace, name)) => cx.cluster.claim_named(namespace, name).filter(of),
        None => cx.cluster.claim_with_uid(uid),
    };
    if let Some(claim) = &claim
        && !objects::names_a_pv(claim)
    {
        let found = UnfinishedVolume::Found(spec.name.clone());
        cx.progress.remember(&ObjectKey::of(&**claim), found);
        return false;
    }
    // Its PV may be about to be saved. No PV is saved once the claim is known to be gone or to have
    // a volume.
    if cx.progress.is_reconciling(uid) {
        return false;
    }
    !(cleanup::is_never_used(cx, spec).await && delete_unused(cx, spec, namespace).await)
}

async fn delete_unused(cx: &Context, spec: &Spec, namespace: &str) -> bool {
    // The uid alone says that the claim is gone: its name is not needed.
    let uid = spec.id.as_str().to_owned();
    let key = ObjectKey { namespace: Some(namespace.to_owned()), name: String::new(), uid };
    match cleanup::delete_unheld(cx, &key, spec.name.clone()).await {
        Ok(deleted) => deleted,
        Err(error) => {
            let error = error.logged();
            tracing::warn!(error, volume = %spec.name, "cannot delete an unused volume; retrying");
            false
        }
    }
}

fn report_volumes(alone: &[&Spec], reported: &mut HashSet<String>) {
    for spec in alone.iter().filter(|spec| !reported.contains(spec.id.as_str())) {
        let (volume, id) = (&spec.name, spec.id.as_str());
        tracing::warn!(%volume, id, "the volume has no PersistentVolume");
    }
    *reported = alone.iter().map(|spec| spec.id.as_str().to_owned()).collect();
}

fn report_pvs(cx: &Context, missing: &[Arc<PersistentVolume>], reported: &mut HashSet<String>) {
    let uid = |pv: &PersistentVolume| pv.metadata.uid.clone().unwrap_or_default();
    for pv in missing.iter().filter(|pv| !reported.contains(&uid(pv))) {
        let name = pv.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(pv = name, "the PersistentVolume has no volume here");
        let message = format!(
            "The volume of PersistentVolume {name} is not served any more: it was deleted without \
             the cluster, or its directory or record has changed, as the server's log says. Have \
             it restored; if its data is lost for good, delete the claim and create it again"
        );
        let (warning, reason) = (EventType::Warning, "VolumeLost");
        if let Some(of) = objects::claim_of(pv).filter(|of| of.uid.is_some()) {
            cx.events.record(of.clone(), warning, reason, message.clone());
        }
        cx.events.record(objects::pv_ref(pv), warning, reason, message);
    }
    *reported = missing.iter().map(|pv| uid(pv)).collect();
}

/// Reports released PVs of other servers that are not reclaimed.
fn report_abandoned(
    cx: &Context,
    foreign: &[Arc<PersistentVolume>],
    abandoned: &mut HashMap<String, (Instant, bool)>,
) {
    let before = std::mem::take(abandoned);
    for pv in foreign.iter().filter(|pv| is_to_be_reclaimed(cx, pv)) {
        let uid = pv.metadata.uid.clone().unwrap_or_default();
        let (since, mut reported) = before.get(&uid).copied().unwrap_or((Instant::now(), false));
        if !reported && since.elapsed() >= ABANDONED {
            reported = true;
            let name = pv.metadata.name.as_deref().unwrap_or_default();
            let at = address(pv).map(|at| format!("{} port {}", at.server, at.port));
            let message = format!(
                "PersistentVolume {name} belongs to another server, at {}, which does not reclaim \
                 it. Check that this server runs, and with the right directory",
                at.unwrap_or_default()
            );
            let (warning, reason) = (EventType::Warning, "VolumeFailedDelete");
            cx.events.record(objects::pv_ref(pv), warning, reason, message);
        }
        abandoned.insert(uid, (since, reported));
    }
}

/// Whether a PV with the provisioner's name is to be reclaimed by some server.
fn is_to_be_reclaimed(cx: &Context, pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(cx.provisioner.as_str())
        && matches!(objects::phase(pv), "Released" | "Failed")
        && objects::policy(pv) == "Delete"
        && cx.cluster.claims_naming(pv).is_empty()
}
