//! What authors of claims, and users who may patch PVs, can write: none of it gives access to the
//! data of others.

use serde_json::{Value, json};

use super::support::{ExpectedRequest, MockResponse, Scene, claim, pv, refusal, step, volume_of};
use crate::provisioner::queue::ReconcileOutcome;

const PVS: &str = "/api/v1/persistentvolumes";
const VICTIM: &str = "pvc-uid-victim";

/// A claim in the attacker's namespace that waits for this provisioner.
fn mine(name: &str) -> Value {
    let mut claim = claim(name);
    claim["metadata"]["namespace"] = json!("attacker");
    claim
}

fn copy_of(source: &str) -> Value {
    let mut copy = mine("copy");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": source });
    copy
}

fn read(claim: &Value) -> ExpectedRequest {
    let name = claim["metadata"]["name"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/attacker/persistentvolumeclaims/{name}");
    step("GET", &path, MockResponse::Json(200, claim.clone()))
}

/// The claim `victim` of the namespace `ns`, whose volume has a file.
fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    scene.made("victim", &[("berth.io/pv-uid", "pv-victim")]);
    scene.write(&volume_of("victim"), "secret");
    let mut victim = claim("victim");
    victim["spec"]["volumeName"] = json!(VICTIM);
    scene.claim(&victim);
    scene.pv(&pv("victim", "Bound", "delete"));
    scene
}

/// Asserts that nothing was made for the attacker, whose claim got an event.
async fn is_refused(mut scene: Scene, word: &str) {
    let copy = copy_of("x");
    let key = scene.claim(&copy);
    let outcome = scene.reconcile_claim(&key, vec![read(&copy)]).await;
    assert_eq!(outcome, ReconcileOutcome::Failed);
    let events = scene.events();
    let last = events.last().unwrap();
    assert_eq!(last.reason, "ProvisioningFailed");
    assert!(last.message.contains(word), "{}", last.message);
    assert_eq!(scene.names(), [volume_of("victim")]);
}

#[tokio::test]
async fn a_claim_that_only_names_a_pv_is_no_source() {
    let mut scene = scene();
    let mut x = mine("x");
    x["spec"]["volumeName"] = json!(VICTIM);
    // Whatever its status says.
    x["status"] = json!({ "phase": "Bound", "capacity": { "storage": "16Mi" } });
    scene.claim(&x);
    is_refused(scene, "not bound").await;
}

#[tokio::test]
async fn a_claim_that_was_written_into_the_pv_of_another_is_no_source() {
    let mut scene = scene();
    let mut x = mine("x");
    x["spec"]["volumeName"] = json!(VICTIM);
    scene.claim(&x);
    let mut patched = pv("victim", "Bound", "delete");
    patched["spec"]["claimRef"] = json!({ "namespace": "attacker", "name": "x", "uid": "uid-x" });
    let key = scene.pv(&patched);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    is_refused(scene, "another claim's").await;
}

#[tokio::test]
async fn a_pv_with_the_annotations_of_another_is_no_source() {
    let mut scene = scene();
    let mut x = mine("x");
    x["spec"]["volumeName"] = json!("forged");
    scene.claim(&x);
    let mut forged = pv("victim", "Bound", "delete");
    forged["metadata"]["name"] = json!("forged");
    forged["metadata"]["uid"] = json!("pv-forged");
    forged["spec"]["claimRef"] = json!({ "namespace": "attacker", "name": "x", "uid": "uid-x" });
    let key = scene.pv(&forged);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    is_refused(scene, "another claim's").await;
}

#[tokio::test]
async fn a_claim_cannot_expand_the_volume_of_another() {
    let mut scene = scene();
    let mut x = mine("x");
    x["spec"]["volumeName"] = json!(VICTIM);
    x["spec"]["resources"]["requests"]["storage"] = json!("64Mi");
    x["status"] = json!({ "phase": "Bound", "capacity": { "storage": "16Mi" } });
    let key = scene.claim(&x);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    let mut patched = pv("victim", "Bound", "delete");
    patched["spec"]["claimRef"] = json!({ "namespace": "attacker", "name": "x", "uid": "uid-x" });
    scene.pv(&patched);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    let volume = scene.volumes.show(&scene.name(&volume_of("victim"))).unwrap();
    assert_eq!(volume.spec.capacity, 16 << 20);
}

/// A volume that was recycled, and its PV.
fn recycled() -> (Scene, Value) {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    scene.made("before", &[("berth.io/pv-uid", "pv-before")]);
    let name = scene.name(&volume_of("before"));
    let id = scene.volumes.show(&name).unwrap().spec.id;
    scene.volumes.set_labels(&name, &id, &[("berth.io/claim-uid", None)]).unwrap();
    let mut free = pv("before", "Available", "recycle");
    free["spec"]["claimRef"] = Value::Null;
    free["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"] =
        json!("berth.io/recycled-00");
    scene.pv(&free);
    (scene, free)
}

const FREE: &str = "/api/v1/persistentvolumes/pvc-uid-before";

#[tokio::test]
async fn a_recycled_volume_is_given_to_the_next_claim() {
    let (mut scene, free) = recycled();
    let waits = mine("data");
    let key = scene.claim(&waits);
    let given = || {
        step("PATCH", FREE, MockResponse::Json(200, json!({})))
            .with(r#""uid":"uid-data""#)
            .with(r#""volume.beta.kubernetes.io/storage-class":null"#)
            .with(r#""resourceVersion":"7""#)
    };
    assert_eq!(
        scene.reconcile_claim(&key, vec![read(&waits), given()]).await,
        ReconcileOutcome::Done
    );
    assert_eq!(scene.reasons(), ["Provisioning", "ProvisioningSucceeded"]);
    // Until the cluster has bound it, the claim gets nothing else.
    let outcome = scene.reconcile_claim(&key, vec![]).await;
    assert!(matches!(outcome, ReconcileOutcome::Again(_)), "{outcome:?}");
    assert_eq!(scene.names(), [volume_of("before")]);
    // Unless another claim got the PV.
    let mut taken = free.clone();
    taken["spec"]["claimRef"] = json!({ "namespace": "ns", "name": "o", "uid": "uid-o" });
    scene.pv(&taken);
    let steps = vec![read(&waits), step("POST", PVS, MockResponse::Echo)];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 2);
}

#[tokio::test]
async fn a_conflict_about_a_recycled_volume_is_retried() {
    let (mut scene, _) = recycled();
    let waits = mine("data");
    let key = scene.claim(&waits);
    let steps = vec![read(&waits), step("PATCH", FREE, refusal(409, "Conflict"))];
    let outcome = scene.reconcile_claim(&key, steps).await;
    assert_eq!(outcome, ReconcileOutcome::Stale);
    assert_eq!(scene.reasons(), ["Provisioning"]);
}

#[tokio::test]
async fn a_recycled_volume_is_not_given_to_a_claim_that_it_does_not_fit() {
    let check = |change: fn(&mut Value, &mut Value)| async move {
        let (mut scene, mut free) = recycled();
        let mut waits = mine("data");
        change(&mut waits, &mut free);
        scene.pv(&free);
        let key = scene.claim(&waits);
        let steps = vec![read(&waits), step("POST", PVS, MockResponse::Echo)];
        assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
        assert_eq!(scene.names().len(), 2);
    };
    check(|waits, _| waits["spec"]["resources"]["requests"]["storage"] = json!("17Mi")).await;
    check(|waits, _| waits["spec"]["accessModes"] = json!(["ReadOnlyMany"])).await;
    check(|_, free| free["spec"]["storageClassName"] = json!("slow")).await;
    check(|_, free| free["status"]["phase"] = json!("Released")).await;
    check(|_, free| free["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z")).await;
    // The PV says that it is free, and the volume's record does not.
    check(|_, free| free["metadata"]["uid"] = json!("pv-forged")).await;
}

#[tokio::test]
async fn a_claim_with_a_source_never_gets_a_recycled_volume() {
    let (mut scene, _) = recycled();
    let mut source = mine("x");
    source["spec"]["volumeName"] = json!("pvc-uid-x");
    scene.claim(&source);
    let copy = copy_of("x");
    let key = scene.claim(&copy);
    assert_eq!(scene.reconcile_claim(&key, vec![read(&copy)]).await, ReconcileOutcome::Failed);
    // Nor does a claim that names it.
    let mut named = copy_of("x");
    named["spec"]["volumeName"] = json!("pvc-uid-before");
    let key = scene.claim(&named);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names(), [volume_of("before")]);
}

#[tokio::test]
async fn a_claim_may_name_a_recycled_volume() {
    let (mut scene, _) = recycled();
    let mut named = mine("data");
    named["spec"]["volumeName"] = json!("pvc-uid-before");
    let key = scene.claim(&named);
    let given = step("PATCH", FREE, MockResponse::Json(200, json!({}))).with(r#""uid":"uid-data""#);
    assert_eq!(scene.reconcile_claim(&key, vec![given]).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn a_claim_that_was_bound_without_its_content_gets_an_event() {
    let (mut scene, mut free) = recycled();
    let mut bound = copy_of("x");
    bound["spec"]["volumeName"] = json!("pvc-uid-before");
    let key = scene.claim(&bound);
    free["spec"]["claimRef"] =
        json!({ "namespace": "attacker", "name": "copy", "uid": "uid-copy" });
    free["status"]["phase"] = json!("Bound");
    scene.pv(&free);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    let events = scene.events();
    assert_eq!(events[0].reason, "DataSourceIgnored");
    assert!(events[0].message.contains("data source x"), "{}", events[0].message);
    // A true copy gets no warning.
    let (mut scene, _) = recycled();
    scene.made("copy", &[("berth.io/pv-uid", "pv-copy")]);
    let mut copy = claim("copy");
    copy["spec"] = bound["spec"].clone();
    copy["spec"]["volumeName"] = json!("pvc-uid-copy");
    let key = scene.claim(&copy);
    scene.pv(&pv("copy", "Bound", "delete"));
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_recycled_volume_that_was_given_and_is_free_again_is_given_again() {
    let (mut scene, _) = recycled();
    let waits = mine("data");
    let key = scene.claim(&waits);
    let steps = || vec![read(&waits), step("PATCH", FREE, MockResponse::Json(200, json!({})))];
    assert_eq!(scene.reconcile_claim(&key, steps()).await, ReconcileOutcome::Done);
    // The claim was removed from the PV again.
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(scene.reconcile_claim(&key, steps()).await, ReconcileOutcome::Done);
}
