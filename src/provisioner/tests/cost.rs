//! The cost of many objects, counted in objects read, requests and events.

use serde_json::{Value, json};

use super::support::{MockResponse, Scene, claim, pv, refusal, step, volume_of};
use crate::provisioner::address::AddressSource;
use crate::provisioner::queue::ReconcileOutcome;

/// Enough to tell linear cost from quadratic cost.
const MANY: usize = 150;

/// PVs that were restored from a backup, so that other PVs hold their volumes by the records.
fn restored(scene: &mut Scene, phase: &str) {
    for n in 0..MANY {
        let name = format!("data{n}");
        scene.made(&name, &[("berth.io/pv-uid", &format!("before-{n}"))]);
        scene.pv(&pv(&name, phase, "delete"));
        let mut other = claim(&format!("other{n}"));
        other["spec"]["volumeName"] = json!(format!("elsewhere-{n}"));
        scene.claim(&other);
    }
}

fn objects_read(scene: &Scene) -> usize {
    scene.cx.cluster.returned()
}

#[tokio::test]
async fn the_search_for_orphans_reads_each_object_a_few_times() {
    for phase in ["Bound", "Released"] {
        let mut scene = Scene::new();
        restored(&mut scene, phase);
        let before = objects_read(&scene);
        scene.search_orphans(vec![]).await;
        let cost = objects_read(&scene) - before;
        assert!(cost <= 8 * MANY, "{phase}: {cost}");
    }
}

#[tokio::test]
async fn reconciling_a_pv_does_not_read_all_others() {
    let mut scene = Scene::new();
    restored(&mut scene, "Released");
    let key = scene.pv(&pv("data0", "Released", "delete"));
    let before = objects_read(&scene);
    let later = scene.reconcile_pv(&key, vec![]).await;
    assert!(matches!(later, ReconcileOutcome::Again(_)), "{later:?}");
    // A PV that holds its volume, which is reclaimed.
    let mut scene = Scene::new();
    restored(&mut scene, "Released");
    scene.made("data", &[("berth.io/pv-uid", "pv-data")]);
    let ends = pv("data", "Released", "delete");
    let key = scene.pv(&ends);
    let steps = vec![
        step("GET", "/api/v1/namespaces/ns/persistentvolumeclaims/data", refusal(404, "NotFound")),
        step("PATCH", "/api/v1/persistentvolumes/pvc-uid-data", MockResponse::Json(200, ends)),
        step("DELETE", "/api/v1/persistentvolumes/pvc-uid-data", refusal(404, "NotFound")),
    ];
    assert_eq!(scene.reconcile_pv(&key, steps).await, ReconcileOutcome::Done);
    // A claim that waits, without a recycled volume.
    scene.class("fast", json!({}));
    let waits = claim("waits");
    let key = scene.claim(&waits);
    let steps = vec![
        step(
            "GET",
            "/api/v1/namespaces/ns/persistentvolumeclaims/waits",
            MockResponse::Json(200, waits),
        ),
        step("POST", "/api/v1/persistentvolumes", MockResponse::Echo),
    ];
    assert_eq!(scene.reconcile_claim(&key, steps).await, ReconcileOutcome::Done);
    let cost = objects_read(&scene) - before;
    assert!(cost < 20, "{cost}");
}

/// A PV that does not hold its volume, and the claim that names it.
fn disowned() -> (Scene, Value) {
    let mut scene = Scene::new();
    scene.made("data", &[("berth.io/pv-uid", "before")]);
    let mut user = claim("data");
    user["spec"]["volumeName"] = json!("pvc-uid-data");
    scene.claim(&user);
    (scene, pv("data", "Released", "delete"))
}

#[tokio::test]
async fn why_a_volume_is_kept_is_reported_once_and_again_after_a_resync() {
    let (mut scene, kept) = disowned();
    let key = scene.pv(&kept);
    for told in [2, 0, 0] {
        scene.reconcile_pv(&key, vec![]).await;
        assert_eq!(scene.reasons().len(), told);
    }
    scene.orphans.report_again();
    scene.cx.events.record_again();
    scene.reconcile_pv(&key, vec![]).await;
    assert_eq!(scene.reasons(), ["VolumeKept"; 2]);
    // Another reason is a new event.
    let name = scene.name(&volume_of("data"));
    let id = scene.volumes.show(&name).unwrap().spec.id;
    let holds = [("berth.io/pv-uid", Some("pv-data")), ("berth.io/claim-uid", Some("another"))];
    scene.volumes.set_labels(&name, &id, &holds).unwrap();
    scene.reconcile_pv(&key, vec![]).await;
    assert_eq!(scene.reasons(), ["VolumeKept"; 2]);
    scene.reconcile_pv(&key, vec![]).await;
    assert_eq!(scene.reasons(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_asked_for_the_address_once_for_all_pvs() {
    let (namespace, name) = ("berth".into(), "nfs".into());
    let mut scene = Scene::at(AddressSource::Service { namespace, name });
    for n in 0..MANY {
        let mut old = pv(&format!("data{n}"), "Bound", "delete");
        old["metadata"]["annotations"]["berth.io/server"] = json!("another");
        scene.pv(&old);
    }
    let silent = step("GET", "/api/v1/namespaces/berth/services/nfs", MockResponse::Silence);
    scene.search_orphans(vec![silent]).await;
    // The same for many requests at a time.
    let cx = scene.cx.clone();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    let all = async move {
        let ask = (0..MANY).map(|_| cx.address.last_known(&cx.client));
        futures_util::future::join_all(ask).await
    };
    let silent = step("GET", "/api/v1/namespaces/berth/services/nfs", MockResponse::Silence);
    assert!(scene.talk(all, vec![silent]).await.iter().all(Option::is_none));
}
