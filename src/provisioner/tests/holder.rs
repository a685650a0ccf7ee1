//! Who uses a volume, as the cluster knows it, or by the labels of the volume.

use serde_json::{Value, json};

use super::support::{Scene, claim, pv};
use crate::provisioner::holder;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::Spec;

fn volume() -> Spec {
    let id = VolumeId::new("uid-data").unwrap();
    let mut spec = Spec::new(VolumeName::new("a").unwrap(), id, 1);
    spec.labels.insert("berth.io/pv-uid".into(), "pv-data".into());
    spec
}

fn held(scene: &Scene, spec: &Spec) -> String {
    holder::find(&scene.cx.cluster, spec).unwrap_or_default()
}

#[tokio::test]
async fn a_volume_is_held_as_long_as_a_claim_has_its_pv() {
    let check = |phase: &str, change: fn(&mut Value), expected: &str| {
        let mut scene = Scene::new();
        let mut pv = pv("data", phase, "delete");
        change(&mut pv);
        scene.pv(&pv);
        let found = held(&scene, &volume());
        let fits = if expected.is_empty() { found.is_empty() } else { found.contains(expected) };
        assert!(fits, "{phase}: {found}");
    };
    let same = |_: &mut Value| {};
    check("Bound", same, "the claim ns/data (kubectl -n ns delete pvc data)");
    check("Pending", same, "the claim ns/data");
    check("Released", same, "");
    check("Failed", same, "");
    let free = |pv: &mut Value| pv["spec"]["claimRef"] = json!(null);
    check("Available", free, "PersistentVolume pvc-uid-data");
    // The record counts, and not what can be patched.
    let silent = |pv: &mut Value| pv["metadata"]["annotations"] = json!({});
    check("Bound", silent, "the claim ns/data");
    let another = |pv: &mut Value| pv["metadata"]["uid"] = json!("another");
    check("Bound", another, "");
    // A PV made by hand that is not in the record: it names the volume and points to it.
    let by_hand = |pv: &mut Value| {
        pv["metadata"]["uid"] = json!("another");
        pv["metadata"]["annotations"] = json!({ "berth.io/volume-id": "uid-data" });
        pv["spec"]["nfs"]["path"] = json!("/a");
    };
    check("Bound", by_hand, "the claim ns/data");
    // A PV that only points to the volume, or below.
    for path in ["/a", "/a/", "//a/b"] {
        let mut scene = Scene::new();
        let mut other = pv("data", "Bound", "delete");
        other["metadata"]["uid"] = json!("another");
        other["metadata"]["annotations"] = json!({});
        other["spec"]["nfs"]["path"] = json!(path);
        scene.pv(&other);
        assert!(held(&scene, &volume()).contains("the claim ns/data"), "{path}");
        // Another PV that is released changes nothing.
        let mut released = pv("data", "Released", "delete");
        released["metadata"]["name"] = json!("released");
        scene.pv(&released);
        assert!(held(&scene, &volume()).contains("the claim ns/data"), "{path}");
    }
    let elsewhere = |pv: &mut Value| {
        pv["metadata"]["uid"] = json!("another");
        pv["spec"]["nfs"]["path"] = json!("/ab");
    };
    check("Bound", elsewhere, "");
}

#[tokio::test]
async fn a_claim_that_waits_for_its_pv_has_the_volume() {
    let mut scene = Scene::new();
    assert_eq!(held(&scene, &volume()), "");
    scene.claim(&claim("data"));
    assert!(held(&scene, &volume()).contains("the claim ns/data"));
    scene.claim_gone(&claim("data"));
    assert_eq!(held(&scene, &volume()), "");
}

#[test]
fn without_a_cluster_the_labels_count() {
    let check = |labels: &[(&str, &str)], expected: &str| {
        let mut spec = volume();
        let own = |(k, v): &(&str, &str)| (k.to_string(), v.to_string());
        spec.labels = labels.iter().map(own).collect();
        let found = holder::by_labels(&spec).unwrap_or_default();
        assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{found}");
    };
    let (namespace, claim) = (("berth.io/claim-namespace", "ns"), ("berth.io/claim", "ns/data"));
    check(&[("team", "blue")], "");
    check(&[namespace], "a claim of the namespace ns");
    check(&[namespace, claim], "the claim ns/data");
    check(&[namespace, ("berth.io/pv-uid", "p")], "a PersistentVolume that is free");
}
