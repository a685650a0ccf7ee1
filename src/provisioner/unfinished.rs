//! What is begun for a claim and not its own yet: a volume that is given to no PV, or a PV that the
//! cluster has still to bind. It is kept in mind, so that it comes to its end if the claim goes
//! before.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume};
use kube::Api;
use tokio::time::Instant;

use super::error::{Error, Result};
use super::events::Tone;
use super::ownership::{PV_UID, Relation};
use super::queue::Outcome;
use super::watch::Key;
use super::{Context, call, claims, objects, orphans};
use crate::volume;
use crate::volume::name::VolumeName;
use crate::volume::spec::OnDelete;

/// How long a PV that a claim was given may not be seen to be for it.
const SEEN: Duration = Duration::from_secs(15);

/// A volume that is given to no PV yet.
#[derive(Clone)]
pub enum Unfinished {
    /// Made by this process: nobody has used it, unless a PV holds it now.
    Made(VolumeName),
    /// It was there before, and its claim too.
    Found(VolumeName),
    /// None was made: the claim was given this PV then, and is not seen to be bound yet.
    Given(String, Instant),
}

/// The end of a claim that is gone: what was made for it and not given to a PV is ended again.
pub async fn cleaned_up(cx: &Context, key: &Key) -> Outcome {
    let Some(unfinished) = cx.unfinished(key) else {
        cx.forget(key);
        return Outcome::Done;
    };
    match clean_up(cx, key, unfinished).await {
        Ok(()) => {
            cx.forget(key);
            Outcome::Done
        }
        Err(error) if error.is_conflict() => Outcome::Stale,
        Err(error) => {
            let pvc = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
            tracing::warn!(
                error = error.logged(),
                pvc,
                "cannot clean up after a claim that is gone"
            );
            let of = key.claim_ref();
            let message =
                format!("Error cleaning provisioned volume for claim {pvc}: {}", error.public());
            cx.events.tell(of, Tone::Warning, "ProvisioningCleanupFailed", message);
            Outcome::Failed
        }
    }
}

/// Ends a claim's volume, if the claim is gone and has no PV.
async fn clean_up(cx: &Context, key: &Key, unfinished: Unfinished) -> Result<()> {
    if claims::live(cx, key).await?.is_some() {
        return Ok(());
    }
    let name = match unfinished {
        Unfinished::Given(..) => return Ok(()), // its PV is released, and its end comes
        Unfinished::Made(name) => name,
        Unfinished::Found(name) => {
            let spec = cx.volumes.specs().into_iter().find(|spec| spec.name == name);
            match spec {
                Some(spec) if orphans::is_a_beginning(cx, &spec).await => name,
                _ => return Ok(()), // it is found to be alone before long
            }
        }
    };
    end_unfinished(cx, key, name).await.map(|_| ())
}

/// Ends the volume of a claim that is gone, or has another one, unless a PV holds it or may. Says
/// whether it is gone.
///
/// # Errors
/// The API server cannot be asked, or the disk fails. May be repeated.
pub async fn end_unfinished(cx: &Context, key: &Key, name: VolumeName) -> Result<bool> {
    let pv = objects::pv_name(&key.uid);
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    if let Some(pv) = call(format!("get PersistentVolume {pv}"), api.get_opt(&pv)).await?
        && cx.relation(&pv).await != Relation::Other
    {
        return Ok(false); // its own end will come
    }
    let (uid, shown) = (key.uid.clone(), name.clone());
    let ended = cx.blocking(move |volumes| match volumes.show(&name) {
        Ok(status) if status.spec.labels.contains_key(PV_UID) => Ok(false),
        Ok(status) if status.spec.id.as_str() == uid => {
            volumes.give_up(&name, &status.spec.id);
            volumes.reclaim(&name, Some(OnDelete::Delete)).map(|_| true)
        }
        _ => Ok(true),
    });
    let ended = match ended.await {
        // It ends before long.
        Err(Error::Volume(volume::error::Error::Cloning(_))) => return Err(Error::Stale),
        ended => ended?,
    };
    if ended {
        tracing::info!(volume = %shown, "the claim is gone, and so is what was made for it");
    }
    Ok(ended)
}

/// A claim is looked at as long as this is there.
pub struct Busy<'a> {
    cx: &'a Context,
    uid: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.cx.busy.lock().remove(&self.uid);
    }
}

impl Context {
    /// A claim is looked at from now on: nobody else takes its volume away until that is over. To
    /// be called before what is known of the claim is read.
    pub(super) fn busy_with(&self, key: &Key) -> Busy<'_> {
        let uid = key.uid.clone();
        self.busy.lock().insert(uid.clone());
        Busy { cx: self, uid }
    }

    /// Whether the claim with this uid is looked at.
    pub(super) fn is_busy_with(&self, uid: &str) -> bool {
        self.busy.lock().contains(uid)
    }

    /// A claim's volume is given to no PV yet. What was said of it first stays.
    pub(super) fn remember(&self, key: &Key, volume: Unfinished) {
        let mut all = self.unfinished.lock();
        all.entry(key.uid.clone()).or_insert(volume);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.populated.lock().remove(&key.uid);
        self.unfinished.lock().remove(&key.uid);
    }

    /// A claim was given a PV.
    pub(super) fn given(&self, key: &Key, pv: &str) {
        let mut all = self.unfinished.lock();
        all.insert(key.uid.clone(), Unfinished::Given(pv.to_owned(), Instant::now()));
    }

    /// What is to be done about a claim that was given a PV: nothing until the cluster binds it, as
    /// long as the PV is still for it, or not known to be yet. `None`: it was not, or has lost it.
    pub(super) fn is_given(&self, key: &Key) -> Option<Outcome> {
        let Some(Unfinished::Given(pv, since)) = self.unfinished(key) else { return None };
        let pv = self.stores.pv(&pv);
        let outcome = match pv.as_ref().map(|pv| objects::claim_of(pv)) {
            Some(Some(of)) if of.uid.as_ref() == Some(&key.uid) => Some(Outcome::Done),
            // What is known of the PV may be old; after a while, it is free again.
            Some(None) if since.elapsed() < SEEN => Some(Outcome::Again(SEEN)),
            _ => None,
        };
        if outcome.is_none() {
            self.forget(key);
        }
        outcome
    }

    pub(super) fn unfinished(&self, key: &Key) -> Option<Unfinished> {
        self.unfinished.lock().get(&key.uid).cloned()
    }
}

impl Key {
    /// The claim, in the way in which events refer to it.
    fn claim_ref(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            name: Some(self.name.clone()),
            namespace: self.namespace.clone(),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}
