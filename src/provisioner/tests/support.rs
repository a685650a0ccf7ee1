//! A mock of the API server, and real volumes.
//!
//! A conversation is a list of requests in their order, each with its response. A missing request,
//! an additional one and an unexpected one fail the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::RwLock;
use tokio::time::timeout;
use tower_test::mock::{Handle, pair};

use crate::export::table::Exports;
use crate::fs::Fs;
use crate::fs::handle::{KEY_LEN, Key as HandleKey};
use crate::provisioner::address::{AddressResolver, AddressSource};
use crate::provisioner::claim_progress::ClaimProgress;
use crate::provisioner::cluster_view::{ViewWriters, cluster_view};
use crate::provisioner::context::Context;
use crate::provisioner::events::{EventSender, PendingEvent, event_queue};
use crate::provisioner::objects::ObjectKey;
use crate::provisioner::orphans::{self, ReportedOrphans};
use crate::provisioner::queue::ReconcileOutcome;
use crate::provisioner::{ProvisionerSettings, claims, volumes};
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::Spec;
use crate::volume::{self, DataPlane, VolumeOrigin, Volumes};

/// The provisioner's name.
pub const OURS: &str = "example.org/berth";

/// The identity of the server.
pub const SERVER_ID: &str = "me";

/// Longer than any conversation takes: a test that hangs fails.
const LONG: Duration = Duration::from_secs(60);

/// The server's end of a mocked client.
pub type ApiServer = Handle<Request<Body>, Response<Body>>;

/// Real volumes, a view of the cluster, and a mocked API server.
pub struct Scene {
    pub cx: Arc<Context>,
    pub volumes: Arc<Volumes>,
    pub server: ApiServer,
    pub sender: EventSender,
    pub writers: ViewWriters,
    /// What the searches for orphans reported.
    pub orphans: ReportedOrphans,
    pub dir: TempDir,
    state_dir: TempDir,
}

/// An expected request, and its response.
pub struct ExpectedRequest {
    method: &'static str,
    path: String,
    /// Texts that the body must contain.
    says: Vec<String>,
    answer: MockResponse,
}

/// How the server responds.
pub enum MockResponse {
    /// With this status and object.
    Json(u16, Value),
    /// By breaking the connection.
    Broken,
    /// With the object that was sent.
    Echo,
    /// Not at all.
    Silence,
}

/// Expects a request.
pub fn step(method: &'static str, path: &str, answer: MockResponse) -> ExpectedRequest {
    ExpectedRequest { method, path: path.to_owned(), says: Vec::new(), answer }
}

impl ExpectedRequest {
    /// Expects the body to contain a text.
    pub fn with(mut self, text: &str) -> Self {
        self.says.push(text.to_owned());
        self
    }
}

/// An error of the API server.
pub fn refusal(code: u16, reason: &str) -> MockResponse {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": format!("it is {reason}"),
    });
    MockResponse::Json(code, status)
}

/// Opens volumes in a directory.
pub fn open_volumes(dir: &Path, state: &Path) -> Arc<Volumes> {
    let fs = Arc::new(Fs::new(HandleKey::new([7; KEY_LEN]), 4096, state).unwrap());
    let serving =
        DataPlane { fs, exports: Arc::<Exports>::default(), handles: None, open_to_users: false };
    let recount = Duration::ZERO;
    let settings = volume::VolumeSettings {
        dir: dir.into(),
        purge_rate: 1_000_000,
        recount,
        overcommit: None,
    };
    Volumes::open(&settings, serving).unwrap()
}

/// The settings of the tests.
pub fn settings() -> ProvisionerSettings {
    ProvisionerSettings {
        name: OURS.into(),
        address: AddressSource::Fixed("10.0.0.1".into()),
        kubeconfig: None,
        namespaces: Vec::new(),
        lease: "berth".into(),
        lease_namespace: None,
    }
}

impl Scene {
    pub fn new() -> Self {
        Self::at(AddressSource::Fixed("10.0.0.1".into()))
    }

    pub fn at(source: AddressSource) -> Self {
        let (dir, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let volumes = open_volumes(dir.path(), state.path());
        let (service, server) = pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let (cluster, mut writers) = cluster_view(&[]);
        writers.claims.iter_mut().for_each(|(_, writer)| {
            writer.apply_watcher_event(&Event::Init);
            writer.apply_watcher_event(&Event::InitDone);
        });
        let metrics = Arc::default();
        let (events, sender) = event_queue(client.clone(), OURS, Arc::clone(&metrics));
        let cx = Arc::new(Context {
            client,
            provisioner: OURS.into(),
            server_id: SERVER_ID.into(),
            volumes: Arc::clone(&volumes),
            address: AddressResolver::new(source, 2049),
            cluster: Arc::new(cluster),
            events,
            metrics,
            progress: ClaimProgress::default(),
            term: RwLock::new(true),
        });
        Self {
            cx,
            volumes,
            server,
            sender,
            writers,
            orphans: ReportedOrphans::default(),
            dir,
            state_dir: state,
        }
    }

    /// Adds or changes a claim in the view; returns its key.
    pub fn claim(&mut self, claim: &Value) -> ObjectKey {
        let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
        let key = ObjectKey::of(&claim);
        self.writers.claims[0].1.apply_watcher_event(&Event::Apply(claim));
        key
    }

    /// Removes a claim from the view.
    pub fn claim_gone(&mut self, claim: &Value) {
        let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
        self.writers.claims[0].1.apply_watcher_event(&Event::Delete(claim));
    }

    /// Adds or changes a PV in the view; returns its key.
    pub fn pv(&mut self, pv: &Value) -> ObjectKey {
        let pv: PersistentVolume = serde_json::from_value(pv.clone()).unwrap();
        let key = ObjectKey::of(&pv);
        self.writers.pvs.apply_watcher_event(&Event::Apply(pv));
        key
    }

    /// Adds a class with these parameters to the view.
    pub fn class(&mut self, name: &str, parameters: Value) {
        let class: StorageClass = serde_json::from_value(json!({
            "metadata": { "name": name }, "provisioner": OURS, "parameters": parameters,
        }))
        .unwrap();
        self.writers.classes.apply_watcher_event(&Event::Apply(class));
    }

    /// Reconciles a claim, in this conversation.
    pub async fn reconcile_claim(
        &mut self,
        key: &ObjectKey,
        steps: Vec<ExpectedRequest>,
    ) -> ReconcileOutcome {
        let (cx, key) = (Arc::clone(&self.cx), key.clone());
        self.talk(async move { claims::reconcile(&cx, &key).await }, steps).await
    }

    /// Reconciles a PV, in this conversation.
    pub async fn reconcile_pv(
        &mut self,
        key: &ObjectKey,
        steps: Vec<ExpectedRequest>,
    ) -> ReconcileOutcome {
        let (cx, key) = (Arc::clone(&self.cx), key.clone());
        self.talk(async move { volumes::reconcile(&cx, &key).await }, steps).await
    }

    /// Searches for orphans, in this conversation.
    pub async fn search_orphans(&mut self, steps: Vec<ExpectedRequest>) {
        let cx = Arc::clone(&self.cx);
        let mut reported = std::mem::take(&mut self.orphans);
        let search = async move {
            orphans::search(&cx, &mut reported).await;
            reported
        };
        self.orphans = self.talk(search, steps).await;
    }

    /// Has a conversation until `operation` ends; every step must have been requested.
    pub async fn talk<T>(
        &mut self,
        operation: impl Future<Output = T>,
        steps: Vec<ExpectedRequest>,
    ) -> T {
        let mut steps = steps.into_iter();
        let server = &mut self.server;
        let mut silent = Vec::new();
        let serve = async {
            while let Some((request, send)) = server.next_request().await {
                let asked = format!("{} {}", request.method(), request.uri().path());
                let step = steps.next().unwrap_or_else(|| panic!("one call too many: {asked}"));
                assert_eq!(asked, format!("{} {}", step.method, step.path));
                let body = request.into_body().collect_bytes().await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                for text in &step.says {
                    assert!(body.contains(text), "{text} is not in {body}");
                }
                match step.answer {
                    MockResponse::Json(code, value) => send.send_response(response(code, &value)),
                    MockResponse::Echo => send.send_response(response(200, &saved(&body))),
                    MockResponse::Silence => silent.push(send),
                    MockResponse::Broken => send.send_error(std::io::Error::other("it is broken")),
                }
            }
        };
        let both = async {
            tokio::select! {
                outcome = operation => outcome,
                () = serve => unreachable!("the client is there"),
            }
        };
        let outcome = timeout(LONG, both).await.expect("the conversation ends");
        let left: Vec<_> = steps.map(|step| format!("{} {}", step.method, step.path)).collect();
        assert!(left.is_empty(), "never asked for: {left:?}");
        outcome
    }

    /// The reasons of the events since the last call.
    pub fn reasons(&mut self) -> Vec<&'static str> {
        self.events().into_iter().map(|event| event.reason).collect()
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<PendingEvent> {
        self.sender.waiting()
    }

    /// Restarts the server with the same directory.
    pub fn restart(&mut self) {
        let (dir, state) = (self.dir.path().to_owned(), self.state_dir.path().to_owned());
        let elsewhere = TempDir::new().unwrap();
        let other = open_volumes(elsewhere.path(), &state);
        let before = std::mem::replace(&mut self.volumes, Arc::clone(&other));
        let cx = Arc::get_mut(&mut self.cx).expect("nobody else has it");
        cx.volumes = other;
        before.stop();
        drop(before);
        let volumes = open_volumes(&dir, &state);
        cx.volumes = Arc::clone(&volumes);
        self.volumes = volumes;
    }

    /// The metrics, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        self.cx.metrics.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        text
    }

    /// The names of all volumes.
    pub fn names(&self) -> Vec<String> {
        self.volumes.list().iter().map(|status| status.spec.name.to_string()).collect()
    }

    /// Makes the volume of a claim, as provisioning makes it, with more labels.
    pub fn made(&self, claim: &str, more: &[(&str, &str)]) {
        let id = VolumeId::new(format!("uid-{claim}")).unwrap();
        let mut spec = Spec::new(self.name(&volume_of(claim)), id, 16 << 20);
        let (uid, full) = (format!("uid-{claim}"), format!("ns/{claim}"));
        let labels = [
            ("berth.io/claim-namespace", "ns"),
            ("berth.io/claim-uid", &uid),
            ("berth.io/claim", &full),
        ];
        let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        spec.labels = labels.iter().chain(more).map(own).collect();
        self.volumes.create(spec, VolumeOrigin::Fresh).unwrap();
    }

    /// Makes the volume of a claim as earlier versions left it: its record names no claim and no
    /// PV.
    pub fn made_by_an_earlier_version(&self, claim: &str) {
        self.made(claim, &[]);
        let name = self.name(&volume_of(claim));
        let id = self.volumes.show(&name).unwrap().spec.id;
        let none = [("berth.io/claim-uid", None), ("berth.io/claim", None)];
        self.volumes.set_labels(&name, &id, &none).unwrap();
    }

    /// The PV of a claim, with the path that its volume has.
    pub fn pv_of(&self, claim: &str, phase: &str, on_delete: &str) -> Value {
        let mut pv = pv(claim, phase, on_delete);
        let status = self.volumes.show(&self.name(&volume_of(claim))).unwrap();
        pv["spec"]["nfs"]["path"] = json!(status.path);
        pv
    }

    /// A label of a volume; empty if there is none.
    pub fn label(&self, volume: &str, key: &str) -> String {
        let status = self.volumes.show(&self.name(volume)).unwrap();
        status.spec.labels.get(key).cloned().unwrap_or_default()
    }

    /// Writes a file into a volume.
    pub fn write(&self, volume: &str, file: &str) {
        std::fs::write(self.dir.path().join(volume).join(file), file).unwrap();
    }

    /// Whether a volume has a file.
    pub fn has(&self, volume: &str, file: &str) -> bool {
        self.dir.path().join(volume).join(file).exists()
    }

    pub fn name(&self, name: &str) -> VolumeName {
        VolumeName::new(name).unwrap()
    }
}

/// An object as the API server saves it.
fn saved(body: &str) -> Value {
    let mut object: Value = serde_json::from_str(body).unwrap();
    if let Some(uid) = object["metadata"]["name"].as_str().map(pv_uid) {
        object["metadata"]["uid"] = json!(uid);
    }
    object
}

/// The uid of the PV of this name.
pub fn pv_uid(name: &str) -> String {
    name.replace("pvc-uid-", "pv-")
}

/// A response of the API server.
pub fn response(code: u16, value: &Value) -> Response<Body> {
    let body = Body::from(serde_json::to_vec(value).unwrap());
    Response::builder().status(code).body(body).unwrap()
}

/// A claim that waits for us.
pub fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "5",
            "annotations": { "volume.kubernetes.io/storage-provisioner": OURS },
        },
        "spec": {
            "storageClassName": "fast", "accessModes": ["ReadWriteMany"],
            "resources": { "requests": { "storage": "16Mi" } },
        },
    })
}

/// The PV of a claim.
pub fn pv(claim: &str, phase: &str, on_delete: &str) -> Value {
    let uid = format!("uid-{claim}");
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{uid}"), "uid": format!("pv-{claim}"), "resourceVersion": "7",
            "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"],
            "annotations": {
                "pv.kubernetes.io/provisioned-by": OURS, "berth.io/server": SERVER_ID,
                "berth.io/volume-id": uid, "berth.io/volume": volume_of(claim),
                "berth.io/on-delete": on_delete,
            },
        },
        "spec": {
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
            "capacity": { "storage": "16Mi" }, "accessModes": ["ReadWriteMany"],
            "nfs": { "server": "10.0.0.1", "path": format!("/{}", volume_of(claim)) },
            "mountOptions": ["nfsvers=3", "port=2049"],
            "claimRef": { "namespace": "ns", "name": claim, "uid": uid },
        },
        "status": { "phase": phase },
    })
}

/// The name of a claim's volume.
pub fn volume_of(claim: &str) -> String {
    format!("ns-{claim}-pvc-uid-{claim}")
}
