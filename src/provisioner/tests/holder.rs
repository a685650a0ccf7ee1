//! Who has a volume, as the cluster knows it, or as its labels say.

use serde_json::{Value, json};

use super::support::{Scene, claim, pv};
use crate::provisioner::holder;
use crate::volume::name::{Name, VolumeId};
use crate::volume::spec::Spec;

fn volume() -> Spec {
    let id = VolumeId::new("uid-data").unwrap();
    Spec::new(Name::new("a").unwrap(), id, 1)
}

fn held(scene: &Scene) -> String {
    holder::of(&scene.cx.stores, &volume()).unwrap_or_default()
}

#[tokio::test]
async fn a_volume_is_held_as_long_as_a_claim_has_its_pv() {
    let check = |phase: &str, change: fn(&mut Value), expected: &str| {
        let mut scene = Scene::new();
        let mut pv = pv("data", phase, "delete");
        change(&mut pv);
        scene.pv(&pv);
        let found = held(&scene);
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
    // Made by hand: nobody says who provisioned it.
    let by_hand = |pv: &mut Value| {
        pv["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = json!("");
    };
    check("Bound", by_hand, "the claim ns/data");
    let another = |pv: &mut Value| {
        pv["metadata"]["annotations"]["berth.io/volume-id"] = json!("another");
    };
    check("Bound", another, "");
}

#[tokio::test]
async fn a_claim_that_waits_for_its_pv_has_the_volume() {
    let mut scene = Scene::new();
    assert_eq!(held(&scene), "");
    scene.claim(&claim("data"));
    assert!(held(&scene).contains("the claim ns/data"), "{}", held(&scene));
    scene.claim_gone(&claim("data"));
    assert_eq!(held(&scene), "");
}

#[test]
fn without_a_cluster_the_labels_say_it() {
    let mut spec = volume();
    assert_eq!(holder::by_labels(&spec), None);
    spec.labels.insert("berth.io/claim-namespace".into(), "ns".into());
    assert!(holder::by_labels(&spec).unwrap().contains("the claim ns/?"));
    spec.labels.insert("berth.io/claim-name".into(), "data".into());
    assert!(holder::by_labels(&spec).unwrap().contains("the claim ns/data"));
}
