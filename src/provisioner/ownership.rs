//! Which volume a PersistentVolume is, and whether it may decide about it.
//!
//! The record of a volume is the truth. Its labels say which PersistentVolume holds it ([`PV_UID`])
//! and which claim uses it ([`CLAIM_UID`]); a PV is found to be its volume's by what nobody can
//! change about it: its uid and the path in its source. What a PV says in annotations is never
//! enough: it can only make this server keep its hands off.
//!
//! ```text
//!   made for a claim --PV is saved, or seen--> held by that PV --bound--> used by that claim
//!                                                 ^   ^                          |
//!            another PV, bound to its claim, when --+   +-- another claim, when <--+
//!            the one before is gone                         the one before is gone
//! ```
//!
//! A PV that holds its volume, and names the claim that used it last, ends it when that is gone.
//! Another one that points to the same volume (restored from a backup, copied, forged) does not,
//! until the cluster has bound it to a claim: whoever has had a volume mounted could have emptied
//! it anyway.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use super::Context;
use super::error::Result;
use super::objects::{self, Address, annotation};
use super::watch::Stores;
pub use crate::label::SERVER;
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;
use crate::volume::{self, Volumes};

/// The uid of the PV that holds a volume: a label of the volume.
pub const PV_UID: &str = "berth.io/pv-uid";
/// The uid of the claim that uses a volume, or used it last: a label of the volume. One that is
/// held and has none is empty, and free for the next claim.
pub const CLAIM_UID: &str = "berth.io/claim-uid";
/// Namespace and name of that claim, as `NAMESPACE/NAME`.
pub const CLAIM: &str = "berth.io/claim";

/// How much later than its volume a PV of an earlier version may have been made, in seconds.
const BIRTH_MAX: i64 = 10 * 60;

/// How far the clocks of this server and of the API server may be apart, in seconds.
const CLOCK_SLACK: i64 = 60;

/// Who this server is.
#[derive(Clone, Copy, Debug)]
pub struct Us<'a> {
    /// The provisioner's name.
    pub provisioner: &'a str,
    /// Which server of that name.
    pub server: &'a str,
    /// Where PVs have it, as far as is known.
    pub address: Option<&'a Address>,
}

/// What a PV is to this server.
#[derive(Clone, PartialEq, Debug)]
pub enum Relation {
    /// Nothing: another provisioner's, or another server's.
    Other,
    /// It points here, and there is no such volume.
    Missing,
    /// It points to a volume that no PV has held yet.
    New(Box<Spec>),
    /// It holds this volume.
    Own(Box<Spec>),
    /// It points to a volume that another PV holds or held.
    Stranger(Box<Spec>),
}

/// What is known of the objects that a PV and the record of its volume name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Whether the claim of its claimRef is there and has this PV; true where that cannot be known.
    pub has_claim: bool,
    /// Whether the PV that the record names is there, and is another one.
    pub holder_is_there: bool,
    /// Whether the claim that the record names is there, has this PV, and is another one; true
    /// where that cannot be known.
    pub user_is_there: bool,
    /// Whether the PV was made when its volume was, and not long after or before.
    pub made_together: bool,
}

/// Whether a PV has the path of a volume or one below, on whichever server.
pub fn points_to(pv: &PersistentVolume, spec: &Spec) -> bool {
    let path = pv.spec.as_ref().and_then(|pv| pv.nfs.as_ref()).map(|nfs| nfs.path.as_str());
    let mut parts = components(path.unwrap_or_default());
    components(&spec.export_path()).all(|part| parts.next() == Some(part))
}

/// Another PV that points to the same volume and is bound to a claim. One that says that it is of
/// another server is not meant.
pub fn other_in_use(
    stores: &Stores,
    pv: &PersistentVolume,
    spec: &Spec,
) -> Option<Arc<PersistentVolume>> {
    let server = annotation(&pv.metadata, SERVER);
    stores.pvs_at(spec).into_iter().find(|other| {
        let theirs = annotation(&other.metadata, SERVER);
        other.metadata.uid != pv.metadata.uid
            && objects::phase(other) == "Bound"
            && (theirs.is_none() || server.is_none() || theirs == server)
    })
}

/// The parts of a path, however it is written.
pub fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// What is owed to the record of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owed {
    /// Nothing.
    Nothing,
    /// These labels.
    Labels(Vec<(&'static str, String)>),
    /// The same, if nothing was ever in the volume.
    IfUntouched(Vec<(&'static str, String)>),
    /// The same, if nothing is in the volume now.
    IfEmpty(Vec<(&'static str, String)>),
}

/// What a PV is to us. Pure. `found` is the volume here that has the PV's path.
pub fn relation(pv: &PersistentVolume, found: Option<Spec>, us: Us<'_>) -> Relation {
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(us.provisioner) {
        return Relation::Other;
    }
    let holder = found.as_ref().and_then(|spec| spec.labels.get(PV_UID).cloned());
    if let Some(spec) = found.as_ref().filter(|_| holder.is_some() && holder == pv.metadata.uid) {
        return Relation::Own(Box::new(spec.clone()));
    }
    let here = match annotation(&pv.metadata, SERVER) {
        Some(by) => by == us.server,
        // Earlier versions did not write it: their PVs are known by their names.
        None => found.as_ref().is_some_and(|spec| is_named_after(pv, spec)),
    };
    let at_our_address = us.address.is_some() && address(pv).as_ref() == us.address;
    match found {
        _ if !here && !at_our_address => Relation::Other,
        Some(spec) if holder.is_none() => Relation::New(Box::new(spec)),
        Some(spec) => Relation::Stranger(Box::new(spec)),
        None => Relation::Missing,
    }
}

/// Whether a PV has the name of the one that is made for the first claim of a volume.
fn is_named_after(pv: &PersistentVolume, spec: &Spec) -> bool {
    pv.metadata.name == Some(objects::pv_name(spec.id.as_str()))
}

/// Where a PV points to.
pub fn address(pv: &PersistentVolume) -> Option<Address> {
    let spec = pv.spec.as_ref()?;
    let options = spec.mount_options.iter().flatten().flat_map(|entry| entry.split(','));
    let port = options.filter_map(|option| option.trim().strip_prefix("port=")).next_back();
    let port = port.map_or(Some(2049), |port| port.parse().ok())?;
    Some(Address { server: spec.nfs.as_ref()?.server.clone(), port })
}

/// What is owed to the record of the volume that a PV points to. Pure.
pub fn owed(pv: &PersistentVolume, relation: &Relation, facts: Facts) -> Owed {
    let (Relation::New(spec) | Relation::Own(spec) | Relation::Stranger(spec)) = relation else {
        return Owed::Nothing;
    };
    let Some(uid) = pv.metadata.uid.clone() else { return Owed::Nothing };
    let claim = objects::claim_of(pv);
    let of = claim.and_then(|claim| claim.uid.as_ref());
    let phase = objects::phase(pv);
    let bound = phase == "Bound" && of.is_some() && facts.has_claim;
    let user = spec.labels.get(CLAIM_UID);
    if bound && !facts.holder_is_there && !facts.user_is_there {
        return changes(spec, labels_for(uid, claim.filter(|_| user != of)));
    }
    // Saved by us, and not bound yet.
    let made = is_named_after(pv, spec) && of.is_some_and(|of| of == spec.id.as_str());
    match relation {
        Relation::New(_) if made => {
            let labels = labels_for(uid, claim.filter(|_| user.is_none()));
            // Records of earlier versions name no claim: their PVs are known by their names, and
            // told from those that were restored from a backup, in another cluster, by their age.
            let sure = match user {
                Some(_) => !is_ended(pv),
                None => phase == "Bound" || facts.made_together,
            };
            if sure { Owed::Labels(labels) } else { Owed::IfUntouched(labels) }
        }
        Relation::New(_) if user.is_none() && was_recycled(pv, spec) => {
            Owed::IfEmpty(vec![(PV_UID, uid)])
        }
        _ => Owed::Nothing,
    }
}

/// Whether a PV looks like one that an earlier version recycled: free, and of this server by its
/// name.
fn was_recycled(pv: &PersistentVolume, spec: &Spec) -> bool {
    is_named_after(pv, spec)
        && objects::phase(pv) == "Available"
        && objects::claim_of(pv).is_none()
        && annotation(&pv.metadata, SERVER).is_none()
}

fn labels_for(pv: String, claim: Option<&ObjectReference>) -> Vec<(&'static str, String)> {
    let mut labels = vec![(PV_UID, pv)];
    if let Some(claim) = claim {
        labels.push((CLAIM_UID, claim.uid.clone().unwrap_or_default()));
        labels.push((CLAIM, display(claim.namespace.as_ref(), claim.name.as_ref())));
    }
    labels
}

fn changes(spec: &Spec, labels: Vec<(&'static str, String)>) -> Owed {
    match labels.iter().all(|(key, value)| spec.labels.get(*key) == Some(value)) {
        true => Owed::Nothing,
        false => Owed::Labels(labels),
    }
}

/// Whether the claim of a PV is gone, or the PV is to go.
fn is_ended(pv: &PersistentVolume) -> bool {
    matches!(objects::phase(pv), "Released" | "Failed") || pv.metadata.deletion_timestamp.is_some()
}

fn display(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |part: Option<&String>| part.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}

/// Whether a claim uses a volume, as the volume's record has it.
pub fn is_used_by(spec: &Spec, claim: &PersistentVolumeClaim) -> bool {
    let user = spec.labels.get(CLAIM_UID);
    user.is_some() && user == claim.metadata.uid.as_ref()
}

/// Whether a claim and a PV name each other, the PV with the claim's uid.
pub fn is_bound(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let of = objects::claim_of(pv);
    let same = of.is_some_and(|of| {
        of.uid.is_some()
            && of.uid == claim.metadata.uid
            && of.name == claim.metadata.name
            && of.namespace == claim.metadata.namespace
    });
    same && names(claim, pv) && objects::phase(pv) == "Bound"
}

/// Whether a claim names a PV: anybody who may make claims can have it name any.
pub fn names(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    named.is_some() && named == pv.metadata.name.as_ref()
}

/// The labels of a volume that is made for a claim.
pub fn labels_of(claim: &PersistentVolumeClaim) -> [(&'static str, String); 2] {
    let meta = &claim.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    [(CLAIM_UID, uid), (CLAIM, display(meta.namespace.as_ref(), meta.name.as_ref()))]
}

/// The claim that stands in the way of a PV's end: one that names the PV, in the namespace of the
/// claim that the PV is for or that used its volume. A claim elsewhere may name what it likes.
pub fn claimant(
    stores: &Stores,
    pv: &PersistentVolume,
    spec: &Spec,
) -> Option<Arc<PersistentVolumeClaim>> {
    let of = objects::claim_of(pv).and_then(|claim| claim.namespace.as_deref());
    let used = spec.labels.get(CLAIM).and_then(|claim| claim.split_once('/')).map(|pair| pair.0);
    let near = |claim: &PersistentVolumeClaim| {
        let namespace = claim.metadata.namespace.as_deref();
        namespace.is_some() && (namespace == of || namespace == used)
    };
    stores.claims_naming(pv).into_iter().find(|claim| near(claim))
}

/// Whether a PV was made when its volume was, whose record is of this time. The API server sets the
/// time of a PV anew when one is restored.
fn made_together(pv: &PersistentVolume, created: Option<Timestamp>) -> bool {
    let made = pv.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let between = made.zip(created).map(|(made, created)| made - created.as_second());
    between.is_some_and(|seconds| (-CLOCK_SLACK..=BIRTH_MAX).contains(&seconds))
}

fn facts(stores: &Stores, pv: &PersistentVolume, spec: &Spec, created: Option<Timestamp>) -> Facts {
    let claim = objects::claim_of(pv);
    let place = claim.and_then(|claim| Some((claim.namespace.as_deref()?, claim.name.as_deref()?)));
    let has_claim = place.is_some_and(|(namespace, name)| {
        !stores.watches(namespace)
            || stores.claim_named(namespace, name).is_some_and(|claim| is_bound(&claim, pv))
    });
    let of = claim.and_then(|claim| claim.uid.as_ref());
    let user = spec.labels.get(CLAIM_UID).filter(|user| Some(*user) != of);
    let place = spec.labels.get(CLAIM).and_then(|claim| claim.split_once('/'));
    let user_is_there = user.zip(place).is_some_and(|(user, (namespace, name))| {
        let uses = |claim: Arc<PersistentVolumeClaim>| {
            claim.metadata.uid.as_ref() == Some(user) && names(&claim, pv)
        };
        // Of a claim that cannot be seen, nobody knows that it is gone.
        !stores.watches(namespace) || stores.claim_named(namespace, name).is_some_and(uses)
    });
    let holder = spec.labels.get(PV_UID).filter(|holder| Some(*holder) != pv.metadata.uid.as_ref());
    Facts {
        has_claim,
        holder_is_there: holder.is_some_and(|uid| stores.pv_with_uid(uid).is_some()),
        user_is_there,
        made_together: made_together(pv, created),
    }
}

impl Context {
    /// What a PV is to this server, as the records are now.
    pub(super) async fn relation(&self, pv: &PersistentVolume) -> Relation {
        let (provisioner, server) = (self.settings.name.as_str(), self.server_id.as_str());
        if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(provisioner) {
            return Relation::Other;
        }
        let path = pv.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).map(|nfs| &*nfs.path);
        let found = path.and_then(|path| self.volumes.at_path(path));
        let address = match annotation(&pv.metadata, SERVER) {
            Some(by) if by == server => None,
            _ => self.server.known(&self.client).await,
        };
        relation(pv, found, Us { provisioner, server, address: address.as_ref() })
    }

    /// The same, after what is owed to the record is written.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub(super) async fn settle(&self, pv: &PersistentVolume) -> Result<Relation> {
        let before = self.relation(pv).await;
        let spec = match &before {
            Relation::Other | Relation::Missing => return Ok(before),
            Relation::New(spec) | Relation::Own(spec) | Relation::Stranger(spec) => spec,
        };
        let facts = facts(&self.stores, pv, spec, self.volumes.created(&spec.name));
        type Check = fn(&Volumes, &VolumeName) -> volume::error::Result<bool>;
        let (labels, check): (_, Check) = match owed(pv, &before, facts) {
            Owed::Nothing => return Ok(before),
            Owed::Labels(labels) => (labels, |_, _| Ok(true)),
            Owed::IfUntouched(labels) => (labels, Volumes::is_untouched),
            Owed::IfEmpty(labels) => (labels, Volumes::is_empty),
        };
        let (name, id) = (spec.name.clone(), spec.id.clone());
        let write = move |volumes: &Arc<Volumes>| {
            let write = check(volumes, &name)?;
            let changes: Vec<_> = labels.iter().map(|(k, v)| (*k, Some(v.as_str()))).collect();
            if write { volumes.set_labels(&name, &id, &changes).map(drop) } else { Ok(()) }
        };
        self.blocking(write).await?;
        Ok(self.relation(pv).await)
    }
}
