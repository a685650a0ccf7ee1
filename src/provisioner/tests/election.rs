//! The Lease: when servers lead and step down. Time is simulated.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower_test::mock::pair;

use super::support::{ApiServer, response};
use crate::provisioner::election::{LeaderElection, LeaseIdentity};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";

/// An API server that has one Lease.
#[derive(Default)]
struct Leases {
    lease: Option<Value>,
    version: u64,
    /// The response to every request.
    trouble: Option<u16>,
}

impl Leases {
    fn answer(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
        if let Some(code) = self.trouble {
            return refusal(code);
        }
        let sent = || serde_json::from_str::<Value>(body).unwrap();
        match (method, &self.lease) {
            ("GET", Some(lease)) => (200, lease.clone()),
            ("GET", None) => refusal(404),
            ("POST", Some(_)) => refusal(409),
            ("POST", None) => {
                assert_eq!(path, LEASE);
                (201, self.store(sent()))
            }
            ("PUT", Some(lease)) => {
                let sent = sent();
                let fresh =
                    sent["metadata"]["resourceVersion"] == lease["metadata"]["resourceVersion"];
                if fresh { (200, self.store(sent)) } else { refusal(409) }
            }
            ("PUT", None) => refusal(404),
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        lease
    }

    fn holder(&self) -> String {
        let lease = self.lease.clone().unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    fn held_by(holder: &str) -> Self {
        let mut leases = Self::default();
        leases.store(json!({
            "metadata": { "name": "berth" },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15 },
        }));
        leases
    }
}

fn refusal(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Trouble" };
    (code, json!({ "status": "Failure", "code": code, "reason": reason, "message": "no" }))
}

/// A candidate that runs.
struct Candidate {
    leases: Arc<Mutex<Leases>>,
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    identity: String,
}

impl Candidate {
    fn start(leases: Leases) -> Self {
        let leases = Arc::new(Mutex::new(leases));
        let (service, server) = pair::<Request<Body>, Response<Body>>();
        tokio::spawn(serve(server, Arc::clone(&leases)));
        let me = LeaseIdentity::of("me");
        let identity = me.to_string();
        let election = LeaderElection::new(Client::new(service, "ns"), "ns", "berth", me);
        let (stop, (says, leading)) = (CancellationToken::new(), watch::channel(false));
        let until = stop.clone();
        let running = tokio::spawn(async move {
            let lead = |lost: CancellationToken| {
                let says = says.clone();
                async move {
                    says.send_replace(true);
                    lost.cancelled().await;
                    says.send_replace(false);
                }
            };
            election.run(&until, lead).await;
        });
        Self { leases, leading, stop, running, identity }
    }

    /// Waits until it leads, or no longer leads; returns how long that took.
    async fn until(&mut self, leads: bool) -> Duration {
        let began = Instant::now();
        let changed = self.leading.wait_for(|leading| *leading == leads);
        timeout(Duration::from_secs(600), changed).await.unwrap().unwrap();
        began.elapsed()
    }

    fn change(&self, change: impl FnOnce(&mut Leases)) {
        change(&mut self.leases.lock());
    }

    /// Whether the Lease is that of this process.
    fn is_held(&self) -> bool {
        self.leases.lock().holder() == self.identity
    }

    async fn end(self) -> String {
        self.stop.cancel();
        timeout(Duration::from_secs(60), self.running).await.unwrap().unwrap();
        self.leases.lock().holder()
    }
}

async fn serve(mut server: ApiServer, leases: Arc<Mutex<Leases>>) {
    while let Some((request, send)) = server.next_request().await {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let body = request.into_body().collect_bytes().await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let (code, value) = leases.lock().answer(&method, &path, &body);
        send.send_response(response(code, &value));
    }
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_is_taken_at_once_and_released_in_the_end() {
    let mut candidate = Candidate::start(Leases::default());
    assert!(candidate.until(true).await < Duration::from_secs(1));
    assert!(candidate.is_held());
    assert_eq!(candidate.end().await, "");
    let mut next = Candidate::start(Leases::held_by(""));
    assert!(next.until(true).await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_is_left_alone_and_one_that_is_not_is_taken() {
    let mut candidate = Candidate::start(Leases::held_by("other"));
    for _ in 0..10 {
        let renewed = timeout(Duration::from_secs(10), candidate.until(true)).await;
        assert!(renewed.is_err(), "it leads beside another");
        candidate.change(|leases| {
            let lease = leases.lease.clone().unwrap();
            leases.store(lease);
        });
    }
    let took = candidate.until(true).await.as_secs();
    assert!((15..20).contains(&took), "{took}");
    assert!(candidate.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_steps_down_before_another_may_begin() {
    for code in [500, 429, 403] {
        let mut candidate = Candidate::start(Leases::default());
        candidate.until(true).await;
        candidate.change(|leases| leases.trouble = Some(code));
        let took = candidate.until(false).await.as_secs();
        assert!((8..15).contains(&took), "{code}: {took}");
        // An hour later the API server is back.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        candidate.change(|leases| leases.trouble = None);
        assert!(candidate.until(true).await < Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_is_no_reason_to_step_down() {
    let mut candidate = Candidate::start(Leases::default());
    candidate.until(true).await;
    candidate.change(|leases| leases.trouble = Some(500));
    tokio::time::sleep(Duration::from_secs(5)).await;
    candidate.change(|leases| leases.trouble = None);
    let lost = timeout(Duration::from_secs(100), candidate.until(false)).await;
    assert!(lost.is_err(), "it stepped down");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_process_took_is_lost() {
    let mut candidate = Candidate::start(Leases::default());
    candidate.until(true).await;
    candidate.change(|leases| {
        let version = leases.version;
        *leases = Leases::held_by("other");
        leases.version += version;
        let lease = leases.lease.clone().unwrap();
        leases.store(lease);
    });
    assert!(candidate.until(false).await < Duration::from_secs(5));
    assert!(!candidate.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_or_changed_is_kept() {
    let mut candidate = Candidate::start(Leases::default());
    candidate.until(true).await;
    candidate.change(|leases| leases.lease = None);
    let lost = timeout(Duration::from_secs(60), candidate.until(false)).await;
    assert!(lost.is_err() && candidate.is_held(), "it stepped down");
    candidate.change(|leases| {
        let lease = leases.lease.clone().unwrap();
        leases.store(lease);
    });
    let lost = timeout(Duration::from_secs(60), candidate.until(false)).await;
    assert!(lost.is_err() && candidate.is_held(), "it stepped down");
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_an_earlier_process_is_taken_over_at_once() {
    let mut candidate = Candidate::start(Leases::held_by(&LeaseIdentity::of("me").to_string()));
    assert!(candidate.until(true).await < Duration::from_secs(1));
    assert!(candidate.is_held());
    // A later process takes it: this process is the earlier one then, and does not take it back.
    let next = LeaseIdentity::of("me").to_string();
    candidate.change(|leases| {
        let mut lease = leases.lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = json!(next);
        leases.store(lease);
    });
    candidate.until(false).await;
    assert!(candidate.until(true).await > Duration::from_secs(14));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_another_server_is_waited_for() {
    let mut candidate = Candidate::start(Leases::held_by(&LeaseIdentity::of("you").to_string()));
    assert!(candidate.until(true).await > Duration::from_secs(14));
}
