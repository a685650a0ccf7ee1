//! Which volume a PersistentVolume is, and whether it may decide about it. Pure: no client, no
//! clock, no disk. [`super::volume_record`] reads and writes the records.
//!
//! The record of a volume is the truth. Its labels say which PersistentVolume holds it ([`PV_UID`])
//! and which claim uses it ([`CLAIM_UID`]). A PV is matched with its volume by its uid and by the
//! path in its source, which cannot be changed. Annotations of a PV are never enough: they can only
//! keep this server from acting.
//!
//! ```text
//!   made for a claim --PV is saved, or seen--> held by that PV --bound--> used by that claim
//!                                                 ^   ^                          |
//!          another PV, bound to its claim, when --+   +-- another claim, when <--+
//!          the previous one is gone                       the previous one is gone
//! ```
//!
//! A PV that holds its volume, and names the claim that used it last, has the volume reclaimed when
//! that claim is gone. Another PV that points to the same volume (restored from a backup, copied,
//! forged) has not, until the cluster has bound it to a claim: whoever could mount a volume could
//! have emptied it anyway.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use super::objects::{self, NfsAddress, annotation};
pub use crate::label::SERVER;
use crate::volume::spec::Spec;

/// Label of a volume: the uid of the PV that holds it.
pub const PV_UID: &str = "berth.io/pv-uid";
/// Label of a volume: the uid of the claim that uses it, or used it last. A volume that is held and
/// has no such label is empty, and free for the next claim.
pub const CLAIM_UID: &str = "berth.io/claim-uid";
/// Label of a volume: namespace and name of that claim, as `NAMESPACE/NAME`.
pub const CLAIM: &str = "berth.io/claim";

/// How much later than its volume a PV of an earlier version may have been created, in seconds.
const BIRTH_MAX: i64 = 10 * 60;

/// Largest difference between the clocks of this server and of the API server, in seconds.
const CLOCK_SLACK: i64 = 60;

/// By what PVs name this server.
#[derive(Clone, Copy, Debug)]
pub struct ServerIdentity<'a> {
    /// The provisioner's name.
    pub provisioner: &'a str,
    /// Identity of this server among those with that name.
    pub server: &'a str,
    /// The address that PVs have, if it is known.
    pub address: Option<&'a NfsAddress>,
}

/// What a PV is to this server.
#[derive(Clone, PartialEq, Debug)]
pub enum PvRelation {
    /// It is another provisioner's, or another server's.
    Foreign,
    /// It points to this server, which has no such volume.
    Missing,
    /// It points to a volume that no PV has held yet.
    Unheld(Box<Spec>),
    /// It holds this volume.
    Holder(Box<Spec>),
    /// It points to a volume that another PV holds or held.
    HeldByOther(Box<Spec>),
}

/// What is known of the objects that a PV and the record of its volume name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindingFacts {
    /// Whether the claim of the PV's claimRef exists and is bound to the PV; true if its namespace
    /// is not watched.
    pub has_claim: bool,
    /// Whether the PV that the record names exists, and is another one.
    pub holder_exists: bool,
    /// Whether the claim that the record names exists, names this PV, and is another one than that
    /// of the claimRef; true if its namespace is not watched.
    pub user_exists: bool,
    /// Whether the PV was created at about the same time as its volume ([`made_together`]).
    pub made_together: bool,
}

/// Whether a PV has the path of a volume or a path below it, on whichever server.
pub fn points_to(pv: &PersistentVolume, spec: &Spec) -> bool {
    let path = pv.spec.as_ref().and_then(|pv| pv.nfs.as_ref()).map(|nfs| nfs.path.as_str());
    let mut parts = components(path.unwrap_or_default());
    components(&spec.export_path()).all(|part| parts.next() == Some(part))
}

/// The components of a path, without empty ones and `.`.
pub fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// How the labels in the record of a volume are to be updated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LabelUpdate {
    /// They are correct, or the PV has no say.
    None,
    /// Write these labels.
    Always(Vec<(&'static str, String)>),
    /// Write them if the volume never had any content.
    IfUntouched(Vec<(&'static str, String)>),
    /// Write them if the volume is empty now.
    IfEmpty(Vec<(&'static str, String)>),
}

/// Returns what a PV is to this server. `found` is the volume that has the PV's path.
pub fn relation(pv: &PersistentVolume, found: Option<Spec>, us: ServerIdentity<'_>) -> PvRelation {
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(us.provisioner) {
        return PvRelation::Foreign;
    }
    let holder = found.as_ref().and_then(|spec| spec.labels.get(PV_UID).cloned());
    if let Some(spec) = found.as_ref().filter(|_| holder.is_some() && holder == pv.metadata.uid) {
        return PvRelation::Holder(Box::new(spec.clone()));
    }
    let here = match annotation(&pv.metadata, SERVER) {
        Some(by) => by == us.server,
        // Earlier versions did not write the annotation: their PVs are recognized by their names.
        None => found.as_ref().is_some_and(|spec| is_named_after(pv, spec)),
    };
    let at_our_address = us.address.is_some() && address(pv).as_ref() == us.address;
    match found {
        _ if !here && !at_our_address => PvRelation::Foreign,
        Some(spec) if holder.is_none() => PvRelation::Unheld(Box::new(spec)),
        Some(spec) => PvRelation::HeldByOther(Box::new(spec)),
        None => PvRelation::Missing,
    }
}

/// Whether a PV has the name that the PV of a volume's first claim gets.
fn is_named_after(pv: &PersistentVolume, spec: &Spec) -> bool {
    pv.metadata.name == Some(objects::pv_name(spec.id.as_str()))
}

/// The server that a PV points to.
pub fn address(pv: &PersistentVolume) -> Option<NfsAddress> {
    let spec = pv.spec.as_ref()?;
    let options = spec.mount_options.iter().flatten().flat_map(|entry| entry.split(','));
    let port = options.filter_map(|option| option.trim().strip_prefix("port=")).next_back();
    let port = port.map_or(Some(2049), |port| port.parse().ok())?;
    Some(NfsAddress { server: spec.nfs.as_ref()?.server.clone(), port })
}

/// Returns how the record of the volume that a PV points to is to be updated.
pub fn label_update(
    pv: &PersistentVolume,
    relation: &PvRelation,
    facts: BindingFacts,
) -> LabelUpdate {
    let (PvRelation::Unheld(spec) | PvRelation::Holder(spec) | PvRelation::HeldByOther(spec)) =
        relation
    else {
        return LabelUpdate::None;
    };
    let Some(uid) = pv.metadata.uid.clone() else { return LabelUpdate::None };
    let claim = objects::claim_of(pv);
    let of = claim.and_then(|claim| claim.uid.as_ref());
    let phase = objects::phase(pv);
    let bound = phase == "Bound" && of.is_some() && facts.has_claim;
    let user = spec.labels.get(CLAIM_UID);
    if bound && !facts.holder_exists && !facts.user_exists {
        return changes(spec, labels_for(uid, claim.filter(|_| user != of)));
    }
    // This server saved it, and it is not bound yet.
    let made = is_named_after(pv, spec) && of.is_some_and(|of| of == spec.id.as_str());
    match relation {
        PvRelation::Unheld(_) if made => {
            let labels = labels_for(uid, claim.filter(|_| user.is_none()));
            // Records of earlier versions name no claim: their PVs are recognized by their names.
            // By their age they differ from PVs restored from a backup in another cluster.
            let sure = match user {
                Some(_) => !is_ended(pv),
                None => phase == "Bound" || facts.made_together,
            };
            if sure { LabelUpdate::Always(labels) } else { LabelUpdate::IfUntouched(labels) }
        }
        PvRelation::Unheld(_) if user.is_none() && was_recycled(pv, spec) => {
            LabelUpdate::IfEmpty(vec![(PV_UID, uid)])
        }
        _ => LabelUpdate::None,
    }
}

/// Whether a PV looks like one that an earlier version recycled: free, and with the name of its
/// volume's first PV.
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

fn changes(spec: &Spec, labels: Vec<(&'static str, String)>) -> LabelUpdate {
    match labels.iter().all(|(key, value)| spec.labels.get(*key) == Some(value)) {
        true => LabelUpdate::None,
        false => LabelUpdate::Always(labels),
    }
}

/// Whether the claim of a PV is gone, or the PV is being deleted.
pub fn is_ended(pv: &PersistentVolume) -> bool {
    matches!(objects::phase(pv), "Released" | "Failed") || pv.metadata.deletion_timestamp.is_some()
}

fn display(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |part: Option<&String>| part.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}

/// Whether a claim uses a volume, by the volume's record.
pub fn is_used_by(spec: &Spec, claim: &PersistentVolumeClaim) -> bool {
    let user = spec.labels.get(CLAIM_UID);
    user.is_some() && user == claim.metadata.uid.as_ref()
}

/// Whether a claim and a PV are bound: they name each other, the PV with the claim's uid, and its
/// phase is Bound.
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

/// Whether a claim names a PV. That proves nothing: its author can have it name any PV.
pub fn names(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    named.is_some() && named == pv.metadata.name.as_ref()
}

/// The labels of a volume that is made for a claim, apart from [`objects::CLAIM_NAMESPACE`].
pub fn labels_of(claim: &PersistentVolumeClaim) -> [(&'static str, String); 2] {
    let meta = &claim.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    [(CLAIM_UID, uid), (CLAIM, display(meta.namespace.as_ref(), meta.name.as_ref()))]
}

/// Whether a PV was created at about the time at which its volume was (`created`). A PV that is
/// restored from a backup gets a new time from the API server.
pub fn made_together(pv: &PersistentVolume, created: Option<Timestamp>) -> bool {
    let made = pv.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let between = made.zip(created).map(|(made, created)| made - created.as_second());
    between.is_some_and(|seconds| (-CLOCK_SLACK..=BIRTH_MAX).contains(&seconds))
}
