//! PVs whose claim is gone: their volumes are deleted, archived, recycled or retained.
//!
//! **Flow.** A PV that changed is looked at ([`decide`]). Its end is recorded on the PV first, with
//! the version that was looked at; then the volume ends; then the PV is deleted and let go, or, if
//! it was recycled, made available to every claim.
//!
//! ```text
//!   Released --record--> recorded --volume ends--> deleted, archived, retained --> PV deleted
//!                                             \--> recycled --claimRef cleared--> Available
//! ```
//!
//! **Guarantees.** Policy Retain: hands off, always. Nothing of a PV is touched that changed since it
//! was looked at, so that a recycled PV which has its next tenant already loses nothing: the record
//! names the claim that is gone, and once it is there the PV is read again before anything is done.
//! A volume that is not there without a record of ours is an error, and not a success: somebody may
//! have started the server with an empty directory.
//!
//! **Assumes.** The cluster says when a claim is gone (phase Released).
//!
//! **Errors.** `VolumeFailedDelete` on the PV; tried again, never given up.

use std::time::{Duration, Instant};

use either::Either;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::error::{Error, Result, has_code};
use super::events::Tone;
use super::objects::{self, annotation};
use super::params::parse_on_delete;
use super::queue::Outcome;
use super::watch::Key;
use super::{Context, call};
use crate::volume;
use crate::volume::Ended;
use crate::volume::name::Name;
use crate::volume::spec::OnDelete;

/// When something is looked at again that somebody else has just changed.
const SOON: Duration = Duration::from_millis(200);

/// Stands for the claim of a PV that has none.
const NOBODY: &str = "none";

/// What is owed to a PV.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing: it is not ours, is in use, or is to be kept.
    Nothing,
    /// It is to be kept until its volume is gone.
    Keep,
    /// It need not be kept for us.
    LetGo,
    /// The cluster's recycler would begin: it is ours to do.
    TakeOver,
    /// The end of its volume.
    End(End),
    /// Its annotations make no sense.
    Broken(String),
}

/// The end of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The volume's name.
    pub volume: Name,
    /// Its id.
    pub id: String,
    /// What is done with it; as the volume itself says, if the PV does not.
    pub how: Option<OnDelete>,
    /// Whether the PV goes in any case, so that nothing can be left for the next claim.
    pub leaves: bool,
    /// The claim that is gone, as the record has it.
    pub of: String,
    /// Whether the end is recorded already.
    pub begun: bool,
}

/// What is owed to a PV. Pure.
pub fn decide(pv: &PersistentVolume, ours: &str) -> Decision {
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(ours) {
        return Decision::Nothing;
    }
    let leaves = pv.metadata.deletion_timestamp.is_some();
    let known = annotation(&pv.metadata, objects::VOLUME_ID).is_some();
    match objects::policy(pv) {
        "Delete" => {}
        "Recycle" if known && !leaves => return Decision::TakeOver,
        "Retain" if objects::has_finalizer(pv) => return Decision::LetGo,
        _ => return Decision::Nothing,
    }
    let without_claim = match objects::phase(pv) {
        // Failed is what the cluster's recycler leaves behind; the claim is gone then too.
        "Released" | "Failed" => objects::claim_of(pv).is_some() || leaves,
        "Available" | "Pending" | "" => leaves,
        _ => false,
    };
    match (without_claim, leaves, objects::has_finalizer(pv)) {
        // It went without us: there is nothing that could be decided any more.
        (_, true, false) => Decision::Nothing,
        (true, ..) => end(pv, leaves),
        (false, false, false) if objects::phase(pv) == "Bound" && known => Decision::Keep,
        (false, ..) => Decision::Nothing,
    }
}

fn end(pv: &PersistentVolume, leaves: bool) -> Decision {
    let of = objects::claim_of(pv).and_then(|claim| claim.uid.clone());
    let of = of.unwrap_or_else(|| NOBODY.into());
    let broken = |what: &str| {
        Decision::Broken(format!(
            "the PersistentVolume has no {what}, so that it was not made by this version of Berth; \
             nothing of it is touched"
        ))
    };
    let Some(id) = annotation(&pv.metadata, objects::VOLUME_ID) else {
        return broken("annotation berth.io/volume-id");
    };
    let volume = annotation(&pv.metadata, objects::VOLUME).map(Name::new);
    let Some(Ok(volume)) = volume else { return broken("valid annotation berth.io/volume") };
    let how = match annotation(&pv.metadata, objects::ON_DELETE).map(parse_on_delete).transpose() {
        Ok(how) => how,
        Err(why) => {
            return Decision::Broken(format!(
                "annotation berth.io/on-delete: {why}; correct it, nothing is touched until then"
            ));
        }
    };
    let begun = annotation(&pv.metadata, objects::ENDING) == Some(&of);
    Decision::End(End { volume, id: id.to_owned(), how, leaves, of, begun })
}

/// Looks at a PV, and does what is owed to it.
pub async fn reconcile(cx: &Context, key: &Key) -> Outcome {
    let Some(pv) = cx.stores.pv(&key.name) else { return Outcome::Done };
    match act(cx, &pv).await {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_conflict() => Outcome::Again(SOON),
        Err(error) => {
            cx.metrics.delete_failed(class(&pv));
            tracing::warn!(
                error = error.logged(),
                pv = key.name,
                "cannot do what the volume is owed"
            );
            cx.events.failed(objects::pv_ref(&pv), "VolumeFailedDelete", &error);
            Outcome::Failed
        }
    }
}

fn class(pv: &PersistentVolume) -> &str {
    let class = pv.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    class.unwrap_or_default()
}

async fn act(cx: &Context, pv: &PersistentVolume) -> Result<()> {
    match decide(pv, &cx.settings.name) {
        Decision::Nothing => Ok(()),
        Decision::Broken(why) => Err(Error::Foreign(why)),
        Decision::Keep => patch(cx, pv, &objects::finalizer_patch(pv, true)).await.map(|_| ()),
        Decision::LetGo => let_go(cx, pv).await,
        Decision::TakeOver => take_over(cx, pv).await,
        Decision::End(end) => apply(cx, pv, &end).await,
    }
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
async fn apply(cx: &Context, pv: &PersistentVolume, end: &End) -> Result<()> {
    let began = Instant::now();
    let Some(pv) = record(cx, pv, end).await? else { return Ok(()) };
    let (volume, how) = (end.volume.clone(), end.clone());
    let ended = cx.blocking(move |volumes| ended(volumes, &volume, &how)).await?;
    let of = objects::pv_ref(&pv);
    let tell = |reason, message: String| cx.events.tell(of, Tone::Normal, reason, message);
    match &ended {
        Some(Ended::Recycled(_)) => {
            patch(cx, &pv, &objects::available_patch(&pv)).await?;
            tell("VolumeRecycled", "The volume is empty, and free for the next claim".into());
        }
        // Told first: when the PV is only removed at the second attempt, nobody knows any more where
        // the data is.
        Some(Ended::Archived(to)) => {
            tell("VolumeArchived", format!("The data is kept in the directory {to}"));
            remove(cx, &pv).await?;
        }
        Some(Ended::Retained(_)) => {
            tell("VolumeRetained", format!("The data is kept as the volume {}", end.volume));
            remove(cx, &pv).await?;
        }
        Some(Ended::Deleted) | None => remove(cx, &pv).await?,
    }
    cx.metrics.deleted(class(&pv), began.elapsed());
    tracing::info!(pv = pv.metadata.name, volume = %end.volume, how = ?end.how, "the claim is gone");
    Ok(())
}

/// Records the end on the PV, as it was looked at. One that is recorded is read again: it may have
/// its next tenant since. Answers the PV of this moment, or nothing if it is owed something else.
async fn record(
    cx: &Context,
    pv: &PersistentVolume,
    end: &End,
) -> Result<Option<PersistentVolume>> {
    if is_in_use(cx, pv) {
        return Err(Error::Stale);
    }
    if !end.begun {
        let (volume, wanted) = (end.volume.clone(), end.id.clone());
        cx.blocking(move |volumes| is_ours(volumes, &volume, &wanted)).await??;
        return patch(cx, pv, &objects::ending_patch(pv, &end.of)).await.map(Some);
    }
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let live = call(format!("get PersistentVolume {name}"), api.get_opt(name)).await?;
    let still = |live: &PersistentVolume| {
        live.metadata.uid == pv.metadata.uid
            && decide(live, &cx.settings.name) == Decision::End(end.clone())
    };
    Ok(live.filter(still))
}

/// Whether we know of a claim that has the PV: either this or the PV is old news.
fn is_in_use(cx: &Context, pv: &PersistentVolume) -> bool {
    let known = objects::claim_of(pv).and_then(|claim| {
        let known = cx.stores.claim_named(claim.namespace.as_deref()?, claim.name.as_deref()?)?;
        (known.metadata.uid == claim.uid).then_some(known)
    });
    let has = known.and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
    has.is_some() && has == pv.metadata.name
}

/// Whether there is the volume that a PV means. That there is none is an error that people have to
/// look at: either somebody took it away, or this is the wrong directory.
fn is_ours(volumes: &volume::Volumes, name: &Name, id: &str) -> volume::error::Result<Result<()>> {
    match volumes.show(name) {
        Ok(status) if status.spec.id.as_str() == id => Ok(Ok(())),
        Ok(_) => Ok(Err(Error::Foreign(format!(
            "volume {name} is there with another id than {id}; nothing of it is touched"
        )))),
        Err(volume::error::Error::NotFound(_)) => Ok(Err(Error::Foreign(format!(
            "there is no volume {name} with the id {id} in this server's directory; is it the right \
             one? If the data is gone for good, remove the finalizer of the PersistentVolume"
        )))),
        Err(error) => Err(error),
    }
}

/// Ends a volume. `None`: it is gone already, by our own doing, because the end was recorded.
fn ended(
    volumes: &volume::Volumes,
    name: &Name,
    end: &End,
) -> volume::error::Result<Option<Ended>> {
    let status = match volumes.show(name) {
        Ok(status) if status.spec.id.as_str() == end.id => status,
        Ok(_) | Err(volume::error::Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let how = match end.how.unwrap_or(status.spec.on_delete) {
        // Nobody could claim it: its PV goes.
        OnDelete::Recycle if end.leaves => OnDelete::Delete,
        how => how,
    };
    volumes.end(name, Some(how)).map(Some)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OURS: &str = "example.org/berth";

    fn pv(policy: &str, phase: &str, change: impl FnOnce(&mut Value)) -> PersistentVolume {
        let mut pv = json!({
            "metadata": {
                "name": "pvc-u", "uid": "p", "resourceVersion": "5",
                "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"],
                "annotations": {
                    "pv.kubernetes.io/provisioned-by": OURS, "berth.io/volume-id": "u",
                    "berth.io/volume": "v", "berth.io/on-delete": "archive",
                },
            },
            "spec": { "persistentVolumeReclaimPolicy": policy, "claimRef": { "uid": "c" } },
            "status": { "phase": phase },
        });
        change(&mut pv);
        serde_json::from_value(pv).unwrap()
    }

    fn same(_: &mut Value) {}

    fn leaving(pv: &mut Value) {
        pv["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    }

    fn without_finalizer(pv: &mut Value) {
        pv["metadata"]["finalizers"] = json!([]);
    }

    fn annotated<'a>(key: &'a str, value: Value) -> impl FnOnce(&mut Value) + 'a {
        move |pv| pv["metadata"]["annotations"][key] = value
    }

    fn ends(leaves: bool, begun: bool) -> Decision {
        Decision::End(End {
            volume: Name::new("v").unwrap(),
            id: "u".into(),
            how: Some(OnDelete::Archive),
            leaves,
            of: "c".into(),
            begun,
        })
    }

    #[test]
    fn what_is_owed() {
        let check = |pv: PersistentVolume, expected: Decision| {
            assert_eq!(decide(&pv, OURS), expected, "{pv:?}");
        };
        check(pv("Delete", "Bound", same), Decision::Nothing);
        check(pv("Delete", "Available", same), Decision::Nothing);
        check(pv("Delete", "Pending", same), Decision::Nothing);
        check(pv("Delete", "Released", same), ends(false, false));
        check(pv("Delete", "Failed", same), ends(false, false));
        check(pv("Delete", "Bound", without_finalizer), Decision::Keep);
        check(pv("Retain", "Bound", same), Decision::LetGo);
        check(pv("Retain", "Released", same), Decision::LetGo);
        check(pv("Retain", "Released", without_finalizer), Decision::Nothing);
        check(pv("Retain", "Released", leaving), Decision::LetGo);
        check(pv("Recycle", "Bound", same), Decision::TakeOver);
        check(pv("Recycle", "Released", same), Decision::TakeOver);
        // Whoever deletes the PV first gets what its claim's end would have given.
        check(pv("Delete", "Bound", leaving), Decision::Nothing);
        check(pv("Delete", "Released", leaving), ends(true, false));
        check(pv("Delete", "Available", leaving), ends(true, false));
        let gone = |pv: &mut Value| {
            leaving(pv);
            without_finalizer(pv);
        };
        check(pv("Delete", "Released", gone), Decision::Nothing);
        let by = objects::PROVISIONED_BY;
        check(pv("Delete", "Released", annotated(by, json!("other"))), Decision::Nothing);
        check(pv("Recycle", "Released", annotated(by, json!("other"))), Decision::Nothing);
    }

    #[test]
    fn the_record_is_of_one_claim() {
        let recorded = |of: &str| pv("Delete", "Released", annotated(objects::ENDING, json!(of)));
        assert_eq!(decide(&recorded("c"), OURS), ends(false, true));
        assert_eq!(decide(&recorded("the one before"), OURS), ends(false, false));
    }

    #[test]
    fn what_cannot_be_understood_is_left_alone() {
        let check = |key: &str, value: Value, word: &str| match decide(
            &pv("Delete", "Released", annotated(key, value)),
            OURS,
        ) {
            Decision::Broken(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        };
        check(objects::VOLUME_ID, json!(""), "volume-id");
        check(objects::VOLUME, json!("../etc"), "berth.io/volume");
        check(objects::ON_DELETE, json!("burn"), "burn");
    }
}
