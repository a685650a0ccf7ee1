//! PVs whose claim is gone: their volumes are deleted, archived, recycled or retained.
//!
//! **Flow.** A PV that changed is looked at ([`super::reclaim`]). Its end is recorded on the PV
//! first, with the version that was looked at; then the volume ends; then the PV is deleted and let
//! go, or, if it was recycled, made available to every claim.
//!
//! ```text
//!   Released --record--> recorded --volume ends--> deleted, archived, retained --> PV deleted
//!                                             \--> recycled --claimRef cleared--> Available
//! ```
//!
//! **Guarantees.** Policy Retain: hands off, always. Only the PV that holds a volume by the
//! volume's own record ([`super::ownership`]) ends it, and only if neither the claim in that record
//! nor another one of its namespace names the PV, and no other PV that points there is bound: then
//! an event says what to do. Nothing of a PV is touched that changed since it was looked at, so
//! that a recycled PV which has its next tenant already loses nothing: the record of the end names
//! the claim that is gone, and once it is there the PV is read again before anything is done. A
//! volume that is not there without such a record is an error, and not a success: somebody may have
//! started the server with an empty directory.
//!
//! **Assumes.** The cluster says when a claim is gone (phase Released).
//!
//! **Errors.** `VolumeFailedDelete` on the PV; tried again, never given up.

use std::time::{Duration, Instant};

use either::Either;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::error::{Error, Result, has_code};
use super::events::Tone;
use super::objects;
use super::ownership::{self, CLAIM, CLAIM_UID, Relation};
use super::queue::Outcome;
use super::reclaim::{Decision, End, decide, unbind};
use super::watch::Key;
use super::{Context, call, claims, recycled};
use crate::volume;
use crate::volume::Reclaimed;
use crate::volume::name::VolumeName;
use crate::volume::spec::{OnDelete, Spec};

/// When a PV is looked at again that does not hold its volume.
const LATER: Duration = Duration::from_secs(60);

/// The reason of the event that says why nothing is destroyed.
const KEPT: &str = "VolumeKept";

/// Looks at a PV, and does what is owed to it.
pub async fn reconcile(cx: &Context, key: &Key) -> Outcome {
    let Some(pv) = cx.stores.pv(&key.name) else { return Outcome::Done };
    match act(cx, &pv).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_conflict() => Outcome::Stale,
        Err(error) => {
            cx.metrics.delete_failed(class(&pv));
            if cx.events.failed(objects::pv_ref(&pv), "VolumeFailedDelete", &error) {
                let logged = error.logged();
                tracing::warn!(error = logged, pv = key.name, "cannot do what the volume is owed");
            }
            Outcome::Failed
        }
    }
}

fn class(pv: &PersistentVolume) -> &str {
    let class = pv.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    class.unwrap_or_default()
}

async fn act(cx: &Context, pv: &PersistentVolume) -> Result<Outcome> {
    let relation = cx.settle(pv).await?;
    match decide(pv, &relation) {
        Decision::Nothing => {}
        Decision::Broken(why) => return Err(Error::Foreign(why)),
        Decision::Keep => drop(patch(cx, pv, &objects::finalizer_patch(pv, true)).await?),
        Decision::LetGo => let_go(cx, pv).await?,
        Decision::TakeOver => take_over(cx, pv).await?,
        Decision::Park => drop(patch(cx, pv, &recycled::parking_patch(pv)?).await?),
        Decision::Remove => remove(cx, pv).await?,
        Decision::Disown { leaves, why } => {
            disowned(cx, pv, leaves, why).await?;
            // What is written with the volume may change without a change of the PV.
            return Ok(Outcome::Again(LATER));
        }
        Decision::End(end) => {
            if let Relation::Own(spec) = &relation {
                return apply(cx, pv, spec, &end).await;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Says why nothing is ended, and lets a PV go that is to go.
async fn disowned(cx: &Context, pv: &PersistentVolume, leaves: bool, why: String) -> Result<()> {
    if cx.events.tell_once(objects::pv_ref(pv), Tone::Warning, KEPT, &why) {
        let name = pv.metadata.name.as_deref();
        tracing::info!(pv = name, "a PersistentVolume is not its volume's: nothing is ended");
    }
    let named = cx.stores.claims_naming(pv);
    if let Some(claim) = named.iter().find(|claim| is_near(claim, pv)) {
        cx.events.tell_once(objects::claim_ref(claim), Tone::Warning, KEPT, &why);
    }
    if leaves { let_go(cx, pv).await } else { Ok(()) }
}

/// Whether a claim is in the namespace that a PV is for.
fn is_near(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let of = objects::claim_of(pv).and_then(|of| of.namespace.as_ref());
    of.is_some() && of == claim.metadata.namespace.as_ref()
}

async fn take_over(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    patch(cx, pv, &objects::take_over_patch(pv)).await?;
    let message = "Berth recycles this volume itself, at once, when its claim is gone: the reclaim \
                   policy is Delete again, with berth.io/on-delete: recycle. Patch it to Retain to \
                   keep the data";
    cx.events.tell(objects::pv_ref(pv), Tone::Normal, "VolumeRecycleTakenOver", message);
    tracing::info!(pv = pv.metadata.name, "recycling is taken over");
    Ok(())
}

/// Ends a PV's volume.
async fn apply(cx: &Context, pv: &PersistentVolume, spec: &Spec, end: &End) -> Result<Outcome> {
    let began = Instant::now();
    if let Some(claim) = ownership::claimant(&cx.stores, pv, spec) {
        return kept(cx, pv, &claim).map(|()| Outcome::Done);
    }
    if let Some(other) = ownership::other_in_use(&cx.stores, pv, spec) {
        shared(cx, pv, &other);
        return Ok(Outcome::Again(LATER));
    }
    if let Some(claim) = live_claimant(cx, pv).await? {
        return kept(cx, pv, &claim).map(|()| Outcome::Done);
    }
    let Some(pv) = record(cx, pv, end).await? else { return Ok(Outcome::Done) };
    let (volume, how) = (end.volume.clone(), end.clone());
    let ended = cx.blocking(move |volumes| ended(volumes, &volume, &how)).await?;
    let of = objects::pv_ref(&pv);
    let tell = |reason, message: String| cx.events.tell(of, Tone::Normal, reason, message);
    match &ended {
        Some(Reclaimed::Recycled(_)) => {
            patch(cx, &pv, &recycled::parking_patch(&pv)?).await?;
            tell("VolumeRecycled", "The volume is empty, and free for the next claim".into());
        }
        // Told first: when the PV is only removed at the second attempt, nobody knows any more
        // where the data is.
        Some(Reclaimed::Archived(to)) => {
            tell("VolumeArchived", format!("The data is kept in the directory {to}"));
            remove(cx, &pv).await?;
        }
        Some(Reclaimed::Retained(_)) => {
            tell("VolumeRetained", format!("The data is kept as the volume {}", end.volume));
            remove(cx, &pv).await?;
        }
        Some(Reclaimed::Deleted) | None => remove(cx, &pv).await?,
    }
    cx.metrics.deleted(class(&pv), began.elapsed());
    tracing::info!(pv = pv.metadata.name, volume = %end.volume, how = ?end.how, "the claim is gone");
    Ok(Outcome::Done)
}

/// The claim of a PV's name that names it, as the cluster has it now: one that came back just now
/// may not have been seen yet.
async fn live_claimant(
    cx: &Context,
    pv: &PersistentVolume,
) -> Result<Option<PersistentVolumeClaim>> {
    let of =
        objects::claim_of(pv).and_then(|of| Some((of.namespace.as_deref()?, of.name.as_deref()?)));
    let Some((namespace, name)) = of.filter(|(namespace, _)| cx.stores.watches(namespace)) else {
        return Ok(None);
    };
    let api = Api::<PersistentVolumeClaim>::namespaced(cx.client.clone(), namespace);
    let what = format!("get PersistentVolumeClaim {namespace}/{name}");
    let found = call(what, api.get_opt(name)).await?;
    Ok(found.filter(|claim| ownership::names(claim, pv)))
}

/// Says why a volume is kept, to its PV and to the claim.
fn kept(cx: &Context, pv: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
    let uid = objects::claim_of(pv).and_then(|of| of.uid.as_ref());
    if uid.is_some() && uid == claim.metadata.uid.as_ref() {
        return Err(Error::Stale); // either this or the PV is old news
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "PersistentVolume {name} is not bound to the claim {} that names it (restored from a \
         backup?), so that nothing of its volume is destroyed. To bind them: {}. To have it end: \
         delete the claim",
        claims::full_name(claim),
        unbind(name)
    );
    if cx.events.tell_once(objects::pv_ref(pv), Tone::Warning, KEPT, &message) {
        let pvc = claims::full_name(claim);
        tracing::info!(pv = name, pvc, "kept for a claim that names it");
    }
    cx.events.tell_once(objects::claim_ref(claim), Tone::Warning, KEPT, &message);
    Ok(())
}

/// Says that a volume is kept because a claim uses it through another PV.
fn shared(cx: &Context, pv: &PersistentVolume, other: &PersistentVolume) {
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let (name, other_name) = (text(&pv.metadata.name), text(&other.metadata.name));
    let message = format!(
        "The volume of PersistentVolume {name} is also that of PersistentVolume {other_name}, \
         which is bound to a claim, so that nothing of it is destroyed. It ends when that claim \
         is deleted"
    );
    if cx.events.tell_once(objects::pv_ref(pv), Tone::Warning, KEPT, &message) {
        tracing::info!(pv = name, other_name, "kept for a claim that uses it through another PV");
    }
}

/// Records the end on the PV, as it was looked at. One that is recorded is read again: it may have
/// its next tenant since. Answers the PV of this moment, or nothing if it is owed something else.
async fn record(
    cx: &Context,
    pv: &PersistentVolume,
    end: &End,
) -> Result<Option<PersistentVolume>> {
    if !end.begun {
        let change = objects::ending_patch(pv, &end.of, &cx.server_id);
        return patch(cx, pv, &change).await.map(Some);
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let live = call(format!("get PersistentVolume {name}"), api.get_opt(name)).await?;
    let Some(live) = live.filter(|live| live.metadata.uid == pv.metadata.uid) else {
        return Ok(None);
    };
    let still = decide(&live, &cx.relation(&live).await) == Decision::End(end.clone());
    Ok(still.then_some(live))
}

/// Ends a volume. `None`: it is gone already, by our own doing, because the end was recorded.
fn ended(
    volumes: &volume::Volumes,
    name: &VolumeName,
    end: &End,
) -> volume::error::Result<Option<Reclaimed>> {
    match volumes.show(name) {
        Ok(status) if status.spec.id == end.id => {}
        Ok(_) | Err(volume::error::Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    }
    let how = match end.how {
        // Nobody could claim it: its PV goes.
        OnDelete::Recycle if end.leaves => OnDelete::Delete,
        how => how,
    };
    let ended = volumes.reclaim(name, Some(how))?;
    if let Reclaimed::Recycled(_) = &ended {
        volumes.set_labels(name, &end.id, &[(CLAIM_UID, None), (CLAIM, None)])?;
    }
    Ok(Some(ended))
}

/// Deletes a PV, and lets it go.
async fn remove(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let same = Preconditions { uid: pv.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams::default().preconditions(same);
    let what = format!("delete PersistentVolume {name}");
    match gone_is_fine(call(what, api.delete(name, &params)).await)? {
        Some(Either::Left(left)) => let_go(cx, &left).await,
        Some(Either::Right(_)) | None => Ok(()),
    }
}

/// Takes our finalizer away.
async fn let_go(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    if !objects::has_finalizer(pv) {
        return Ok(());
    }
    gone_is_fine(patch(cx, pv, &objects::finalizer_patch(pv, false)).await).map(|_| ())
}

fn gone_is_fine<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Api { source, .. }) if has_code(&source, 404) => Ok(None),
        other => other.map(Some),
    }
}

async fn patch(
    cx: &Context,
    pv: &PersistentVolume,
    change: &serde_json::Value,
) -> Result<PersistentVolume> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let (params, change) = (PatchParams::default(), Patch::Merge(change));
    call(format!("patch PersistentVolume {name}"), api.patch(name, &params, &change)).await
}
