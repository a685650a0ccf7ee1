//! PVs without a claim: what is asked, what becomes of the data, whatever the API server answers.

use serde_json::{Value, json};

use super::support::{Answer, Scene, Step, claim, pv, refusal, step, volume_of};
use crate::provisioner::queue::Outcome;
use crate::volume::Origin;
use crate::volume::name::VolumeId;
use crate::volume::spec::Spec;

const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";

/// A volume with a file, whose claim is gone.
fn scene() -> Scene {
    let scene = Scene::new();
    let (name, id) = (scene.name(&volume_of("data")), VolumeId::new("uid-data").unwrap());
    scene.volumes.create(Spec::new(name, id, 16 << 20), Origin::Fresh).unwrap();
    scene.write(&volume_of("data"), "file");
    scene
}

/// The PV, once its end is recorded.
fn recorded(on_delete: &str) -> Value {
    let mut pv = pv("data", "Released", on_delete);
    pv["metadata"]["annotations"]["berth.io/ending"] = json!("uid-data");
    pv["metadata"]["resourceVersion"] = json!("8");
    pv
}

fn record(on_delete: &str) -> Step {
    let step = step("PATCH", PV, Answer::Json(200, recorded(on_delete)));
    step.with("berth.io/ending").with(r#""resourceVersion":"7""#)
}

fn delete(answer: Answer) -> Step {
    step("DELETE", PV, answer)
}

/// The PV is let go: our finalizer is taken away.
fn let_go(answer: Answer) -> Step {
    step("PATCH", PV, answer).with(r#""finalizers":[]"#)
}

fn ok() -> Answer {
    Answer::Json(200, json!({}))
}

#[tokio::test]
async fn delete_takes_the_data_then_the_pv() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "delete"));
    let left = Answer::Json(200, recorded("delete"));
    let steps = vec![record("delete"), delete(left).with(r#""uid":"pv-data""#), let_go(ok())];
    assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn archive_keeps_the_data_beside() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "archive"));
    let gone = Answer::Json(200, recorded("archive"));
    let steps = vec![record("archive"), delete(gone), let_go(refusal(404, "NotFound"))];
    assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    let notes = scene.notes();
    assert_eq!(notes[0].reason, "VolumeArchived");
    let archived = std::fs::read_dir(scene.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let archived = archived.filter(|path| path.join("file").exists()).count();
    assert_eq!((scene.names().len(), archived), (0, 1));
}

#[tokio::test]
async fn retain_keeps_the_volume() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "retain"));
    let steps = vec![record("retain"), delete(refusal(404, "NotFound"))];
    assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(scene.told(), ["VolumeRetained"]);
}

#[tokio::test]
async fn recycle_empties_the_volume_and_frees_the_pv() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "recycle"));
    let free = step("PATCH", PV, ok()).with(r#""claimRef":null"#).with(r#""resourceVersion":"8""#);
    assert_eq!(scene.look_at_pv(&key, vec![record("recycle"), free]).await, Outcome::Done);
    assert_eq!(scene.told(), ["VolumeRecycled"]);
    assert_eq!(scene.names(), [volume_of("data")]);
    assert!(!scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn the_next_tenant_of_a_recycled_pv_loses_nothing() {
    // The answer to the last step got lost, and what is kept of the PV is old: it has its next
    // tenant already, who has written a file.
    let mut scene = scene();
    let key = scene.pv(&recorded("recycle"));
    let mut next = pv("data", "Bound", "recycle");
    next["spec"]["claimRef"] = json!({ "namespace": "ns", "name": "next", "uid": "uid-next" });
    let steps = vec![step("GET", PV, Answer::Json(200, next))];
    assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_pv_that_changed_since_it_was_looked_at_loses_nothing() {
    for on_delete in ["delete", "archive", "recycle"] {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", on_delete));
        let steps = vec![step("PATCH", PV, refusal(409, "Conflict"))];
        let outcome = scene.look_at_pv(&key, steps).await;
        assert!(matches!(outcome, Outcome::Again(_)), "{outcome:?}");
        assert!(scene.has(&volume_of("data"), "file"));
        assert_eq!(scene.told(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_server_answers_the_end_is_reached() {
    let codes = [refusal(429, "TooManyRequests"), refusal(500, "Internal")];
    for trouble in codes.into_iter().chain([Answer::Broken, Answer::Silence]) {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", "delete"));
        let steps = vec![record("delete"), delete(trouble)];
        assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Failed);
        assert_eq!(scene.told(), [""; 0]);
        // The volume is gone, which is a success, because the record says that it was us.
        let key = scene.pv(&recorded("delete"));
        let live = step("GET", PV, Answer::Json(200, recorded("delete")));
        let left = Answer::Json(200, recorded("delete"));
        let steps = vec![live, delete(left), let_go(ok())];
        assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    }
}

#[tokio::test]
async fn nothing_is_removed_before_the_record() {
    for trouble in [refusal(403, "Forbidden"), refusal(500, "Internal"), Answer::Broken] {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", "delete"));
        let outcome = scene.look_at_pv(&key, vec![step("PATCH", PV, trouble)]).await;
        assert_eq!(outcome, Outcome::Failed);
        assert!(scene.has(&volume_of("data"), "file"));
    }
}

#[tokio::test]
async fn a_volume_that_was_never_here_is_no_success() {
    let mut scene = Scene::new();
    let key = scene.pv(&pv("data", "Released", "delete"));
    assert_eq!(scene.look_at_pv(&key, vec![]).await, Outcome::Failed);
    let notes = scene.notes();
    assert_eq!(notes[0].reason, "VolumeFailedDelete");
    assert!(notes[0].message.contains("is it the right one"), "{}", notes[0].message);
}

#[tokio::test]
async fn a_volume_of_another_claim_is_left_alone() {
    let mut scene = scene();
    let mut other = pv("data", "Released", "delete");
    other["metadata"]["annotations"]["berth.io/volume-id"] = json!("uid-other");
    let key = scene.pv(&other);
    assert_eq!(scene.look_at_pv(&key, vec![]).await, Outcome::Failed);
    assert_eq!(scene.told(), ["VolumeFailedDelete"]);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_claim_that_is_known_to_use_the_pv_holds_it() {
    let mut scene = scene();
    let mut user = claim("data");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&user);
    let key = scene.pv(&pv("data", "Released", "delete"));
    let outcome = scene.look_at_pv(&key, vec![]).await;
    assert!(matches!(outcome, Outcome::Again(_)), "{outcome:?}");
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(scene.told(), [""; 0]);
}

#[tokio::test]
async fn retained_pvs_are_let_go_and_nothing_else() {
    let mut scene = scene();
    let mut kept = pv("data", "Released", "delete");
    kept["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    let key = scene.pv(&kept);
    assert_eq!(scene.look_at_pv(&key, vec![let_go(ok())]).await, Outcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn the_recycler_of_the_cluster_is_forestalled() {
    let mut scene = scene();
    let mut patched = pv("data", "Bound", "delete");
    patched["spec"]["persistentVolumeReclaimPolicy"] = json!("Recycle");
    let key = scene.pv(&patched);
    let steps = vec![
        step("PATCH", PV, ok())
            .with(r#""persistentVolumeReclaimPolicy":"Delete""#)
            .with(r#""berth.io/on-delete":"recycle""#),
    ];
    assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
    assert_eq!(scene.told(), ["VolumeRecycleTakenOver"]);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_pv_that_is_deleted_first_takes_its_data_along() {
    // Recycled for nobody would be a leak.
    for on_delete in ["delete", "recycle"] {
        let mut scene = scene();
        let leaving = |mut pv: Value| {
            pv["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            pv
        };
        let key = scene.pv(&leaving(pv("data", "Released", on_delete)));
        let recorded = || Answer::Json(200, leaving(recorded(on_delete)));
        let record = step("PATCH", PV, recorded()).with("berth.io/ending");
        let steps = vec![record, delete(recorded()), let_go(ok())];
        assert_eq!(scene.look_at_pv(&key, steps).await, Outcome::Done);
        assert_eq!(scene.names().len(), 0);
    }
}
