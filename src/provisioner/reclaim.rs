//! Decides what happens to a PV and its volume. Pure: no client, no clock, no disk.
//! [`super::volumes`] applies it.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;

use super::objects::{self, annotation};
use super::ownership::{CLAIM, CLAIM_UID, PvRelation};
use super::parked;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::{OnDelete, Spec};

/// When a PV whose volume is kept is reconciled again.
pub const LATER: Duration = Duration::from_secs(60);

/// Stands in the record of a reclaim for the claim of a PV that has none.
const NO_CLAIM: &str = "none";

/// What happens to a PV.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PvDecision {
    /// Nothing: it is not ours, is in use, or is kept.
    Nothing,
    /// It gets our finalizer, which keeps it until its volume is gone.
    AddFinalizer,
    /// It loses our finalizer.
    RemoveFinalizer,
    /// Its policy Recycle is replaced: otherwise the cluster's recycler would empty it.
    TakeOverRecycling,
    /// It is empty and free, and is parked: only Berth gives it to a claim.
    Park,
    /// Its volume is reclaimed.
    Reclaim(ReclaimPlan),
    /// It is deleted: its volume was reclaimed before.
    DeletePv,
    /// Its volume is kept, because another PV holds it or another claim uses it.
    Disown {
        /// Whether the PV is being deleted.
        pv_is_deleted: bool,
        /// Why, and what to do.
        why: String,
    },
    /// It cannot be understood, or its volume is missing: an error that says what to do.
    Invalid(String),
}

/// How a volume is reclaimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReclaimPlan {
    /// The volume's name.
    pub volume: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// What is done with its content.
    pub on_delete: OnDelete,
    /// Whether the PV is being deleted, which leaves nothing to recycle.
    pub pv_is_deleted: bool,
    /// The uid of the claim that is gone.
    pub claim: String,
    /// Whether the reclaim is recorded on the PV already.
    pub is_recorded: bool,
}

/// Decides what happens to a PV.
pub fn decide(pv: &PersistentVolume, relation: &PvRelation) -> PvDecision {
    let is_deleted = pv.metadata.deletion_timestamp.is_some();
    match (relation, objects::policy(pv)) {
        (PvRelation::Foreign, _) => return PvDecision::Nothing,
        (_, "Delete") => {}
        (PvRelation::Unheld(_) | PvRelation::Holder(_) | PvRelation::HeldByOther(_), "Recycle")
            if !is_deleted =>
        {
            return PvDecision::TakeOverRecycling;
        }
        (_, "Retain") if objects::has_finalizer(pv) => return PvDecision::RemoveFinalizer,
        _ => return PvDecision::Nothing,
    }
    let without_claim = match objects::phase(pv) {
        // The cluster's recycler leaves the phase Failed; the claim is gone then, too.
        "Released" | "Failed" => objects::claim_of(pv).is_some() || is_deleted,
        "Available" | "Pending" | "" => is_deleted,
        _ => false,
    };
    match (relation, without_claim, is_deleted, objects::has_finalizer(pv)) {
        // It was deleted without us: nothing can be done any more.
        (_, _, true, false) => PvDecision::Nothing,
        (PvRelation::Holder(spec), true, ..) if is_for_another(pv, spec) => {
            mismatch(pv, spec, is_deleted)
        }
        (PvRelation::Holder(spec), true, ..) => reclaim(pv, spec, is_deleted),
        (PvRelation::Missing, true, ..) => missing(pv),
        (PvRelation::Unheld(spec) | PvRelation::HeldByOther(spec), true, ..) => {
            disown(pv, spec, is_deleted)
        }
        (PvRelation::Holder(_), false, false, false) if objects::phase(pv) == "Bound" => {
            PvDecision::AddFinalizer
        }
        (PvRelation::Holder(spec), false, false, _) if parked::is_to_be_parked(pv, spec) => {
            PvDecision::Park
        }
        (_, false, ..) | (PvRelation::Foreign, ..) => PvDecision::Nothing,
    }
}

/// The uid of the claim that a PV is or was for, as the record of a reclaim has it.
fn former(pv: &PersistentVolume) -> String {
    let of = objects::claim_of(pv).and_then(|claim| claim.uid.clone());
    of.unwrap_or_else(|| NO_CLAIM.into())
}

/// Whether the reclaim for the PV's present or last claim is recorded on the PV.
fn is_recorded(pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, objects::ENDING) == Some(&former(pv))
}

fn reclaim(pv: &PersistentVolume, spec: &Spec, is_deleted: bool) -> PvDecision {
    let asked = match annotation(&pv.metadata, objects::ON_DELETE)
        .map(str::parse::<OnDelete>)
        .transpose()
    {
        Ok(asked) => asked,
        Err(why) => {
            return PvDecision::Invalid(format!(
                "annotation berth.io/on-delete: {why}; correct it, nothing is touched until then"
            ));
        }
    };
    PvDecision::Reclaim(ReclaimPlan {
        volume: spec.name.clone(),
        id: spec.id.clone(),
        on_delete: asked.map_or(spec.on_delete, |asked| more_careful(spec.on_delete, asked)),
        pv_is_deleted: is_deleted,
        claim: former(pv),
        is_recorded: is_recorded(pv),
    })
}

/// Returns the more careful of what the volume's record says and what the PV asks for: a patch of
/// the PV can only have more kept.
fn more_careful(said: OnDelete, asked: OnDelete) -> OnDelete {
    let care = |how| match how {
        OnDelete::Delete | OnDelete::Recycle => 0,
        OnDelete::Archive => 1,
        OnDelete::Retain => 2,
    };
    if care(asked) >= care(said) { asked } else { said }
}

fn missing(pv: &PersistentVolume) -> PvDecision {
    if is_recorded(pv) {
        return PvDecision::DeletePv;
    }
    let path = pv.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).map(|nfs| nfs.path.as_str());
    PvDecision::Invalid(format!(
        "there is no volume {} of PersistentVolume {} in this server's directory; is it the right \
         one? If the data is lost for good, remove the finalizer of the PersistentVolume",
        path.unwrap_or_default(),
        pv.metadata.name.as_deref().unwrap_or_default(),
    ))
}

fn disown(pv: &PersistentVolume, spec: &Spec, is_deleted: bool) -> PvDecision {
    let (name, volume) = (pv.metadata.name.as_deref().unwrap_or_default(), &spec.name);
    let why = format!(
        "PersistentVolume {name} is not the one that the volume {volume} was bound to (restored \
         from a backup?): the volume is kept. To use it, bind a claim to it: create the claim with \
         volumeName {name}, and {}. To delete it: berth volume delete {volume}",
        unbind(name)
    );
    PvDecision::Disown { pv_is_deleted: is_deleted, why }
}

/// Whether a PV names another claim than the one that used its volume last, or none: the cluster
/// was restored to a time before that claim, or the PV was patched.
fn is_for_another(pv: &PersistentVolume, spec: &Spec) -> bool {
    let user = spec.labels.get(CLAIM_UID);
    user.is_some() && user != objects::claim_of(pv).and_then(|claim| claim.uid.as_ref())
}

fn mismatch(pv: &PersistentVolume, spec: &Spec, is_deleted: bool) -> PvDecision {
    let (name, volume) = (pv.metadata.name.as_deref().unwrap_or_default(), &spec.name);
    let why = format!(
        "PersistentVolume {name} does not name the claim that used the volume {volume} last, \
         {}: the volume is kept. To use it, bind a claim to it: create the claim with volumeName \
         {name}, and {}. To delete it: berth volume delete {volume}",
        spec.labels.get(CLAIM).map_or("which is not known by name", String::as_str),
        unbind(name)
    );
    PvDecision::Disown { pv_is_deleted: is_deleted, why }
}

/// The command that lets a restored PV and its restored claim be bound to each other.
pub fn unbind(pv: &str) -> String {
    format!(
        "kubectl patch pv {pv} --type merge -p \
         '{{\"spec\":{{\"claimRef\":{{\"uid\":null,\"resourceVersion\":null}}}}}}'"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    use crate::volume::name::{VolumeId, VolumeName};

    fn pv(policy: &str, phase: &str, change: impl FnOnce(&mut Value)) -> PersistentVolume {
        let mut pv = json!({
            "metadata": {
                "name": "pvc-u", "uid": "p", "resourceVersion": "5",
                "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"],
                "annotations": { "berth.io/on-delete": "archive" },
            },
            "spec": {
                "persistentVolumeReclaimPolicy": policy, "claimRef": { "uid": "c" },
                "nfs": { "server": "a", "path": "/v" },
            },
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

    fn volume(labels: &[&str]) -> Box<Spec> {
        let mut spec = Spec::new(VolumeName::new("v").unwrap(), VolumeId::new("u").unwrap(), 1);
        spec.labels = labels.iter().map(|key| (key.to_string(), "c".into())).collect();
        Box::new(spec)
    }

    fn own() -> PvRelation {
        PvRelation::Holder(volume(&["berth.io/pv-uid", "berth.io/claim-uid"]))
    }

    fn ends(pv_is_deleted: bool, is_recorded: bool) -> PvDecision {
        ends_with(OnDelete::Archive, pv_is_deleted, is_recorded)
    }

    fn ends_with(on_delete: OnDelete, pv_is_deleted: bool, is_recorded: bool) -> PvDecision {
        let (volume, id) = (VolumeName::new("v").unwrap(), VolumeId::new("u").unwrap());
        PvDecision::Reclaim(ReclaimPlan {
            volume,
            id,
            on_delete,
            pv_is_deleted,
            claim: "c".into(),
            is_recorded,
        })
    }

    #[test]
    fn what_is_owed() {
        let check = |pv: PersistentVolume, expected: PvDecision| {
            assert_eq!(decide(&pv, &own()), expected, "{pv:?}");
        };
        check(pv("Delete", "Bound", same), PvDecision::Nothing);
        check(pv("Delete", "Available", same), PvDecision::Nothing);
        check(pv("Delete", "Pending", same), PvDecision::Nothing);
        check(pv("Delete", "Released", same), ends(false, false));
        check(pv("Delete", "Failed", same), ends(false, false));
        check(pv("Delete", "Bound", without_finalizer), PvDecision::AddFinalizer);
        check(pv("Retain", "Bound", same), PvDecision::RemoveFinalizer);
        check(pv("Retain", "Released", same), PvDecision::RemoveFinalizer);
        check(pv("Retain", "Released", without_finalizer), PvDecision::Nothing);
        check(pv("Retain", "Released", leaving), PvDecision::RemoveFinalizer);
        check(pv("Recycle", "Bound", same), PvDecision::TakeOverRecycling);
        check(pv("Recycle", "Released", same), PvDecision::TakeOverRecycling);
        // A PV that is deleted before its claim is gone is reclaimed in the same way.
        check(pv("Delete", "Bound", leaving), PvDecision::Nothing);
        check(pv("Delete", "Released", leaving), ends(true, false));
        check(pv("Delete", "Available", leaving), ends(true, false));
        check(pv("Delete", "Released", gone), PvDecision::Nothing);
    }

    fn gone(pv: &mut Value) {
        leaving(pv);
        without_finalizer(pv);
    }

    #[test]
    fn nothing_is_ended_for_another_claim_than_the_last_one() {
        let of = |uid: Value| move |pv: &mut Value| pv["spec"]["claimRef"]["uid"] = uid;
        for uid in [json!("another"), Value::Null] {
            let found = decide(&pv("Delete", "Released", of(uid)), &own());
            let PvDecision::Disown { pv_is_deleted: false, why } = found else {
                panic!("{found:?}")
            };
            assert!(why.contains("berth volume delete v"), "{why}");
        }
        // A recycled volume has no claim in its record yet, nor has a record of an earlier version.
        let free = PvRelation::Holder(volume(&["berth.io/pv-uid"]));
        let found = decide(&pv("Delete", "Released", of(json!("another"))), &free);
        assert!(matches!(found, PvDecision::Reclaim(_)), "{found:?}");
    }

    #[test]
    fn nothing_is_ended_by_a_pv_that_does_not_hold_the_volume() {
        let strangers = [PvRelation::Unheld(volume(&[])), PvRelation::HeldByOther(volume(&[]))];
        for relation in strangers {
            for phase in ["Released", "Failed"] {
                let found = decide(&pv("Delete", phase, same), &relation);
                let PvDecision::Disown { pv_is_deleted: false, why } = found else {
                    panic!("{found:?}")
                };
                assert!(
                    why.contains("kubectl patch pv pvc-u ")
                        && why.contains("berth volume delete v")
                );
            }
            let found = decide(&pv("Delete", "Released", leaving), &relation);
            assert!(matches!(found, PvDecision::Disown { pv_is_deleted: true, .. }), "{found:?}");
            assert_eq!(decide(&pv("Delete", "Bound", same), &relation), PvDecision::Nothing);
            assert_eq!(
                decide(&pv("Delete", "Bound", without_finalizer), &relation),
                PvDecision::Nothing
            );
            assert_eq!(
                decide(&pv("Recycle", "Bound", same), &relation),
                PvDecision::TakeOverRecycling
            );
        }
        for policy in ["Delete", "Retain", "Recycle"] {
            let other = decide(&pv(policy, "Released", same), &PvRelation::Foreign);
            assert_eq!(other, PvDecision::Nothing);
        }
    }

    #[test]
    fn a_volume_that_is_gone_was_ended_by_us_or_is_missed() {
        let missing = |pv: PersistentVolume| decide(&pv, &PvRelation::Missing);
        let found = missing(pv("Delete", "Released", same));
        assert!(matches!(&found, PvDecision::Invalid(why) if why.contains("/v")), "{found:?}");
        assert_eq!(missing(pv("Delete", "Bound", without_finalizer)), PvDecision::Nothing);
        let recorded = pv("Delete", "Released", annotated(objects::ENDING, json!("c")));
        assert_eq!(missing(recorded), PvDecision::DeletePv);
        let older = pv("Delete", "Released", annotated(objects::ENDING, json!("another")));
        assert!(matches!(missing(older), PvDecision::Invalid(_)));
    }

    #[test]
    fn a_pv_asks_for_more_care_and_never_for_less() {
        let check = |record: OnDelete, asked: &str, expected: OnDelete| {
            let mut spec = volume(&["berth.io/pv-uid"]);
            spec.on_delete = record;
            let pv = pv("Delete", "Released", annotated(objects::ON_DELETE, json!(asked)));
            let found = decide(&pv, &PvRelation::Holder(spec));
            assert_eq!(found, ends_with(expected, false, false), "{record:?} {asked}");
        };
        check(OnDelete::Archive, "delete", OnDelete::Archive);
        check(OnDelete::Retain, "archive", OnDelete::Retain);
        check(OnDelete::Retain, "recycle", OnDelete::Retain);
        check(OnDelete::Archive, "retain", OnDelete::Retain);
        check(OnDelete::Delete, "recycle", OnDelete::Recycle);
        check(OnDelete::Recycle, "delete", OnDelete::Delete);
        check(OnDelete::Archive, "", OnDelete::Archive);
    }

    #[test]
    fn what_is_free_is_parked() {
        let unclaimed = |pv: &mut Value| pv["spec"]["claimRef"] = Value::Null;
        let free = PvRelation::Holder(volume(&["berth.io/pv-uid"]));
        assert_eq!(decide(&pv("Delete", "Available", unclaimed), &free), PvDecision::Park);
        assert_eq!(decide(&pv("Delete", "Available", same), &free), PvDecision::Nothing);
        // The claimRef of a used volume was removed: it may not be empty.
        assert_eq!(decide(&pv("Delete", "Available", unclaimed), &own()), PvDecision::Nothing);
    }

    #[test]
    fn the_record_is_of_one_claim() {
        let recorded = |of: &str| pv("Delete", "Released", annotated(objects::ENDING, json!(of)));
        let check = |pv, expected| {
            let mut pv: PersistentVolume = pv;
            let annotations = pv.metadata.annotations.as_mut().unwrap();
            annotations.insert(objects::ON_DELETE.into(), "archive".into());
            assert_eq!(decide(&pv, &own()), expected);
        };
        check(recorded("c"), ends(false, true));
        check(recorded("the one before"), ends(false, false));
    }

    #[test]
    fn what_cannot_be_understood_is_left_alone() {
        let pv = pv("Delete", "Released", annotated(objects::ON_DELETE, json!("burn")));
        let found = decide(&pv, &own());
        assert!(matches!(&found, PvDecision::Invalid(why) if why.contains("burn")), "{found:?}");
    }
}
