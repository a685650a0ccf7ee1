//! Claims that get no volume, or not from this provisioner, and their events.

use super::*;

#[tokio::test]
async fn what_is_not_supported_gets_an_event_and_no_volume() {
    let check = |path: &'static str, value: serde_json::Value, word: &'static str| async move {
        let mut scene = scene();
        let mut bad = claim("data");
        *bad.pointer_mut("/spec").unwrap() = {
            let mut spec = bad["spec"].clone();
            spec[path] = value;
            spec
        };
        let key = scene.claim(&bad);
        assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
        let events = scene.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].reason, "ProvisioningFailed");
        assert!(events[0].message.contains(word), "{}", events[0].message);
        assert_eq!(scene.names().len(), 0);
    };
    check("volumeMode", json!("Block"), "does not support block volume provisioning").await;
    check("selector", json!({}), "selector is not supported").await;
    check("accessModes", json!(["ReadOnlyOncePod"]), "ReadOnlyOncePod").await;
    check("volumeAttributesClassName", json!("gold"), "volumeAttributesClassName \"gold\"").await;
    check("resources", json!({}), "requests no storage").await;
    check("resources", json!({ "requests": { "storage": "500m" } }), "500m").await;
    let snapshot = json!({ "kind": "VolumeSnapshot", "name": "s",
        "apiGroup": "snapshot.storage.k8s.io" });
    check("dataSource", snapshot.clone(), "VolumeSnapshot s").await;
    check("dataSourceRef", snapshot, "VolumeSnapshot s").await;
    let far = json!({ "kind": "PersistentVolumeClaim", "name": "c", "namespace": "far" });
    check("dataSourceRef", far, "far/c").await;
}

#[tokio::test]
async fn a_claim_that_a_populator_fills_is_left_alone() {
    let mut scene = scene();
    let mut filled = claim("data");
    let kind = "ReplicationDestination";
    filled["spec"]["dataSourceRef"] =
        json!({ "apiGroup": "volsync.backube", "kind": kind, "name": "backup" });
    // Its other fields concern the populator.
    filled["spec"]["volumeMode"] = json!("Block");
    let key = scene.claim(&filled);
    for told in [1, 0, 0] {
        assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
        let events = scene.events();
        assert_eq!(events.len(), told, "{events:?}");
        for event in events {
            assert_eq!((event.reason, event.event_type), ("WaitForPopulator", EventType::Normal));
            assert!(event.message.contains("ReplicationDestination backup"), "{}", event.message);
        }
    }
    assert_eq!(scene.names().len(), 0);
    // The populator binds it to a volume that was made for another claim: from then on it grows.
    let prime = scene.claim(&claim("prime"));
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/prime";
    let steps =
        vec![step("GET", path, MockResponse::Json(200, claim("prime"))), make(MockResponse::Echo)];
    scene.reconcile_claim(&prime, steps).await;
    let mut given = scene.pv_of("prime", "Bound", "delete");
    given["spec"]["claimRef"] = json!({ "namespace": "ns", "name": "data", "uid": "uid-data" });
    scene.pv(&given);
    filled["spec"]["volumeName"] = json!("pvc-uid-prime");
    filled["spec"]["resources"]["requests"]["storage"] = json!("32Mi");
    filled["status"] = json!({ "capacity": { "storage": "16Mi" } });
    scene.claim(&filled);
    let ok = || MockResponse::Json(200, json!({}));
    let (pv, status) = (format!("{PVS}/pvc-uid-prime"), format!("{CLAIM}/status"));
    let steps = vec![step("PATCH", &pv, ok()).with("32Mi"), step("PATCH", &status, ok())];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn read_write_once_pod_is_supported() {
    let mut scene = scene();
    let mut one = claim("data");
    one["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    let key = scene.claim(&one);
    let steps =
        vec![read(), make(MockResponse::Echo).with(r#""accessModes":["ReadWriteOncePod"]"#)];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn an_invalid_class_gets_an_event() {
    let check = |parameters, word: &'static str| async move {
        let mut scene = scene();
        scene.class("fast", parameters);
        let key = scene.claim(&claim("data"));
        assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
        let events = scene.events();
        assert!(events[0].message.contains(word), "{}", events[0].message);
    };
    check(json!({ "onDelet": "x" }), "onDelet").await;
    check(json!({ "mode": "999" }), "mode").await;
    check(json!({ "pathPattern": "../${.PVC.name}" }), "dot").await;
    check(json!({ "pathPattern": "${.PVC.labels.none}" }), "label none").await;
}

#[tokio::test]
async fn claims_that_are_not_ours_are_not_even_read() {
    let check = |change: fn(&mut serde_json::Value)| async move {
        let mut scene = scene();
        let mut other = claim("data");
        change(&mut other);
        let key = scene.claim(&other);
        assert_eq!(scene.reconcile_claim(&key, vec![]).await, ReconcileOutcome::Done);
        assert_eq!(scene.reasons(), [""; 0]);
    };
    check(|claim| claim["metadata"]["annotations"] = json!({})).await;
    check(|claim| {
        let new = "volume.kubernetes.io/storage-provisioner";
        claim["metadata"]["annotations"][new] = json!("other");
    })
    .await;
    check(|claim| claim["spec"]["storageClassName"] = json!("")).await;
    check(|claim| claim["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z")).await;
}

#[tokio::test]
async fn the_older_annotations_count_too() {
    let mut scene = scene();
    let mut old = claim("data");
    old["metadata"]["annotations"] = json!({
        "volume.beta.kubernetes.io/storage-provisioner": super::super::support::OURS,
        "volume.beta.kubernetes.io/storage-class": "fast",
    });
    old["spec"]["storageClassName"] = json!("another");
    let key = scene.claim(&old);
    let steps = vec![step("GET", CLAIM, MockResponse::Json(200, old)), make(MockResponse::Echo)];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
}

#[tokio::test]
async fn two_claims_never_share_a_directory() {
    let mut scene = scene();
    scene.class("fast", json!({ "pathPattern": "shared" }));
    let (first, second) = (scene.claim(&claim("data")), scene.claim(&claim("more")));
    scene.reconcile_claim(&first, vec![read(), make(MockResponse::Echo)]).await;
    let more = "/api/v1/namespaces/ns/persistentvolumeclaims/more";
    let steps = vec![step("GET", more, MockResponse::Json(200, claim("more")))];
    assert_eq!(scene.reconcile_claim(&second, steps).await, ReconcileOutcome::Failed);
    let events = scene.events();
    let last = events.last().unwrap();
    assert!(last.message.contains("the claim ns/data"), "{}", last.message);
    assert!(!last.message.contains("uid-"), "{}", last.message);
    // Deleting the second does not touch the volume of the first.
    scene.claim_gone(&claim("more"));
    assert_eq!(scene.reconcile_claim(&second, vec![]).await, ReconcileOutcome::Done);
    assert_eq!(scene.names(), ["shared"]);
}

#[test]
fn what_claims_say_is_cut_before_it_is_logged() {
    let mut long = claim("data");
    let kind = "ü".repeat(100_000);
    long["spec"]["dataSourceRef"] = json!({ "apiGroup": "x.y", "kind": kind, "name": "n" });
    let long = serde_json::from_value(long).unwrap();
    let Ok(DataSource::Foreign(shown)) = DataSource::of(&long) else { panic!("{long:?}") };
    assert!(shown.len() <= 300, "{}", shown.len());
    assert!(Error::Waiting(kind).logged().len() <= 2048);
}

#[tokio::test]
async fn events_contain_no_path_of_the_server() {
    let mut scene = scene();
    // A foreign directory has the volume's path.
    let place = scene.dir.path().join(volume_of("data"));
    std::fs::create_dir(&place).unwrap();
    let key = scene.claim(&claim("data"));
    assert_eq!(scene.reconcile_claim(&key, vec![read()]).await, ReconcileOutcome::Failed);
    let events = scene.events();
    let message = &events.last().unwrap().message;
    let dir = scene.dir.path().to_str().unwrap();
    assert!(message.contains("something else is on the server"), "{message}");
    assert!(!message.contains(dir), "{message}");
}

#[tokio::test]
async fn a_collision_names_the_other_volume() {
    let mut scene = scene();
    let looked = |name: &'static str| {
        let path = format!("/api/v1/namespaces/ns/persistentvolumeclaims/{name}");
        step("GET", &path, MockResponse::Json(200, claim(name)))
    };
    let root = scene.dir.path().to_string_lossy().into_owned();
    let check = async |scene: &mut Scene, name: &'static str, pattern: &str, word: &str| {
        scene.class("fast", json!({ "pathPattern": pattern }));
        let key = scene.claim(&claim(name));
        assert_eq!(scene.reconcile_claim(&key, vec![looked(name)]).await, ReconcileOutcome::Failed);
        let message = scene.events().pop().unwrap().message;
        assert!(message.contains(word) && message.contains("pathPattern"), "{message}");
        assert!(!message.contains("uid-") && !message.contains(&root), "{message}");
    };
    scene.class("fast", json!({ "pathPattern": "team/${.PVC.name}" }));
    let key = scene.claim(&claim("data"));
    scene.reconcile_claim(&key, vec![read(), make(MockResponse::Echo)]).await;
    check(&mut scene, "same", "team/data", "the claim ns/data").await;
    check(&mut scene, "inside", "team/data/below", "the claim ns/data").await;
    check(&mut scene, "above", "team", "the claim ns/data").await;
    // The claim is gone, and its volume was retained.
    scene.claim_gone(&claim("data"));
    check(&mut scene, "later", "team/data", "the claim ns/data").await;
}
