//! The whole provisioner with a fake API server, which keeps objects, serves watches, binds claims
//! as the controller-manager does, and fails as a test asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};
use tower_test::mock::{Handle, pair};

use super::support::{self, OURS, claim, open_volumes, pv, settings, volume_of};
use crate::provisioner::Provisioner;
use crate::provisioner::reachability::ApiReachability;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::Spec;
use crate::volume::{VolumeOrigin, Volumes};

const CLAIMS: &str = "persistentvolumeclaims";
const PVS: &str = "persistentvolumes";

type WatchLine = Result<Frame<Bytes>, std::io::Error>;

/// A body that may be a stream.
type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The state of the API server.
#[derive(Default)]
struct FakeApiServer {
    version: u64,
    /// Objects by kind and name.
    objects: BTreeMap<(String, String), Value>,
    watches: Vec<(String, UnboundedSender<WatchLine>)>,
    /// By method and kind: how many of the next requests fail, and with which status.
    troubles: HashMap<(&'static str, &'static str), (u32, u16)>,
    /// Numbers of requests by method and kind.
    calls: HashMap<(String, String), u32>,
}

/// A cluster with a provisioner.
struct FakeCluster {
    world: Arc<Mutex<FakeApiServer>>,
    volumes: Arc<Volumes>,
    provisioner: Provisioner,
    _dirs: [TempDir; 2],
}

impl FakeApiServer {
    fn put(&mut self, kind: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let key = (kind.to_owned(), name.to_owned());
        let known = self.objects.insert(key, object.clone()).is_some();
        self.tell(kind, if known { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn remove(&mut self, kind: &str, name: &str) {
        self.version += 1;
        if let Some(object) = self.objects.remove(&(kind.to_owned(), name.to_owned())) {
            self.tell(kind, "DELETED", &object);
        }
    }

    fn tell(&mut self, kind: &str, what: &str, object: &Value) {
        self.watches.retain(|(of, to)| of != kind || to.send(Ok(line(what, object))).is_ok());
    }

    fn of(&self, kind: &str) -> Vec<Value> {
        let all = self.objects.iter().filter(|((of, _), _)| of == kind);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// Binds a PV as the controller-manager does.
    fn bind(&mut self, mut pv: Value) -> Value {
        let name = pv["metadata"]["name"].as_str().unwrap().to_owned();
        pv["metadata"]["uid"] = json!(format!("pv-{name}"));
        pv["status"] = json!({ "phase": "Bound" });
        let claim = pv["spec"]["claimRef"]["name"].as_str().unwrap().to_owned();
        let made = self.put(PVS, &name, pv);
        if let Some(mut bound) = self.objects.get(&(CLAIMS.into(), claim.clone())).cloned() {
            bound["spec"]["volumeName"] = json!(name);
            self.put(CLAIMS, &claim, bound);
        }
        made
    }

    fn fails(&mut self, method: &str, kind: &str) -> Option<u16> {
        let mut troubles = self.troubles.iter_mut();
        let found = troubles.find(|((m, k), _)| *m == method && *k == kind);
        let (left, code) = found.map(|(_, trouble)| trouble).filter(|(left, _)| *left > 0)?;
        *left -= 1;
        Some(*code)
    }

    fn answer(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        body: &str,
    ) -> Response<ResponseBody> {
        let mut parts = path.trim_start_matches('/').split('/').skip_while(|part| *part != "v1");
        let mut parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        if parts[1] == Some("namespaces") {
            parts = [None, parts[3], parts[4], None, None];
        }
        let (kind, name) = (parts[1].unwrap(), parts[2].unwrap_or_default());
        let watches = query.contains("watch=true");
        *self.calls.entry((method.to_owned(), kind.to_owned())).or_default() += 1;
        if let Some(code) = self.fails(method, kind) {
            return refusal(code);
        }
        let there = self.objects.get(&(kind.to_owned(), name.to_owned())).cloned();
        let sent = serde_json::from_str::<Value>(body).unwrap_or_default();
        match (method, there) {
            ("GET", _) if watches => self.watch(kind, query),
            ("GET", _) if name.is_empty() => {
                let version = json!({ "resourceVersion": self.version.to_string() });
                response(200, &json!({ "metadata": version, "items": self.of(kind) }))
            }
            ("GET", Some(object)) => response(200, &object),
            ("POST", _) if kind == PVS => {
                let name = sent["metadata"]["name"].as_str().unwrap().to_owned();
                match self.objects.contains_key(&(kind.to_owned(), name)) {
                    true => refusal(409),
                    false => response(201, &self.bind(sent)),
                }
            }
            ("POST", _) => {
                let name = sent["metadata"]["name"].as_str().unwrap().to_owned();
                response(201, &self.put(kind, &name, sent))
            }
            ("PUT", Some(_)) => response(200, &self.put(kind, name, sent)),
            ("PATCH", Some(mut object)) => {
                merge(&mut object, &sent);
                let gone = object["metadata"]["deletionTimestamp"].is_string()
                    && object["metadata"]["finalizers"] == json!([]);
                if gone {
                    self.remove(kind, name);
                    return response(200, &object);
                }
                response(200, &self.put(kind, name, object))
            }
            ("DELETE", Some(mut object)) => {
                object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
                response(200, &self.put(kind, name, object))
            }
            (_, None) => refusal(404),
            other => panic!("{other:?} {path}"),
        }
    }

    /// A watch begins with the changes since the requested version.
    fn watch(&mut self, kind: &str, query: &str) -> Response<ResponseBody> {
        let (to, mut lines) = unbounded_channel::<WatchLine>();
        let since = query.split('&').find_map(|word| word.strip_prefix("resourceVersion="));
        let since: u64 = since.unwrap_or("0").parse().unwrap();
        for object in self.of(kind) {
            let version: u64 =
                object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            if version > since {
                to.send(Ok(line("MODIFIED", &object))).unwrap();
            }
        }
        self.watches.push((kind.to_owned(), to));
        let lines = futures_util::stream::poll_fn(move |cx| lines.poll_recv(cx));
        Response::new(StreamBody::new(lines).map_err(Into::into).boxed_unsync())
    }
}

impl FakeCluster {
    fn start(begin: impl FnOnce(&mut FakeApiServer)) -> Self {
        let world = Arc::<Mutex<FakeApiServer>>::default();
        let class = json!({ "metadata": { "name": "fast" }, "provisioner": OURS });
        world.lock().put("storageclasses", "fast", class);
        begin(&mut world.lock());
        let (service, server) = pair::<Request<Body>, Response<ResponseBody>>();
        tokio::spawn(serve(server, Arc::clone(&world)));
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let volumes = open_volumes(dirs[0].path(), dirs[1].path());
        let client = Client::new(service, "default");
        let shared = Arc::clone(&volumes);
        let reach = ApiReachability::new("test");
        let provisioner =
            Provisioner::with_client(reach, client, settings(), shared, 2049, "me", "default");
        Self { world, volumes, provisioner, _dirs: dirs }
    }

    fn world(&self) -> MutexGuard<'_, FakeApiServer> {
        self.world.lock()
    }

    fn claim(&self, name: &str) {
        self.world().put(CLAIMS, name, claim(name));
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            assert!(began.elapsed() < Duration::from_secs(3600), "never: {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_bound(&self, name: &str) {
        let bound = |cluster: &Self| {
            let world = cluster.world();
            world.objects[&(CLAIMS.into(), name.into())]["spec"]["volumeName"].is_string()
        };
        self.until(name, bound).await;
    }
}

async fn serve(
    mut server: Handle<Request<Body>, Response<ResponseBody>>,
    world: Arc<Mutex<FakeApiServer>>,
) {
    while let Some((request, send)) = server.next_request().await {
        let (method, uri) = (request.method().to_string(), request.uri().clone());
        let body = request.into_body().collect_bytes().await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let query = uri.query().unwrap_or_default();
        let answer = world.lock().answer(&method, uri.path(), query, &body);
        send.send_response(answer);
    }
}

fn response(code: u16, value: &Value) -> Response<ResponseBody> {
    support::response(code, value).map(|body| body.map_err(Into::into).boxed_unsync())
}

fn line(what: &str, object: &Value) -> Frame<Bytes> {
    let text = json!({ "type": what, "object": object }).to_string() + "\n";
    frame(&text)
}

fn frame(text: &str) -> Frame<Bytes> {
    Frame::data(Bytes::from(text.to_owned()))
}

fn refusal(code: u16) -> Response<ResponseBody> {
    let reason = match code {
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        _ => "Trouble",
    };
    let value = json!({ "status": "Failure", "code": code, "reason": reason, "message": "no" });
    response(code, &value)
}

/// A merge patch (RFC 7386), of objects.
fn merge(object: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().unwrap() {
        match value {
            Value::Object(_) if object[key].is_object() => merge(&mut object[key], value),
            Value::Null => _ = object.as_object_mut().unwrap().remove(key),
            _ => object[key] = value.clone(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_watches_lose_no_claim() {
    let cluster = FakeCluster::start(|world| {
        world.troubles.insert(("GET", CLAIMS), (3, 500));
        world.troubles.insert(("GET", PVS), (2, 429));
        world.troubles.insert(("GET", "storageclasses"), (1, 403));
    });
    cluster.claim("first");
    cluster.until_bound("first").await;
    // All watches end, and a claim is created before they begin again.
    cluster.world().watches.clear();
    cluster.claim("second");
    cluster.until_bound("second").await;
    // The version of the watches is too old.
    let expired = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old" });
    cluster.world().tell(CLAIMS, "ERROR", &expired);
    cluster.world().watches.clear();
    cluster.claim("third");
    cluster.until_bound("third").await;
    // The response is not JSON, or the connection breaks.
    for broken in [Ok(frame("{ nonsense }\n")), Err(std::io::Error::other("reset"))] {
        let mut broken = Some(broken);
        cluster.world().watches.retain(|(kind, to)| {
            if let Some(broken) = broken.take_if(|_| kind == CLAIMS) {
                let _ = to.send(broken);
            }
            kind != CLAIMS
        });
        cluster.claim("last");
        cluster.until_bound("last").await;
        cluster.world().remove(CLAIMS, "last");
        cluster.world().remove(PVS, "pvc-uid-last");
    }
    assert_eq!(cluster.world().of(PVS).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_an_api_server_costs_no_more_than_that_hour() {
    let cluster = FakeCluster::start(|_| ());
    cluster.claim("before");
    cluster.until_bound("before").await;
    let all = ["GET", "PUT", "POST", "PATCH"];
    for method in all {
        for kind in [CLAIMS, PVS, "storageclasses", "leases", "events"] {
            cluster.world().troubles.insert((method, kind), (u32::MAX, 503));
        }
    }
    cluster.claim("during");
    cluster.world().watches.clear();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(cluster.world().of(PVS).len(), 1);
    cluster.world().troubles.clear();
    let began = Instant::now();
    cluster.until_bound("during").await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn many_claims_at_once_get_one_volume_each_though_every_other_call_fails() {
    let cluster = FakeCluster::start(|world| {
        world.troubles.insert(("POST", PVS), (100, 500));
    });
    (0..200).for_each(|n| cluster.claim(&format!("c{n}")));
    cluster.until("all are bound", |cluster| cluster.world().of(PVS).len() == 200).await;
    cluster.until("each has its own", |cluster| cluster.volumes.list().len() == 200).await;
    cluster.provisioner.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_claim_has_its_pv_reclaimed() {
    let cluster = FakeCluster::start(|_| ());
    cluster.claim("data");
    cluster.until_bound("data").await;
    cluster.world().remove(CLAIMS, "data");
    let mut pv = cluster.world().of(PVS).remove(0);
    pv["status"]["phase"] = json!("Released");
    cluster.world().put(PVS, "pvc-uid-data", pv);
    cluster.until("it is gone", |cluster| cluster.world().of(PVS).is_empty()).await;
    assert!(cluster.volumes.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_of_a_claim_that_is_gone_is_deleted() {
    let cluster = FakeCluster::start(|_| ());
    let make = |name: &str, of_claim: bool| {
        let id = VolumeId::new(format!("uid-{name}")).unwrap();
        let mut spec = Spec::new(VolumeName::new(name).unwrap(), id, 1 << 20);
        if of_claim {
            spec.labels.insert("berth.io/claim-namespace".into(), "ns".into());
            spec.labels.insert("berth.io/claim-uid".into(), format!("uid-{name}"));
        }
        cluster.volumes.create(spec, VolumeOrigin::Fresh).unwrap().directory
    };
    make("beginning", true);
    let kept = make("with-data", true);
    std::fs::write(format!("{kept}/file"), "data").unwrap();
    make("by-hand", false);
    let names = |cluster: &FakeCluster| {
        let all = cluster.volumes.list();
        all.iter().map(|status| status.spec.name.to_string()).collect::<Vec<_>>()
    };
    cluster.until("it leads", |cluster| cluster.provisioner.leads()).await;
    cluster.until("it is taken away", |cluster| names(cluster).len() == 2).await;
    assert_eq!(names(&cluster), ["by-hand", "with-data"]);
}

#[tokio::test(start_paused = true)]
async fn the_event_of_a_refused_claim_is_repeated_while_it_waits() {
    let cluster = FakeCluster::start(|_| ());
    let mut refused = claim("data");
    refused["spec"]["volumeMode"] = json!("Block");
    cluster.world().put(CLAIMS, "data", refused);
    let calls = |cluster: &FakeCluster, method: &str| {
        cluster.world().calls.get(&(method.into(), "events".into())).copied().unwrap_or(0)
    };
    cluster.until("it is said", |cluster| calls(cluster, "POST") == 1).await;
    sleep(Duration::from_secs(3600)).await;
    assert!((3..=5).contains(&calls(&cluster, "PATCH")), "counted, and not said anew");
    assert_eq!(calls(&cluster, "POST"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_deleted_by_hand_is_reported_soon() {
    let cluster = FakeCluster::start(|_| ());
    cluster.claim("data");
    cluster.until_bound("data").await;
    cluster.until("it is held", |cluster| held(cluster).is_some()).await;
    cluster.volumes.reclaim(&VolumeName::new(volume_of("data")).unwrap(), None).unwrap();
    let told = |cluster: &FakeCluster| {
        let world = cluster.world();
        let reasons = world.of("events").into_iter().map(|event| event["reason"].clone());
        reasons.filter(|reason| reason == "VolumeLost").count()
    };
    cluster.until("claim and PV are told", |cluster| told(cluster) == 2).await;
    // And only once.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(told(&cluster), 2);
}

/// The PV that holds the only volume.
fn held(cluster: &FakeCluster) -> Option<String> {
    cluster.volumes.specs().first()?.labels.get("berth.io/pv-uid").cloned()
}

#[tokio::test(start_paused = true)]
async fn a_follower_reclaims_and_expands_its_own_volumes_and_provisions_nothing() {
    let cluster = FakeCluster::start(|world| {
        let spec = json!({ "holderIdentity": "another", "leaseDurationSeconds": 1_000_000 });
        world.put("leases", "berth", json!({ "metadata": { "name": "berth" }, "spec": spec }));
    });
    for name in ["old", "grown"] {
        let id = VolumeId::new(format!("uid-{name}")).unwrap();
        let mut spec = Spec::new(VolumeName::new(volume_of(name)).unwrap(), id, 16 << 20);
        let (uid, pv) = (format!("uid-{name}"), format!("pv-{name}"));
        let full = format!("ns/{name}");
        for (key, value) in [("claim-uid", uid), ("pv-uid", pv), ("claim", full)] {
            spec.labels.insert(format!("berth.io/{key}"), value);
        }
        cluster.volumes.create(spec, VolumeOrigin::Fresh).unwrap();
    }
    cluster.claim("new");
    let mut grown = claim("grown");
    grown["spec"]["volumeName"] = json!("pvc-uid-grown");
    grown["spec"]["resources"]["requests"]["storage"] = json!("32Mi");
    grown["status"] = json!({ "capacity": { "storage": "16Mi" } });
    cluster.world().put(CLAIMS, "grown", grown);
    cluster.world().put(PVS, "pvc-uid-grown", pv("grown", "Bound", "delete"));
    cluster.world().put(PVS, "pvc-uid-old", pv("old", "Released", "delete"));
    cluster.until("it has ended", |cluster| cluster.world().of(PVS).len() == 1).await;
    let capacity = |cluster: &FakeCluster| cluster.volumes.specs()[0].capacity;
    cluster.until("it has grown", |cluster| capacity(cluster) == 32 << 20).await;
    sleep(Duration::from_secs(60)).await;
    assert!(!cluster.provisioner.leads());
    assert_eq!((cluster.world().of(PVS).len(), cluster.volumes.list().len()), (1, 1));
    cluster.provisioner.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_idle_only_the_lease_causes_requests() {
    let cluster = FakeCluster::start(|_| ());
    cluster.claim("data");
    cluster.until_bound("data").await;
    sleep(Duration::from_secs(5)).await;
    cluster.world().calls.clear();
    sleep(Duration::from_secs(120)).await;
    let calls = cluster.world().calls.clone();
    let others: Vec<_> = calls.keys().filter(|(_, kind)| kind != "leases").collect();
    assert!(others.is_empty(), "{others:?}");
    cluster.provisioner.stop().await;
    let lease = cluster.world().of("leases").remove(0);
    assert_eq!(lease["spec"]["holderIdentity"], "");
}
