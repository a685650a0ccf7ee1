//! What is in progress for claims: volumes that no PV has yet, claims that were given a recycled PV
//! and are not bound yet, and which claims are being reconciled.
//!
//! It is kept in memory only, by the claim's uid. After a restart, [`super::orphans`] finds the
//! volumes again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::cluster_view::ClusterView;
use super::objects::{self, ObjectKey};
use super::queue::ReconcileOutcome;
use crate::volume::name::VolumeName;

/// How long the watch may take to show that a PV was given to a claim.
const GIVEN_SEEN: Duration = Duration::from_secs(15);

/// What was begun for a claim that has no PV of its own yet.
#[derive(Clone)]
pub enum UnfinishedVolume {
    /// This process made the volume. It is unused, unless a PV holds it now.
    Made(VolumeName),
    /// The volume and the claim existed when this process started.
    Found(VolumeName),
    /// No volume was made: the claim was given this PV at that time, and is not known to be bound.
    Given(String, Instant),
}

/// What is in progress for claims, by their uids.
#[derive(Default)]
pub struct ClaimProgress {
    unfinished: Mutex<HashMap<String, UnfinishedVolume>>,
    /// Claims whose authors were told that a populator fills them.
    populated: Mutex<HashSet<String>>,
    /// Claims that are being reconciled.
    reconciling: Mutex<HashSet<String>>,
}

/// Marks a claim as being reconciled until this is dropped.
#[must_use = "the claim is marked only while this exists"]
pub struct ReconcileGuard<'a> {
    progress: &'a ClaimProgress,
    uid: String,
}

impl ClaimProgress {
    /// Marks a claim as being reconciled: until the guard is dropped, no other task removes its
    /// volume. To be called before what is known of the claim is read.
    pub fn reconciling(&self, key: &ObjectKey) -> ReconcileGuard<'_> {
        self.reconciling.lock().insert(key.uid.clone());
        ReconcileGuard { progress: self, uid: key.uid.clone() }
    }

    /// Whether the claim with this uid is being reconciled.
    pub fn is_reconciling(&self, uid: &str) -> bool {
        self.reconciling.lock().contains(uid)
    }

    /// What was begun for a claim.
    pub fn unfinished(&self, key: &ObjectKey) -> Option<UnfinishedVolume> {
        self.unfinished.lock().get(&key.uid).cloned()
    }

    /// Notes that no PV has the volume of a claim yet. An earlier note stays.
    pub fn remember(&self, key: &ObjectKey, volume: UnfinishedVolume) {
        self.unfinished.lock().entry(key.uid.clone()).or_insert(volume);
    }

    /// Notes that a claim was given a recycled PV.
    pub fn given(&self, key: &ObjectKey, pv: &str) {
        let given = UnfinishedVolume::Given(pv.to_owned(), Instant::now());
        self.unfinished.lock().insert(key.uid.clone(), given);
    }

    /// Notes that a populator fills a claim; returns whether that is new.
    pub fn populated(&self, uid: String) -> bool {
        self.populated.lock().insert(uid)
    }

    /// Forgets a claim: it is bound, or gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.populated.lock().remove(&key.uid);
        self.unfinished.lock().remove(&key.uid);
    }

    /// Forgets all volumes, as a restart does.
    #[cfg(test)]
    pub fn clear(&self) {
        self.unfinished.lock().clear();
    }

    /// What to do about a claim that was given a PV: nothing until the cluster binds it, as long as
    /// the PV is for this claim or the watch may not have shown that yet. `None` if the claim was
    /// given none, or has lost it.
    pub fn pending_binding(
        &self,
        key: &ObjectKey,
        cluster: &ClusterView,
    ) -> Option<ReconcileOutcome> {
        let Some(UnfinishedVolume::Given(pv, since)) = self.unfinished(key) else { return None };
        let pv = cluster.pv(&pv);
        let outcome = match pv.as_ref().map(|pv| objects::claim_of(pv)) {
            Some(Some(of)) if of.uid.as_ref() == Some(&key.uid) => Some(ReconcileOutcome::Done),
            // The watch may lag behind. If it shows no claim for longer, the PV is free again.
            Some(None) if since.elapsed() < GIVEN_SEEN => Some(ReconcileOutcome::Again(GIVEN_SEEN)),
            _ => None,
        };
        if outcome.is_none() {
            self.forget(key);
        }
        outcome
    }
}

impl Drop for ReconcileGuard<'_> {
    fn drop(&mut self) {
        self.progress.reconciling.lock().remove(&self.uid);
    }
}
