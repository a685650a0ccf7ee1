//! PVs without a claim: requests, and what happens to the data, whatever the API server responds.

use serde_json::{Value, json};

use super::support::{ExpectedRequest, MockResponse, Scene, claim, pv, refusal, step, volume_of};
use crate::provisioner::queue::ReconcileOutcome;

const PV: &str = "/api/v1/persistentvolumes/pvc-uid-data";
const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";

/// A volume with a file, held by the PV of the claim `data`, which is gone.
fn scene() -> Scene {
    held_by("pv-data")
}

/// The same, held by the PV with this uid.
fn held_by(uid: &str) -> Scene {
    let scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", uid)]);
    scene.write(&volume_of("data"), "file");
    scene
}

/// When a PV that does not hold its volume is reconciled again.
const LATER: ReconcileOutcome = ReconcileOutcome::Again(std::time::Duration::from_secs(60));

/// Before anything is done, the claim is read: it is gone.
fn gone() -> ExpectedRequest {
    step("GET", CLAIM, refusal(404, "NotFound"))
}

/// The PV with the record of its reclaim.
fn recorded(on_delete: &str) -> Value {
    let mut pv = pv("data", "Released", on_delete);
    pv["metadata"]["annotations"]["berth.io/ending"] = json!("uid-data");
    pv["metadata"]["resourceVersion"] = json!("8");
    pv
}

fn record(on_delete: &str) -> ExpectedRequest {
    let step = step("PATCH", PV, MockResponse::Json(200, recorded(on_delete)));
    step.with("berth.io/ending").with(r#""resourceVersion":"7""#)
}

fn delete(answer: MockResponse) -> ExpectedRequest {
    step("DELETE", PV, answer)
}

/// Our finalizer is removed from the PV.
fn let_go(answer: MockResponse) -> ExpectedRequest {
    step("PATCH", PV, answer).with(r#""finalizers":[]"#)
}

fn ok() -> MockResponse {
    MockResponse::Json(200, json!({}))
}

#[tokio::test]
async fn delete_takes_the_data_then_the_pv() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "delete"));
    let left = MockResponse::Json(200, recorded("delete"));
    let steps =
        vec![gone(), record("delete"), delete(left).with(r#""uid":"pv-data""#), let_go(ok())];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn archive_keeps_the_data_beside() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "archive"));
    let left = MockResponse::Json(200, recorded("archive"));
    let steps = vec![gone(), record("archive"), delete(left), let_go(refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    let events = scene.events();
    assert_eq!(events[0].reason, "VolumeArchived");
    let archived = std::fs::read_dir(scene.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let archived = archived.filter(|path| path.join("file").exists()).count();
    assert_eq!((scene.names().len(), archived), (0, 1));
}

#[tokio::test]
async fn retain_keeps_the_volume() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "retain"));
    let steps = vec![gone(), record("retain"), delete(refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(scene.reasons(), ["VolumeRetained"]);
}

#[tokio::test]
async fn recycle_empties_the_volume_and_frees_the_pv() {
    let mut scene = scene();
    let key = scene.pv(&pv("data", "Released", "recycle"));
    let free = step("PATCH", PV, ok()).with(r#""claimRef":null"#).with(r#""resourceVersion":"8""#);
    let free = free.with("volume.beta.kubernetes.io/storage-class").with("berth.io/recycled-");
    assert_eq!(
        scene.reconcile_pv(&key, vec![gone(), record("recycle"), free]).await,
        ReconcileOutcome::Done
    );
    assert_eq!(scene.reasons(), ["VolumeRecycled"]);
    assert_eq!(scene.names(), [volume_of("data")]);
    assert!(!scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn the_next_claim_of_a_recycled_pv_loses_nothing() {
    // The response to the last step got lost, and the view is out of date: the PV has its next
    // claim already, and a file of it.
    let mut scene = scene();
    let key = scene.pv(&recorded("recycle"));
    let mut next = pv("data", "Bound", "recycle");
    next["spec"]["claimRef"] = json!({ "namespace": "ns", "name": "next", "uid": "uid-next" });
    let steps = vec![gone(), step("GET", PV, MockResponse::Json(200, next))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_pv_that_changed_since_it_was_looked_at_loses_nothing() {
    for on_delete in ["delete", "archive", "recycle"] {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", on_delete));
        let steps = vec![gone(), step("PATCH", PV, refusal(409, "Conflict"))];
        let outcome = scene.reconcile_pv(&key, steps).await;
        assert_eq!(outcome, ReconcileOutcome::Stale);
        assert!(scene.has(&volume_of("data"), "file"));
        assert_eq!(scene.reasons(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_api_server_responds_the_volume_is_reclaimed_in_the_end() {
    let codes = [refusal(429, "TooManyRequests"), refusal(500, "Internal")];
    for trouble in codes.into_iter().chain([MockResponse::Broken, MockResponse::Silence]) {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", "delete"));
        let steps = vec![gone(), record("delete"), delete(trouble)];
        assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Failed);
        assert_eq!(scene.reasons(), [""; 0]);
        // The volume is gone, which is a success, because the record says that Berth removed it.
        let key = scene.pv(&recorded("delete"));
        let left = MockResponse::Json(200, recorded("delete"));
        let steps = vec![delete(left), let_go(ok())];
        assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    }
}

#[tokio::test]
async fn nothing_is_removed_before_the_record() {
    for trouble in [refusal(403, "Forbidden"), refusal(500, "Internal"), MockResponse::Broken] {
        let mut scene = scene();
        let key = scene.pv(&pv("data", "Released", "delete"));
        let outcome = scene.reconcile_pv(&key, vec![gone(), step("PATCH", PV, trouble)]).await;
        assert_eq!(outcome, ReconcileOutcome::Failed);
        assert!(scene.has(&volume_of("data"), "file"));
    }
}

#[tokio::test]
async fn a_volume_that_never_existed_is_no_success() {
    let mut scene = Scene::new();
    let key = scene.pv(&pv("data", "Released", "delete"));
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Failed);
    let events = scene.events();
    assert_eq!(events[0].reason, "VolumeFailedDelete");
    assert!(events[0].message.contains("is it the right one"), "{}", events[0].message);
}

/// PVs that point to the volume of `data`, or claim to, and do not hold it.
fn forgeries() -> Vec<Value> {
    let other = |change: &dyn Fn(&mut Value)| {
        let mut forged = pv("data", "Released", "delete");
        forged["metadata"]["uid"] = json!("pv-forged");
        forged["spec"]["claimRef"] = json!({ "namespace": "x", "name": "y", "uid": "uid-y" });
        change(&mut forged);
        forged
    };
    let named = |forged: &mut Value| forged["metadata"]["name"] = json!("forged");
    vec![
        other(&|_| ()),
        other(&named),
        // All annotations, and another path.
        other(&|forged| {
            named(forged);
            forged["spec"]["nfs"]["path"] = json!("/of-mine");
        }),
        other(&|forged| forged["metadata"]["annotations"]["berth.io/ending"] = json!("uid-y")),
    ]
}

#[tokio::test]
async fn a_pv_that_names_the_volume_of_another_reclaims_nothing() {
    for forged in forgeries() {
        let mut scene = scene();
        scene.pv(&pv("data", "Bound", "delete"));
        let key = scene.pv(&forged);
        // A forged record of a reclaim can only get the PV itself deleted.
        let steps = vec![];
        let _ = scene.reconcile_pv(&key, steps).await;
        assert!(scene.has(&volume_of("data"), "file"), "{forged}");
        assert!(scene.reasons().iter().all(|reason| *reason != "VolumeRecycled"));
    }
}

#[tokio::test]
async fn a_restored_pv_reclaims_nothing_until_it_is_bound_again() {
    let mut scene = held_by("pv-before-the-restore");
    let restored = pv("data", "Released", "delete");
    let key = scene.pv(&restored);
    let mut user = claim("data");
    user["metadata"]["uid"] = json!("uid-new");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    let user_key = scene.claim(&user);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, LATER);
    // Events of the PV and of the claim say what to do.
    let events = scene.events();
    assert_eq!(events.iter().map(|n| n.reason).collect::<Vec<_>>(), ["VolumeKept", "VolumeKept"]);
    assert!(
        events.iter().all(|n| n.message.contains("kubectl patch pv pvc-uid-data")),
        "{events:?}"
    );
    // The same without the claim, and without another event.
    scene.claim_gone(&user);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, LATER);
    assert_eq!(scene.reasons(), [""; 0]);
    assert!(scene.has(&volume_of("data"), "file"));
    // The PV can be deleted, and the volume stays.
    let mut leaving = restored.clone();
    leaving["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    let key = scene.pv(&leaving);
    assert_eq!(scene.reconcile_pv(&key, vec![let_go(ok())]).await, LATER);
    assert!(scene.has(&volume_of("data"), "file"));

    // Once it is bound to the claim, it holds the volume, which is reclaimed with the claim.
    let mut bound = restored.clone();
    bound["status"]["phase"] = json!("Bound");
    bound["spec"]["claimRef"]["uid"] = json!("uid-new");
    scene.claim(&user);
    let key = scene.pv(&bound);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reconcile_claim(&user_key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/pv-uid"), "pv-data");
    assert_eq!(scene.label(&volume_of("data"), "berth.io/claim-uid"), "uid-new");
    scene.claim_gone(&user);
    bound["status"]["phase"] = json!("Released");
    let key = scene.pv(&bound);
    let record = step("PATCH", PV, MockResponse::Json(200, bound.clone())).with("uid-new");
    let steps = vec![gone(), record, delete(refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_claim_that_names_the_pv_keeps_its_volume() {
    let mut user = claim("data");
    user["metadata"]["uid"] = json!("uid-restored");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    let mut renamed = user.clone();
    renamed["metadata"]["name"] = json!("renamed");
    for (known, user) in [(true, user.clone()), (true, renamed), (false, user)] {
        let mut scene = scene();
        let mut steps = Vec::new();
        if known {
            scene.claim(&user);
        } else {
            steps.push(step("GET", CLAIM, MockResponse::Json(200, user)));
        }
        let key = scene.pv(&pv("data", "Released", "delete"));
        assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
        let events = scene.events();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(events[0].message.contains("kubectl patch pv pvc-uid-data"), "{events:?}");
        assert!(scene.has(&volume_of("data"), "file"));
    }
}

#[tokio::test]
async fn a_claim_of_another_namespace_keeps_nothing() {
    let mut scene = scene();
    let mut other = claim("data");
    other["metadata"]["namespace"] = json!("elsewhere");
    other["metadata"]["uid"] = json!("uid-elsewhere");
    other["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&other);
    let key = scene.pv(&pv("data", "Released", "delete"));
    let steps = vec![gone(), record("delete"), delete(refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
}

#[tokio::test]
async fn a_pv_with_a_changed_claim_ref_reclaims_nothing() {
    // The PV is patched to name a claim that does not exist.
    let mut scene = scene();
    let mut user = claim("data");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&user);
    let mut changed = pv("data", "Released", "delete");
    changed["spec"]["claimRef"] = json!({ "namespace": "x", "name": "y", "uid": "uid-y" });
    let key = scene.pv(&changed);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, LATER);
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(scene.reasons(), ["VolumeKept"]);
    // The volume does not become that of the claim that is named instead, either.
    let mut thief = claim("y");
    thief["metadata"]["namespace"] = json!("x");
    thief["spec"]["volumeName"] = json!("pvc-uid-data");
    let thief_key = scene.claim(&thief);
    changed["status"]["phase"] = json!("Bound");
    let key = scene.pv(&changed);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reconcile_claim(&thief_key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/claim-uid"), "uid-data");
}

#[tokio::test]
async fn the_pv_of_another_server_is_left_alone() {
    let mut scene = Scene::new();
    let mut other = pv("data", "Released", "delete");
    other["metadata"]["annotations"]["berth.io/server"] = json!("another");
    other["spec"]["nfs"]["server"] = json!("10.0.0.2");
    let key = scene.pv(&other);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), [""; 0]);
    // It has our address: this server was started with another directory.
    other["spec"]["nfs"]["server"] = json!("10.0.0.1");
    let key = scene.pv(&other);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Failed);
    assert_eq!(scene.reasons(), ["VolumeFailedDelete"]);
}

#[tokio::test]
async fn what_was_bound_is_recorded() {
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let mut user = claim("data");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    let key = scene.pv(&pv("data", "Bound", "delete"));
    // This server saved it: recorded before the claim is seen to be bound.
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/pv-uid"), "pv-data");
    scene.claim(&user);
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.label(&volume_of("data"), "berth.io/claim-uid"), "uid-data");
}

#[tokio::test]
async fn a_pv_that_was_never_bound_reclaims_what_was_never_used() {
    // The process died before it recorded that the PV was saved; the claim was deleted meanwhile.
    let mut scene = Scene::new();
    scene.made("data", &[]);
    let key = scene.pv(&pv("data", "Released", "delete"));
    let steps = vec![gone(), record("delete"), delete(refusal(404, "NotFound"))];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.names().len(), 0);
    // But not if the volume has content.
    let mut scene = Scene::new();
    scene.made("data", &[]);
    scene.write(&volume_of("data"), "file");
    let key = scene.pv(&pv("data", "Released", "delete"));
    assert_eq!(scene.reconcile_pv(&key, vec![]).await, LATER);
    assert_eq!(scene.reasons(), ["VolumeKept"]);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_claim_that_is_seen_to_use_the_pv_keeps_it() {
    let mut scene = scene();
    let mut user = claim("data");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&user);
    let key = scene.pv(&pv("data", "Released", "delete"));
    let outcome = scene.reconcile_pv(&key, vec![]).await;
    assert_eq!(outcome, ReconcileOutcome::Stale);
    assert!(scene.has(&volume_of("data"), "file"));
    assert_eq!(scene.reasons(), [""; 0]);
}

#[tokio::test]
async fn retained_pvs_only_lose_the_finalizer() {
    let mut scene = scene();
    let mut kept = pv("data", "Released", "delete");
    kept["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    let key = scene.pv(&kept);
    assert_eq!(scene.reconcile_pv(&key, vec![let_go(ok())]).await, ReconcileOutcome::Done);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn recycling_is_taken_over_from_the_cluster() {
    let mut scene = scene();
    let mut patched = pv("data", "Bound", "delete");
    patched["spec"]["persistentVolumeReclaimPolicy"] = json!("Recycle");
    let key = scene.pv(&patched);
    let steps = vec![
        step("PATCH", PV, ok())
            .with(r#""persistentVolumeReclaimPolicy":"Delete""#)
            .with(r#""berth.io/on-delete":"recycle""#),
    ];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    assert_eq!(scene.reasons(), ["VolumeRecycleTakenOver"]);
    assert!(scene.has(&volume_of("data"), "file"));
}

#[tokio::test]
async fn a_pv_that_is_deleted_first_is_reclaimed_too() {
    // A recycled volume without a PV would never be used again.
    for on_delete in ["delete", "recycle"] {
        let mut scene = scene();
        let leaving = |mut pv: Value| {
            pv["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            pv
        };
        let key = scene.pv(&leaving(pv("data", "Released", on_delete)));
        let recorded = || MockResponse::Json(200, leaving(recorded(on_delete)));
        let record = step("PATCH", PV, recorded()).with("berth.io/ending");
        let steps = vec![gone(), record, delete(recorded()), let_go(ok())];
        assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
        assert_eq!(scene.names().len(), 0);
    }
}

#[tokio::test]
async fn a_pv_that_names_another_claim_than_the_record_reclaims_nothing() {
    // The cluster was restored to a time before the volume was recycled and given to its next
    // claim, or the claimRef was patched.
    let other_claim = |changed: &mut Value| changed["spec"]["claimRef"]["uid"] = json!("before");
    let no_claim = |changed: &mut Value| {
        changed["spec"]["claimRef"] = Value::Null;
        changed["status"]["phase"] = json!("Available");
    };
    for (change, leaves) in
        [(&other_claim as &dyn Fn(&mut Value), false), (&other_claim, true), (&no_claim, true)]
    {
        let mut scene = scene();
        let mut changed = pv("data", "Released", "delete");
        change(&mut changed);
        if leaves {
            changed["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        let key = scene.pv(&changed);
        let steps = if leaves { vec![let_go(ok())] } else { vec![] };
        assert_eq!(scene.reconcile_pv(&key, steps).await, LATER);
        let events = scene.events();
        assert_eq!(events[0].reason, "VolumeKept");
        assert!(events[0].message.contains("ns/data"), "{events:?}");
        assert!(scene.has(&volume_of("data"), "file"));
    }
}

#[tokio::test]
async fn a_volume_that_is_used_through_another_pv_is_kept() {
    let other = |path: &str, phase: &str, server: Option<&str>| {
        let mut other = pv("other", phase, "delete");
        other["spec"]["nfs"] = json!({ "server": "berth.example.org", "path": path });
        other["metadata"]["annotations"] = json!({});
        if let Some(server) = server {
            other["metadata"]["annotations"]["berth.io/server"] = json!(server);
        }
        other
    };
    let (at, below) = (format!("/{}", volume_of("data")), format!("/{}/x", volume_of("data")));
    for path in [&at, &below] {
        let mut scene = scene();
        scene.pv(&other(path, "Bound", None));
        let key = scene.pv(&pv("data", "Released", "delete"));
        assert_eq!(scene.reconcile_pv(&key, vec![]).await, LATER);
        let events = scene.events();
        assert_eq!(events[0].reason, "VolumeKept");
        assert!(events[0].message.contains("pvc-uid-other"), "{events:?}");
        assert!(scene.has(&volume_of("data"), "file"));
    }
    let others = [
        other(&at, "Released", None),
        other("/another", "Bound", None),
        other(&at, "Bound", Some("another")),
    ];
    for other in others {
        let mut scene = scene();
        scene.pv(&other);
        let key = scene.pv(&pv("data", "Released", "delete"));
        let steps = vec![gone(), record("delete"), delete(refusal(404, "NotFound"))];
        assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
        assert_eq!(scene.names().len(), 0);
    }
}
