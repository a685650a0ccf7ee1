//! What earlier versions left: records without the uids of claims and PVs, and PVs without the
//! server's id.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::support::{ExpectedRequest, MockResponse, Scene, pv, refusal, step, volume_of};
use crate::provisioner::queue::ReconcileOutcome;

const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";
const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";

/// A volume of an earlier version.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.made_by_an_earlier_version("data");
    scene
}

/// A PV of an earlier version, created `after` seconds after its volume.
fn old_pv(phase: &str, on_delete: &str, after: i64) -> Value {
    let mut pv = pv("data", phase, on_delete);
    pv["metadata"]["annotations"].as_object_mut().unwrap().remove("berth.io/server");
    let time = Timestamp::now() + SignedDuration::from_secs(after);
    let time = Timestamp::from_second(time.as_second()).unwrap();
    pv["metadata"]["creationTimestamp"] = json!(time.to_string());
    pv
}

fn ends(scene: &Scene, pv: &Value) -> Vec<ExpectedRequest> {
    assert_eq!(scene.names().len(), 1);
    vec![
        step("GET", CLAIM, refusal(404, "NotFound")),
        step("PATCH", PV, MockResponse::Json(200, pv.clone())).with("berth.io/ending"),
        step("DELETE", PV, refusal(404, "NotFound")),
    ]
}

#[tokio::test]
async fn what_was_released_before_the_upgrade_is_reclaimed() {
    let mut scene = scene();
    scene.write(&volume_of("data"), "file");
    let released = old_pv("Released", "delete", 5);
    let key = scene.pv(&released);
    let steps = ends(&scene, &released);
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn what_was_bound_before_the_upgrade_is_reclaimed_whatever_its_age() {
    let mut scene = scene();
    scene.write(&volume_of("data"), "file");
    let key = scene.pv(&old_pv("Bound", "delete", 100_000));
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    // It is not taken to be free, whatever happens to the claimRef.
    assert_eq!(scene.label(&volume_of("data"), "berth.io/claim-uid"), "uid-data");
    let released = old_pv("Released", "delete", 100_000);
    let key = scene.pv(&released);
    let steps = ends(&scene, &released);
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_pv_from_a_backup_reclaims_no_volume_of_an_earlier_version() {
    // The cluster was lost and the disk was not: PVs are restored, and then seen to be released.
    let phases: [&[&str]; 3] = [&["", "Released"], &["Pending", "Released"], &["Released"]];
    for (phases, after) in phases.into_iter().zip([100_000, 100_000, -100_000]) {
        let mut scene = scene();
        scene.write(&volume_of("data"), "file");
        for phase in phases {
            let key = scene.pv(&old_pv(phase, "delete", after));
            let outcome = scene.reconcile_pv(&key, vec![]).await;
            assert_eq!(
                matches!(outcome, ReconcileOutcome::Again(_)),
                *phase == "Released",
                "{phase}"
            );
        }
        assert_eq!(scene.reasons(), ["VolumeKept"]);
        assert_eq!(scene.label(&volume_of("data"), "berth.io/pv-uid"), "");
        assert!(scene.has(&volume_of("data"), "file"));
    }
}

#[tokio::test]
async fn an_empty_volume_of_an_earlier_version_is_not_deleted() {
    // Its PV was retained and deleted: nothing records that a PV held it.
    let mut scene = scene();
    scene.search_orphans(vec![]).await;
    assert_eq!(scene.names(), [volume_of("data")]);
}

/// A PV of an earlier version that was recycled.
fn recycled() -> Value {
    let mut free = old_pv("Available", "recycle", 5);
    free["spec"]["claimRef"] = Value::Null;
    free
}

#[tokio::test]
async fn what_an_earlier_version_recycled_is_parked() {
    let mut scene = scene();
    let key = scene.pv(&recycled());
    let park = step("PATCH", PV, MockResponse::Json(200, json!({}))).with("berth.io/recycled-");
    assert_eq!(scene.reconcile_pv(&key, vec![park]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/pv-uid"), "pv-data");
    assert_eq!(scene.label(&volume_of("data"), "berth.io/claim-uid"), "");
}

#[tokio::test]
async fn what_is_not_empty_is_not_taken_to_be_recycled() {
    let mut scene = scene();
    scene.write(&volume_of("data"), "file");
    let key = scene.pv(&recycled());
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    let mut elsewhere = recycled();
    elsewhere["metadata"]["annotations"]["berth.io/server"] = json!("another");
    let key = scene.pv(&elsewhere);
    std::fs::remove_file(scene.dir.path().join(volume_of("data")).join("file")).unwrap();
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/pv-uid"), "");
}
