//! Orphans, and what a crash during provisioning leaves.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{ExpectedRequest, MockResponse, Scene, claim, pv, refusal, step, volume_of};
use crate::provisioner::claims;
use crate::provisioner::objects::ObjectKey;
use crate::provisioner::queue::ReconcileOutcome;
use crate::volume::spec::VolumePhase;

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";
const PVS: &str = "/api/v1/persistentvolumes";
const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";

/// A server that died when this claim had a volume and no PV, before it starts again.
async fn died_half_way(claim: &Value) -> (Scene, ObjectKey) {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let key = scene.claim(claim);
    let steps = vec![waits(), step("POST", PVS, MockResponse::Broken)];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
    assert_eq!(scene.names(), [volume_of("data")]);
    scene.cx.progress.clear();
    scene.reasons();
    (scene, key)
}

fn waits() -> ExpectedRequest {
    step("GET", CLAIM, MockResponse::Json(200, claim("data")))
}

fn gone() -> ExpectedRequest {
    step("GET", CLAIM, refusal(404, "NotFound"))
}

fn no_pv() -> ExpectedRequest {
    step("GET", PV, refusal(404, "NotFound"))
}

async fn begin(scene: &mut Scene, steps: Vec<ExpectedRequest>) {
    scene.search_orphans(steps).await;
}

/// The metric of volumes without a PV.
fn alone(scene: &Scene) -> String {
    metric(scene, "volumes_without_pv")
}

/// The metric of PVs without a volume.
fn missing(scene: &Scene) -> String {
    metric(scene, "pvs_without_volume")
}

fn metric(scene: &Scene, name: &str) -> String {
    let text = scene.metrics();
    let start = format!("berth_provisioner_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
}

#[tokio::test]
async fn an_unused_volume_whose_claim_is_gone_is_deleted() {
    let (mut scene, _) = died_half_way(&claim("data")).await;
    scene.claim_gone(&claim("data"));
    begin(&mut scene, vec![no_pv()]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (0, "0"));
}

#[tokio::test]
async fn an_unused_volume_whose_claim_is_deleted_before_it_is_found_is_deleted() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.names().len(), 1);
    // The claim is deleted while it is reconciled, and the view shows that later.
    assert_eq!(scene.reconcile_claim(&key, vec![gone()]).await, ReconcileOutcome::Done);
    scene.claim_gone(&claim("data"));
    let unsure = vec![gone(), step("GET", PV, MockResponse::Broken)];
    assert_eq!(scene.reconcile_claim(&key, unsure).await, ReconcileOutcome::Failed);
    assert_eq!(scene.reconcile_claim(&key, vec![gone(), no_pv()]).await, ReconcileOutcome::Done);
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (0, "0"));
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn an_unused_volume_of_a_claim_that_is_being_deleted_is_deleted() {
    let mut leaving = claim("data");
    leaving["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.claim(&leaving);
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    scene.claim_gone(&leaving);
    assert_eq!(scene.reconcile_claim(&key, vec![gone(), no_pv()]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn an_unused_volume_whose_claim_still_waits_is_used() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.write(&volume_of("data"), "file");
    begin(&mut scene, vec![]).await;
    let steps = vec![waits(), step("POST", PVS, MockResponse::Echo)];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    // From now on it is reclaimed with the PV.
    scene.pv(&pv("data", "Bound", "retain"));
    scene.claim_gone(&claim("data"));
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn content_without_a_pv_is_never_deleted() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.write(&volume_of("data"), "file");
    begin(&mut scene, vec![]).await;
    // Not even if it was about to get a PV again.
    let steps = vec![waits(), step("POST", PVS, refusal(500, "InternalError"))];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
    scene.claim_gone(&claim("data"));
    assert_eq!(scene.reconcile_claim(&key, vec![gone()]).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
    // Nor if its claim was gone when the server started.
    begin(&mut scene, vec![]).await;
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(alone(&scene), "1");
}

#[tokio::test]
async fn a_bound_claim_leaves_its_volume_to_its_pv() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    begin(&mut scene, vec![]).await;
    let mut bound = claim("data");
    bound["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&bound);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    scene.claim_gone(&bound);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names(), [volume_of("data")]);
}

#[tokio::test]
async fn a_copy_whose_claim_is_gone_is_deleted() {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let source = scene.claim(&claim("source"));
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/source";
    let waits = || step("GET", path, MockResponse::Json(200, claim("source")));
    scene.reconcile_claim(&source, vec![waits(), step("POST", PVS, MockResponse::Echo)]).await;
    let mut bound = claim("source");
    bound["spec"]["volumeName"] = json!("pvc-uid-source");
    scene.claim(&bound);
    let held = scene.pv_of("source", "Bound", "delete");
    scene.pv(&held);
    scene.reconcile_claim(&source, vec![]).await;
    // More than the copy may hold: copying fails.
    let large = scene.dir.path().join(volume_of("source")).join("large");
    std::fs::write(large, vec![1; 17 << 20]).unwrap();
    let mut copy = claim("data");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
    let key = scene.claim(&copy);
    scene
        .reconcile_claim(&key, vec![step("GET", CLAIM, MockResponse::Json(200, copy.clone()))])
        .await;
    let name = scene.name(&volume_of("data"));
    while !matches!(scene.volumes.show(&name).unwrap().phase, VolumePhase::Failed { .. }) {
        tokio::task::yield_now().await;
    }
    // Another server led for a while, and the claim was deleted.
    scene.cx.progress.clear();
    scene.claim_gone(&copy);
    begin(&mut scene, vec![no_pv()]).await;
    assert_eq!((scene.names(), alone(&scene)), (vec![volume_of("source")], "0".into()));
}

#[tokio::test]
async fn an_empty_volume_that_a_pv_ever_held_is_never_deleted() {
    // Its PV was retained and has another uid after a restore: the cluster does not know it.
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-before")]);
    begin(&mut scene, vec![]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (1, "1"));
    // Nor one that had content, even if no PV is recorded.
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let dir = scene.dir.path().join(volume_of("data"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::open(&dir).unwrap().set_modified(later).unwrap();
    begin(&mut scene, vec![]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (1, "1"));
}

#[tokio::test]
async fn what_another_server_provisioned_meanwhile_leaves_no_volume_here() {
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let mut bound = claim("data");
    bound["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&bound);
    let mut theirs = pv("data", "Bound", "delete");
    theirs["metadata"]["annotations"]["berth.io/server"] = json!("another");
    theirs["spec"]["nfs"]["server"] = json!("10.0.0.2");
    scene.pv(&theirs);
    begin(&mut scene, vec![step("GET", PV, MockResponse::Json(200, theirs))]).await;
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_claim_whose_volume_is_gone_gets_one_event() {
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    scene.pv(&pv("data", "Bound", "delete"));
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.reasons().len()), ("0", 0));
    // It is deleted without the cluster.
    let name = scene.name(&volume_of("data"));
    scene.volumes.reclaim(&name, None).unwrap();
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "1");
    let events = scene.events();
    let kinds: Vec<_> = events.iter().map(|n| n.object.kind.clone().unwrap_or_default()).collect();
    assert!(events.iter().all(|event| event.reason == "VolumeLost"), "{events:?}");
    assert_eq!(kinds.len(), 2);
    assert_eq!(events[0].object.name.as_deref(), Some("data"));
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.reasons(), [""; 0]);
    // It is restored.
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "0");
}

#[tokio::test]
async fn a_claim_whose_volume_has_lost_its_directory_gets_an_event() {
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    scene.pv(&pv("data", "Bound", "delete"));
    std::fs::remove_dir(scene.dir.path().join(volume_of("data"))).unwrap();
    scene.restart();
    begin(&mut scene, vec![]).await;
    assert_eq!(
        (missing(&scene).as_str(), scene.reasons()),
        ("1", vec!["VolumeLost", "VolumeLost"])
    );
}

#[tokio::test(start_paused = true)]
async fn a_released_pv_that_its_server_does_not_reclaim_is_reported() {
    let mut scene = Scene::new();
    let mut theirs = pv("data", "Released", "delete");
    theirs["metadata"]["annotations"]["berth.io/server"] = json!("another");
    theirs["spec"]["nfs"]["server"] = json!("10.0.0.2");
    scene.pv(&theirs);
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.reasons().len()), ("0", 0));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    begin(&mut scene, vec![]).await;
    let events = scene.events();
    assert!(events[0].message.contains("10.0.0.2"), "{events:?}");
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.reasons(), [""; 0]);
}

#[tokio::test]
async fn a_volume_whose_pv_is_being_saved_is_not_deleted() {
    // The view shows that the claim is gone while its PV is being saved.
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.claim_gone(&claim("data"));
    let cx = Arc::clone(&scene.cx);
    let busy = cx.progress.reconciling(&key);
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.names(), [volume_of("data")]);
    drop(busy);
    begin(&mut scene, vec![no_pv()]).await;
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_claim_that_is_being_reconciled_is_marked() {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let key = scene.claim(&claim("data"));
    let cx = Arc::clone(&scene.cx);
    let look = async {
        let mut looking = Box::pin(claims::reconcile(&cx, &key));
        // It waits for a response.
        assert!(futures_util::poll!(&mut looking).is_pending());
        let busy = cx.progress.is_reconciling(&key.uid);
        drop(looking);
        (busy, cx.progress.is_reconciling(&key.uid))
    };
    assert_eq!(look.await, (true, false));
}

#[tokio::test]
async fn a_pv_that_is_being_reclaimed_does_not_count_as_missing_its_volume() {
    let mut scene = Scene::new();
    // Its volume has been reclaimed, and the view does not show yet that the PV is deleted.
    scene.pv(&pv("data", "Released", "delete"));
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.reasons().len()), ("0", 0));
    // It stays so.
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "1");
    assert_eq!(scene.reasons()[0], "VolumeLost");
}
