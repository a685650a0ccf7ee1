//! What becomes of a PV and its volume. Pure: no client, no clock, no disk.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::objects::{self, annotation};
use super::ownership::{CLAIM, CLAIM_UID, Relation};
use super::recycled;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::{OnDelete, Spec};

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
    /// It is empty and free: no claim may have it but by us.
    Park,
    /// The end of its volume.
    End(End),
    /// Its volume was ended by us before, and it can go.
    Remove,
    /// Its volume is not its own: nothing is ended. It may go, if it is to.
    Disown {
        /// Whether it is to go.
        leaves: bool,
        /// Why, and what to do.
        why: String,
    },
    /// It cannot be understood, or its volume is not there.
    Broken(String),
}

/// The end of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The volume's name.
    pub volume: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// What is done with it.
    pub how: OnDelete,
    /// Whether the PV goes in any case, so that nothing can be left for the next claim.
    pub leaves: bool,
    /// The claim that is gone, as the record has it.
    pub of: String,
    /// Whether the end is recorded already.
    pub begun: bool,
}

/// What is owed to a PV. Pure.
pub fn decide(pv: &PersistentVolume, relation: &Relation) -> Decision {
    let leaves = pv.metadata.deletion_timestamp.is_some();
    match (relation, objects::policy(pv)) {
        (Relation::Other, _) => return Decision::Nothing,
        (_, "Delete") => {}
        (Relation::New(_) | Relation::Own(_) | Relation::Stranger(_), "Recycle") if !leaves => {
            return Decision::TakeOver;
        }
        (_, "Retain") if objects::has_finalizer(pv) => return Decision::LetGo,
        _ => return Decision::Nothing,
    }
    let without_claim = match objects::phase(pv) {
        // Failed is what the cluster's recycler leaves behind; the claim is gone then too.
        "Released" | "Failed" => objects::claim_of(pv).is_some() || leaves,
        "Available" | "Pending" | "" => leaves,
        _ => false,
    };
    match (relation, without_claim, leaves, objects::has_finalizer(pv)) {
        // It went without us: there is nothing that could be decided any more.
        (_, _, true, false) => Decision::Nothing,
        (Relation::Own(spec), true, ..) if is_for_another(pv, spec) => mismatch(pv, spec, leaves),
        (Relation::Own(spec), true, ..) => end(pv, spec, leaves),
        (Relation::Missing, true, ..) => missing(pv),
        (Relation::New(spec) | Relation::Stranger(spec), true, ..) => disown(pv, spec, leaves),
        (Relation::Own(_), false, false, false) if objects::phase(pv) == "Bound" => Decision::Keep,
        (Relation::Own(spec), false, false, _) if recycled::is_to_be_parked(pv, spec) => {
            Decision::Park
        }
        (_, false, ..) | (Relation::Other, ..) => Decision::Nothing,
    }
}

/// The claim that a PV is or was for, as the record of an end has it.
fn former(pv: &PersistentVolume) -> String {
    let of = objects::claim_of(pv).and_then(|claim| claim.uid.clone());
    of.unwrap_or_else(|| NOBODY.into())
}

fn is_begun(pv: &PersistentVolume) -> bool {
    annotation(&pv.metadata, objects::ENDING) == Some(&former(pv))
}

fn end(pv: &PersistentVolume, spec: &Spec, leaves: bool) -> Decision {
    let asked = match annotation(&pv.metadata, objects::ON_DELETE)
        .map(str::parse::<OnDelete>)
        .transpose()
    {
        Ok(asked) => asked,
        Err(why) => {
            return Decision::Broken(format!(
                "annotation berth.io/on-delete: {why}; correct it, nothing is touched until then"
            ));
        }
    };
    Decision::End(End {
        volume: spec.name.clone(),
        id: spec.id.clone(),
        how: asked.map_or(spec.on_delete, |asked| more_careful(spec.on_delete, asked)),
        leaves,
        of: former(pv),
        begun: is_begun(pv),
    })
}

/// Whoever may patch a PV may have more kept of its volume than the class said, but not less.
fn more_careful(said: OnDelete, asked: OnDelete) -> OnDelete {
    let care = |how| match how {
        OnDelete::Delete | OnDelete::Recycle => 0,
        OnDelete::Archive => 1,
        OnDelete::Retain => 2,
    };
    if care(asked) >= care(said) { asked } else { said }
}

fn missing(pv: &PersistentVolume) -> Decision {
    if is_begun(pv) {
        return Decision::Remove;
    }
    let path = pv.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).map(|nfs| nfs.path.as_str());
    Decision::Broken(format!(
        "there is no volume {} of PersistentVolume {} in this server's directory; is it the right \
         one? If the data is gone for good, remove the finalizer of the PersistentVolume",
        path.unwrap_or_default(),
        pv.metadata.name.as_deref().unwrap_or_default(),
    ))
}

fn disown(pv: &PersistentVolume, spec: &Spec, leaves: bool) -> Decision {
    let (name, volume) = (pv.metadata.name.as_deref().unwrap_or_default(), &spec.name);
    let why = format!(
        "PersistentVolume {name} is not the one that the volume {volume} was bound to (restored \
         from a backup?), so that nothing of the volume is destroyed. To use it, bind a claim to \
         it: make the claim with volumeName {name}, and {}. To end it: berth volume delete \
         {volume}",
        unbind(name)
    );
    Decision::Disown { leaves, why }
}

/// Whether a PV names another claim than the one that used its volume last, or none: the cluster is
/// as it was before that one, or somebody changed the PV.
fn is_for_another(pv: &PersistentVolume, spec: &Spec) -> bool {
    let user = spec.labels.get(CLAIM_UID);
    user.is_some() && user != objects::claim_of(pv).and_then(|claim| claim.uid.as_ref())
}

fn mismatch(pv: &PersistentVolume, spec: &Spec, leaves: bool) -> Decision {
    let (name, volume) = (pv.metadata.name.as_deref().unwrap_or_default(), &spec.name);
    let why = format!(
        "PersistentVolume {name} does not name the claim that used the volume {volume} last, {}, \
         so that nothing of the volume is destroyed. To use it, bind a claim to it: make the \
         claim with volumeName {name}, and {}. To end it: berth volume delete {volume}",
        spec.labels.get(CLAIM).map_or("which is not known by name", String::as_str),
        unbind(name)
    );
    Decision::Disown { leaves, why }
}

/// How people make a restored PV and its restored claim find each other.
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

    fn own() -> Relation {
        Relation::Own(volume(&["berth.io/pv-uid", "berth.io/claim-uid"]))
    }

    fn ends(leaves: bool, begun: bool) -> Decision {
        ends_with(OnDelete::Archive, leaves, begun)
    }

    fn ends_with(how: OnDelete, leaves: bool, begun: bool) -> Decision {
        let (volume, id) = (VolumeName::new("v").unwrap(), VolumeId::new("u").unwrap());
        Decision::End(End { volume, id, how, leaves, of: "c".into(), begun })
    }

    #[test]
    fn what_is_owed() {
        let check = |pv: PersistentVolume, expected: Decision| {
            assert_eq!(decide(&pv, &own()), expected, "{pv:?}");
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
        check(pv("Delete", "Released", gone), Decision::Nothing);
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
            let Decision::Disown { leaves: false, why } = found else { panic!("{found:?}") };
            assert!(why.contains("berth volume delete v"), "{why}");
        }
        // One that was recycled has none yet, and nor has a record of an earlier version.
        let free = Relation::Own(volume(&["berth.io/pv-uid"]));
        let found = decide(&pv("Delete", "Released", of(json!("another"))), &free);
        assert!(matches!(found, Decision::End(_)), "{found:?}");
    }

    #[test]
    fn nothing_is_ended_by_a_pv_that_does_not_hold_the_volume() {
        let strangers = [Relation::New(volume(&[])), Relation::Stranger(volume(&[]))];
        for relation in strangers {
            for phase in ["Released", "Failed"] {
                let found = decide(&pv("Delete", phase, same), &relation);
                let Decision::Disown { leaves: false, why } = found else { panic!("{found:?}") };
                assert!(
                    why.contains("kubectl patch pv pvc-u ")
                        && why.contains("berth volume delete v")
                );
            }
            let found = decide(&pv("Delete", "Released", leaving), &relation);
            assert!(matches!(found, Decision::Disown { leaves: true, .. }), "{found:?}");
            assert_eq!(decide(&pv("Delete", "Bound", same), &relation), Decision::Nothing);
            assert_eq!(
                decide(&pv("Delete", "Bound", without_finalizer), &relation),
                Decision::Nothing
            );
            assert_eq!(decide(&pv("Recycle", "Bound", same), &relation), Decision::TakeOver);
        }
        for policy in ["Delete", "Retain", "Recycle"] {
            let other = decide(&pv(policy, "Released", same), &Relation::Other);
            assert_eq!(other, Decision::Nothing);
        }
    }

    #[test]
    fn a_volume_that_is_gone_was_ended_by_us_or_is_missed() {
        let missing = |pv: PersistentVolume| decide(&pv, &Relation::Missing);
        let found = missing(pv("Delete", "Released", same));
        assert!(matches!(&found, Decision::Broken(why) if why.contains("/v")), "{found:?}");
        assert_eq!(missing(pv("Delete", "Bound", without_finalizer)), Decision::Nothing);
        let recorded = pv("Delete", "Released", annotated(objects::ENDING, json!("c")));
        assert_eq!(missing(recorded), Decision::Remove);
        let older = pv("Delete", "Released", annotated(objects::ENDING, json!("another")));
        assert!(matches!(missing(older), Decision::Broken(_)));
    }

    #[test]
    fn a_pv_asks_for_more_care_and_never_for_less() {
        let check = |record: OnDelete, asked: &str, expected: OnDelete| {
            let mut spec = volume(&["berth.io/pv-uid"]);
            spec.on_delete = record;
            let pv = pv("Delete", "Released", annotated(objects::ON_DELETE, json!(asked)));
            let found = decide(&pv, &Relation::Own(spec));
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
        let free = Relation::Own(volume(&["berth.io/pv-uid"]));
        assert_eq!(decide(&pv("Delete", "Available", unclaimed), &free), Decision::Park);
        assert_eq!(decide(&pv("Delete", "Available", same), &free), Decision::Nothing);
        // Somebody took the claim of a used one away: nobody knows what is in it.
        assert_eq!(decide(&pv("Delete", "Available", unclaimed), &own()), Decision::Nothing);
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
        assert!(matches!(&found, Decision::Broken(why) if why.contains("burn")), "{found:?}");
    }
}
