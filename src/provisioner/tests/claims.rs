//! Claims: requests, volumes and events, whatever the API server responds.

mod refused;

use serde_json::json;

use super::support::{ExpectedRequest, MockResponse, Scene, claim, pv, refusal, step, volume_of};
use crate::provisioner::address::AddressSource;
use crate::provisioner::data_source::DataSource;
use crate::provisioner::error::Error;
use crate::provisioner::events::EventType;
use crate::provisioner::queue::ReconcileOutcome;
use crate::volume::VolumeOrigin;
use crate::volume::name::VolumeId;
use crate::volume::spec::{Spec, VolumePhase};

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";
const PVS: &str = "/api/v1/persistentvolumes";
const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";

/// A claim `data` of a class without parameters.
fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.class("fast", json!({}));
    scene
}

/// The claim is read again.
fn read() -> ExpectedRequest {
    step("GET", CLAIM, MockResponse::Json(200, claim("data")))
}

/// The PV is made.
fn make(answer: MockResponse) -> ExpectedRequest {
    step("POST", PVS, answer)
}

#[tokio::test]
async fn a_claim_gets_a_volume_and_a_pv() {
    let mut scene = scene();
    let key = scene.claim(&claim("data"));
    let saved = make(MockResponse::Echo)
        .with(r#""name":"pvc-uid-data""#)
        .with(r#""path":"/ns-data-pvc-uid-data/"#)
        .with("external-provisioner.volume.kubernetes.io/finalizer");
    assert_eq!(scene.reconcile_claim(&key, vec![read(), saved]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), ["Provisioning", "ProvisioningSucceeded"]);
    assert_eq!(scene.names(), [volume_of("data")]);
    // The view has the PV now: there are no more requests.
    scene.pv(&pv("data", "Bound", "delete"));
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), [""; 0]);
}

#[tokio::test]
async fn a_path_cannot_be_guessed_and_stays() {
    let mut scene = scene();
    scene.class("fast", json!({ "pathPattern": "${.PVC.namespace}-${.PVC.name}" }));
    let key = scene.claim(&claim("data"));
    let steps = vec![read(), make(refusal(500, "InternalError"))];
    scene.reconcile_claim(&key, steps).await;
    let name = scene.name("ns-data");
    let path = scene.volumes.show(&name).unwrap().path;
    let token = path.strip_prefix("/ns-data/").expect("the name comes first");
    assert_eq!(token.len(), 32);
    // The PV has the same path, whenever it is made.
    let saved = make(MockResponse::Echo).with(&format!(r#""path":"{path}""#));
    assert_eq!(scene.reconcile_claim(&key, vec![saved]).await, ReconcileOutcome::Done);
    assert!(scene.has("", "ns-data"), "the directory is as the pattern says");
    let events = scene.events();
    assert!(events.iter().all(|event| !event.message.contains(token)), "{events:?}");
    // Another claim has another token.
    let other = scene.claim(&claim("more"));
    let more = "/api/v1/namespaces/ns/persistentvolumeclaims/more";
    let steps =
        vec![step("GET", more, MockResponse::Json(200, claim("more"))), make(MockResponse::Echo)];
    scene.reconcile_claim(&other, steps).await;
    assert!(!scene.volumes.show(&scene.name("ns-more")).unwrap().path.ends_with(token));
}

#[tokio::test]
async fn a_volume_of_an_older_version_keeps_its_path() {
    let mut scene = scene();
    let id = VolumeId::new("uid-data").unwrap();
    let old = Spec::new(scene.name(&volume_of("data")), id, 16 << 20);
    scene.volumes.create(old, VolumeOrigin::Fresh).unwrap();
    let key = scene.claim(&claim("data"));
    let saved = make(MockResponse::Echo).with(r#""path":"/ns-data-pvc-uid-data""#);
    assert_eq!(scene.reconcile_claim(&key, vec![read(), saved]).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn an_existing_pv_is_a_success_if_it_is_ours() {
    let exists = || make(refusal(409, "AlreadyExists"));
    let there = |pv| step("GET", PV, MockResponse::Json(200, pv));
    let mut ours = scene();
    let key = ours.claim(&claim("data"));
    let steps = vec![read(), exists(), there(pv("data", "Bound", "delete"))];
    assert_eq!(ours.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(ours.reasons(), ["Provisioning", "ProvisioningSucceeded"]);

    let mut other = scene();
    let key = other.claim(&claim("data"));
    let mut foreign = pv("data", "Bound", "delete");
    foreign["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = json!("other");
    let steps = vec![read(), exists(), there(foreign)];
    assert_eq!(other.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
    assert_eq!(other.reasons(), ["Provisioning", "ProvisioningFailed"]);

    let mut leaving = scene();
    let key = leaving.claim(&claim("data"));
    let mut going = pv("data", "Released", "delete");
    going["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    let steps = vec![read(), exists(), there(going)];
    assert_eq!(leaving.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_api_server_responds_there_is_one_volume_in_the_end() {
    for trouble in [
        refusal(403, "Forbidden"),
        refusal(422, "Invalid"),
        refusal(429, "TooManyRequests"),
        refusal(500, "InternalError"),
        refusal(504, "Timeout"),
        MockResponse::Json(200, json!("nonsense")),
        MockResponse::Broken,
        MockResponse::Silence,
    ] {
        let mut scene = scene();
        let key = scene.claim(&claim("data"));
        let outcome = scene.reconcile_claim(&key, vec![read(), make(trouble)]).await;
        assert_eq!(outcome, ReconcileOutcome::Failed);
        assert_eq!(scene.names(), [volume_of("data")]);
        // It continues where it was: the claim is not read again, and no event is repeated.
        scene.reasons();
        let outcome = scene.reconcile_claim(&key, vec![make(MockResponse::Echo)]).await;
        assert_eq!(
            (outcome, scene.reasons()),
            (ReconcileOutcome::Done, vec!["ProvisioningSucceeded"])
        );
        assert_eq!(scene.names(), [volume_of("data")]);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_api_server_cause_no_events() {
    let check = |answer, expected: &'static [&'static str]| async move {
        let mut scene = scene();
        let key = scene.claim(&claim("data"));
        let outcome = scene.reconcile_claim(&key, vec![step("GET", CLAIM, answer)]).await;
        assert_eq!(outcome, ReconcileOutcome::Failed);
        assert_eq!((scene.reasons().as_slice(), scene.names().len()), (expected, 0));
    };
    check(refusal(500, "InternalError"), &[]).await;
    check(refusal(429, "TooManyRequests"), &[]).await;
    check(MockResponse::Broken, &[]).await;
    check(MockResponse::Silence, &[]).await;
    check(refusal(403, "Forbidden"), &["ProvisioningFailed"]).await;
}

#[tokio::test]
async fn nothing_is_made_for_a_claim_that_is_out_of_date() {
    let mut bound = claim("data");
    bound["spec"]["volumeName"] = json!("another");
    let mut namesake = claim("data");
    namesake["metadata"]["uid"] = json!("another");
    for answer in [
        refusal(404, "NotFound"),
        MockResponse::Json(200, bound),
        MockResponse::Json(200, namesake),
    ] {
        let mut scene = scene();
        let key = scene.claim(&claim("data"));
        let outcome = scene.reconcile_claim(&key, vec![step("GET", CLAIM, answer)]).await;
        assert_eq!(
            (outcome, scene.names().len(), scene.reasons().len()),
            (ReconcileOutcome::Done, 0, 0)
        );
    }
}

#[tokio::test]
async fn a_claim_that_is_deleted_half_way_leaves_nothing() {
    let mut scene = scene();
    let key = scene.claim(&claim("data"));
    let steps = vec![read(), make(refusal(500, "InternalError"))];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
    scene.claim_gone(&claim("data"));
    // Nothing is deleted until it is certain that the claim is gone and that there is no PV.
    let gone = || step("GET", CLAIM, refusal(404, "NotFound"));
    let unsure = vec![step("GET", CLAIM, refusal(500, "InternalError"))];
    assert_eq!(scene.reconcile_claim(&key, unsure).await, ReconcileOutcome::Failed);
    let unsure = vec![gone(), step("GET", PV, MockResponse::Broken)];
    assert_eq!(scene.reconcile_claim(&key, unsure).await, ReconcileOutcome::Failed);
    assert_eq!(scene.names().len(), 1);
    let steps = vec![gone(), step("GET", PV, refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn a_volume_whose_pv_was_saved_after_all_is_reclaimed_with_the_pv() {
    let mut scene = scene();
    let key = scene.claim(&claim("data"));
    scene.reconcile_claim(&key, vec![read(), make(MockResponse::Broken)]).await;
    scene.claim_gone(&claim("data"));
    let there = step("GET", PV, MockResponse::Json(200, pv("data", "Released", "delete")));
    let steps = vec![step("GET", CLAIM, refusal(404, "NotFound")), there];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names(), [volume_of("data")]);
}

#[tokio::test]
async fn a_clone_has_the_content_of_its_source() {
    let mut scene = scene();
    let source = scene.claim(&claim("source"));
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/source";
    let steps =
        vec![step("GET", path, MockResponse::Json(200, claim("source"))), make(MockResponse::Echo)];
    scene.reconcile_claim(&source, steps).await;
    scene.write(&volume_of("source"), "file");
    let mut copy = claim("data");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
    let key = scene.claim(&copy);
    let again = || step("GET", CLAIM, MockResponse::Json(200, claim("data")));
    // Its source is not bound yet.
    assert_eq!(scene.reconcile_claim(&key, vec![again()]).await, ReconcileOutcome::Failed);
    let mut bound = claim("source");
    bound["spec"]["volumeName"] = json!("pvc-uid-source");
    scene.claim(&bound);
    let held = scene.pv_of("source", "Bound", "delete");
    scene.pv(&held);
    scene.reasons();
    let going_on = scene.reconcile_claim(&key, vec![again()]).await;
    assert!(matches!(going_on, ReconcileOutcome::Again(_)), "{going_on:?}");
    let name = scene.name(&volume_of("data"));
    while scene.volumes.show(&name).unwrap().phase != VolumePhase::Ready {
        tokio::task::yield_now().await;
    }
    // The source is not needed any more.
    scene.claim_gone(&bound);
    let outcome = scene.reconcile_claim(&key, vec![make(MockResponse::Echo)]).await;
    assert_eq!(outcome, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_copy_is_cancelled_when_its_claim_is_deleted() {
    let mut scene = scene();
    scene.made("source", &[("berth.io/pv-uid", "pv-source")]);
    let mut bound = claim("source");
    bound["spec"]["volumeName"] = json!("pvc-uid-source");
    scene.claim(&bound);
    scene.pv(&pv("source", "Bound", "delete"));
    scene.volumes.hold_copies();
    let mut copy = claim("data");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
    let key = scene.claim(&copy);
    let outcome = scene.reconcile_claim(&key, vec![read()]).await;
    assert!(matches!(outcome, ReconcileOutcome::Again(_)), "{outcome:?}");
    scene.claim_gone(&copy);
    scene.reasons();
    let gone = || refusal(404, "NotFound");
    let steps = vec![step("GET", CLAIM, gone()), step("GET", PV, gone())];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!((scene.names(), scene.reasons()), (vec![volume_of("source")], vec![]));
}

#[tokio::test]
async fn a_claim_of_another_class_is_no_source() {
    let mut scene = scene();
    let mut source = claim("source");
    source["spec"]["storageClassName"] = json!("slow");
    scene.claim(&source);
    let mut copy = claim("data");
    copy["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
    let key = scene.claim(&copy);
    let steps = vec![step("GET", CLAIM, MockResponse::Json(200, copy))];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert!(scene.events().last().unwrap().message.contains("slow"));
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_failed_copy_is_counted_as_one_whichever_field_names_its_source() {
    for field in ["dataSource", "dataSourceRef"] {
        let mut scene = scene();
        let mut copy = claim("data");
        copy["spec"][field] = json!({ "kind": "PersistentVolumeClaim", "name": "source" });
        let key = scene.claim(&copy);
        let steps = vec![step("GET", CLAIM, MockResponse::Json(200, copy))];
        assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
        let counted = "provision_failed_total{class=\"fast\",source=\"PersistentVolumeClaim\"} 1";
        let metrics = scene.metrics();
        assert!(metrics.contains(counted), "{field}: {metrics}");
    }
}

#[tokio::test]
async fn a_service_without_an_address_is_waited_for() {
    let at = AddressSource::Service { namespace: "storage".into(), name: "nfs".into() };
    let mut scene = Scene::at(at);
    scene.class("fast", json!({}));
    let key = scene.claim(&claim("data"));
    let path = "/api/v1/namespaces/storage/services/nfs";
    let service = |spec| step("GET", path, MockResponse::Json(200, json!({ "spec": spec })));
    let missing = vec![step("GET", path, refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_claim(&key, missing).await, ReconcileOutcome::Failed);
    assert_eq!(
        scene.reconcile_claim(&key, vec![service(json!({}))]).await,
        ReconcileOutcome::Failed
    );
    assert!(scene.events()[1].message.contains("no cluster IP yet"));
    assert_eq!(scene.names().len(), 0);
    let ready = service(json!({ "clusterIP": "fd00::5", "ports": [{ "port": 2050 }] }));
    let saved = make(MockResponse::Echo).with(r#""server":"fd00::5""#).with("port=2050");
    let steps = vec![ready, read(), saved.with("proto=tcp6")];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn a_claim_that_has_grown_gets_more() {
    let mut scene = scene();
    let key = scene.claim(&claim("data"));
    scene.reconcile_claim(&key, vec![read(), make(MockResponse::Echo)]).await;
    scene.reasons();
    let mut grown = claim("data");
    grown["spec"]["volumeName"] = json!("pvc-uid-data");
    grown["spec"]["resources"]["requests"]["storage"] = json!("32Mi");
    grown["status"] = json!({ "capacity": { "storage": "16Mi" } });
    let key = scene.claim(&grown);
    let held = scene.pv_of("data", "Bound", "delete");
    scene.pv(&held);
    let patch_pv = |answer| step("PATCH", PV, answer).with("32Mi").with(r#""resourceVersion":"7""#);
    let status = format!("{CLAIM}/status");
    let patch_status = |answer| step("PATCH", &status, answer).with("32Mi");
    let ok = || MockResponse::Json(200, json!({}));
    // A conflict: reconciled again, without an event.
    let outcome = scene.reconcile_claim(&key, vec![patch_pv(refusal(409, "Conflict"))]).await;
    assert_eq!(outcome, ReconcileOutcome::Stale);
    let steps = vec![patch_pv(ok()), patch_status(refusal(500, "InternalError"))];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Failed);
    assert_eq!(scene.reasons(), [""; 0]);
    let steps = vec![patch_pv(ok()), patch_status(ok())];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), ["VolumeExpanded"]);
    let name = scene.name(&volume_of("data"));
    assert_eq!(scene.volumes.show(&name).unwrap().spec.capacity, 32 << 20);
    // More than the disk has: an event, and nothing changes.
    grown["spec"]["resources"]["requests"]["storage"] = json!("9Ei");
    let key = scene.claim(&grown);
    assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Failed);
    assert_eq!(scene.reasons(), ["VolumeResizeFailed"]);
    assert_eq!(scene.volumes.show(&name).unwrap().spec.capacity, 32 << 20);
}
