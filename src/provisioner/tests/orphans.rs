//! What a crash leaves, and what a server finds when it begins to provision.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{Answer, Scene, Step, claim, pv, refusal, step, volume_of};
use crate::provisioner::claims;
use crate::provisioner::objects::ObjectKey;
use crate::provisioner::queue::ReconcileOutcome;
use crate::volume::spec::VolumePhase;

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";
const PVS: &str = "/api/v1/persistentvolumes";
const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";

/// A server that died when a claim, this one, had its volume and no PV; it has not begun again yet.
async fn died_half_way(claim: &Value) -> (Scene, ObjectKey) {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let key = scene.claim(claim);
    let steps = vec![waits(), step("POST", PVS, Answer::Broken)];
    assert_eq!(scene.look_at_claim(&key, steps).await, ReconcileOutcome::Failed);
    assert_eq!(scene.names(), [volume_of("data")]);
    scene.cx.progress.clear();
    scene.told();
    (scene, key)
}

fn waits() -> Step {
    step("GET", CLAIM, Answer::Json(200, claim("data")))
}

fn gone() -> Step {
    step("GET", CLAIM, refusal(404, "NotFound"))
}

fn no_pv() -> Step {
    step("GET", PV, refusal(404, "NotFound"))
}

async fn begin(scene: &mut Scene, steps: Vec<Step>) {
    scene.search_orphans(steps).await;
}

/// How many volumes are said to have no PV.
fn alone(scene: &Scene) -> String {
    metric(scene, "volumes_without_pv")
}

/// How many PVs are said to have no volume.
fn missing(scene: &Scene) -> String {
    metric(scene, "pvs_without_volume")
}

fn metric(scene: &Scene, name: &str) -> String {
    let text = scene.metrics();
    let start = format!("berth_provisioner_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
}

#[tokio::test]
async fn a_beginning_whose_claim_is_gone_is_taken_away() {
    let (mut scene, _) = died_half_way(&claim("data")).await;
    scene.claim_gone(&claim("data"));
    begin(&mut scene, vec![no_pv()]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (0, "0"));
}

#[tokio::test]
async fn a_beginning_whose_claim_goes_before_it_is_taken_up_is_taken_away() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.names().len(), 1);
    // It goes while it is looked at, and then is seen to be gone.
    assert_eq!(scene.look_at_claim(&key, vec![gone()]).await, ReconcileOutcome::Done);
    scene.claim_gone(&claim("data"));
    let unsure = vec![gone(), step("GET", PV, Answer::Broken)];
    assert_eq!(scene.look_at_claim(&key, unsure).await, ReconcileOutcome::Failed);
    assert_eq!(scene.look_at_claim(&key, vec![gone(), no_pv()]).await, ReconcileOutcome::Done);
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (0, "0"));
    assert_eq!(scene.look_at_claim(&key, vec![]).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn a_beginning_of_a_claim_that_is_leaving_is_taken_away() {
    let mut leaving = claim("data");
    leaving["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.claim(&leaving);
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.look_at_claim(&key, vec![]).await, ReconcileOutcome::Done);
    scene.claim_gone(&leaving);
    assert_eq!(scene.look_at_claim(&key, vec![gone(), no_pv()]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_beginning_whose_claim_still_waits_goes_on() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.write(&volume_of("data"), "file");
    begin(&mut scene, vec![]).await;
    let steps = vec![waits(), step("POST", PVS, Answer::Echo)];
    assert_eq!(scene.look_at_claim(&key, steps).await, ReconcileOutcome::Done);
    // From now on its end is the PV's.
    scene.pv(&pv("data", "Bound", "retain"));
    scene.claim_gone(&claim("data"));
    assert_eq!(scene.look_at_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn content_without_a_pv_is_never_taken_away() {
    let (mut scene, key) = died_half_way(&claim("data")).await;
    scene.write(&volume_of("data"), "file");
    begin(&mut scene, vec![]).await;
    // Not even when it was about to be given to a PV again.
    let steps = vec![waits(), step("POST", PVS, refusal(500, "InternalError"))];
    assert_eq!(scene.look_at_claim(&key, steps).await, ReconcileOutcome::Failed);
    scene.claim_gone(&claim("data"));
    assert_eq!(scene.look_at_claim(&key, vec![gone()]).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
    // Nor if its claim was gone when the server began.
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
    assert_eq!(scene.look_at_claim(&key, vec![]).await, ReconcileOutcome::Done);
    scene.claim_gone(&bound);
    assert_eq!(scene.look_at_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names(), [volume_of("data")]);
}

#[tokio::test]
async fn a_copy_that_nobody_waits_for_is_taken_away() {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let source = scene.claim(&claim("source"));
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/source";
    let waits = || step("GET", path, Answer::Json(200, claim("source")));
    scene.look_at_claim(&source, vec![waits(), step("POST", PVS, Answer::Echo)]).await;
    let mut bound = claim("source");
    bound["spec"]["volumeName"] = json!("pvc-uid-source");
    scene.claim(&bound);
    let held = scene.pv_of("source", "Bound", "delete");
    scene.pv(&held);
    scene.look_at_claim(&source, vec![]).await;
    // More than the copy may hold, so that it comes to nothing.
    let large = scene.dir.path().join(volume_of("source")).join("large");
    std::fs::write(large, vec![1; 17 << 20]).unwrap();
    let mut copy = claim("data");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
    let key = scene.claim(&copy);
    scene.look_at_claim(&key, vec![step("GET", CLAIM, Answer::Json(200, copy.clone()))]).await;
    let name = scene.name(&volume_of("data"));
    while !matches!(scene.volumes.show(&name).unwrap().phase, VolumePhase::Failed { .. }) {
        tokio::task::yield_now().await;
    }
    // Somebody else led for a while, and the claim went.
    scene.cx.progress.clear();
    scene.claim_gone(&copy);
    begin(&mut scene, vec![no_pv()]).await;
    assert_eq!((scene.names(), alone(&scene)), (vec![volume_of("source")], "0".into()));
}

#[tokio::test]
async fn an_empty_volume_that_a_pv_ever_held_is_never_taken_away() {
    // Its PV was retained, and is another one after a restore: nothing of the cluster knows it.
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-before")]);
    begin(&mut scene, vec![]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (1, "1"));
    // Nor one in which something was, though nobody knows of a PV.
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let dir = scene.dir.path().join(volume_of("data"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::open(&dir).unwrap().set_modified(later).unwrap();
    begin(&mut scene, vec![]).await;
    assert_eq!((scene.names().len(), alone(&scene).as_str()), (1, "1"));
}

#[tokio::test]
async fn what_another_server_provisioned_meanwhile_leaves_no_beginning_here() {
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let mut bound = claim("data");
    bound["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&bound);
    let mut theirs = pv("data", "Bound", "delete");
    theirs["metadata"]["annotations"]["berth.io/server"] = json!("another");
    theirs["spec"]["nfs"]["server"] = json!("10.0.0.2");
    scene.pv(&theirs);
    begin(&mut scene, vec![step("GET", PV, Answer::Json(200, theirs))]).await;
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_claim_whose_volume_is_gone_is_told_once() {
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    scene.pv(&pv("data", "Bound", "delete"));
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.told().len()), ("0", 0));
    // Somebody deletes it beside the cluster.
    let name = scene.name(&volume_of("data"));
    scene.volumes.reclaim(&name, None).unwrap();
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "1");
    let notes = scene.notes();
    let kinds: Vec<_> = notes.iter().map(|n| n.object.kind.clone().unwrap_or_default()).collect();
    assert!(notes.iter().all(|note| note.reason == "VolumeLost"), "{notes:?}");
    assert_eq!(kinds.len(), 2);
    assert_eq!(notes[0].object.name.as_deref(), Some("data"));
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.told(), [""; 0]);
    // It is there again.
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "0");
}

#[tokio::test]
async fn a_claim_whose_volume_has_lost_its_directory_is_told() {
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    scene.pv(&pv("data", "Bound", "delete"));
    std::fs::remove_dir(scene.dir.path().join(volume_of("data"))).unwrap();
    scene.restart();
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.told()), ("1", vec!["VolumeLost", "VolumeLost"]));
}

#[tokio::test(start_paused = true)]
async fn a_released_pv_that_its_server_does_not_end_is_said_in_the_end() {
    let mut scene = Scene::new();
    let mut theirs = pv("data", "Released", "delete");
    theirs["metadata"]["annotations"]["berth.io/server"] = json!("another");
    theirs["spec"]["nfs"]["server"] = json!("10.0.0.2");
    scene.pv(&theirs);
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.told().len()), ("0", 0));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    begin(&mut scene, vec![]).await;
    let notes = scene.notes();
    assert!(notes[0].message.contains("10.0.0.2"), "{notes:?}");
    begin(&mut scene, vec![]).await;
    assert_eq!(scene.told(), [""; 0]);
}

#[tokio::test]
async fn what_is_being_given_to_a_pv_is_not_taken_away() {
    // The claim goes, by what is known of the cluster, while its PV is being saved.
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
async fn who_looks_at_a_claim_is_known_to_be_busy_with_it() {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    let key = scene.claim(&claim("data"));
    let cx = Arc::clone(&scene.cx);
    let look = async {
        let mut looking = Box::pin(claims::reconcile(&cx, &key));
        // It has asked, and nobody answers.
        assert!(futures_util::poll!(&mut looking).is_pending());
        let busy = cx.progress.is_reconciling(&key.uid);
        drop(looking);
        (busy, cx.progress.is_reconciling(&key.uid))
    };
    assert_eq!(look.await, (true, false));
}

#[tokio::test]
async fn a_pv_whose_end_is_under_way_is_not_missed() {
    let mut scene = Scene::new();
    // Its volume has ended, and that the PV goes is not seen yet.
    scene.pv(&pv("data", "Released", "delete"));
    begin(&mut scene, vec![]).await;
    assert_eq!((missing(&scene).as_str(), scene.told().len()), ("0", 0));
    // It stays so.
    begin(&mut scene, vec![]).await;
    assert_eq!(missing(&scene), "1");
    assert_eq!(scene.told()[0], "VolumeLost");
}
