//! Leader election by a Lease: one server provisions at a time.
//!
//! ```text
//!   follower --free, or not renewed for its duration--> leader --stop--> releases the Lease
//!      ^                                                  |
//!      +---------- not renewed for 10 s: steps down ------+
//! ```
//!
//! Clocks of machines differ: whether a Lease has expired is measured by our own clock, from when
//! the Lease was last seen to change. A leader that cannot renew the Lease stops provisioning
//! before another server may begin (10 s before 15 s). Losing the Lease stops only the provisioner.
//!
//! A server that was killed and restarted does not wait for its own Lease to expire: it has the
//! lock of the state folder, so that no earlier process is left, and the Lease says which server
//! held it ([`LeaseIdentity`]). Each process still has an identity of its own. If two processes use
//! the folder after all, because a lock was lost with a node, the earlier one finds that the Lease
//! is taken, and does not take it back.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use rustix::rand::GetRandomFlags;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::call::call;
use super::error::{Error, Result, has_code};
use super::reachability::ApiReachability;

/// How long a Lease is valid without being renewed.
const DURATION: Duration = Duration::from_secs(15);

/// How long a leader that cannot renew its Lease continues.
const DEADLINE: Duration = Duration::from_secs(10);

/// Interval at which a leader renews its Lease, and at which followers read it.
const PERIOD: Duration = Duration::from_secs(2);

/// Identifies the holder of a Lease: a process of a server.
#[derive(Clone, Debug)]
pub struct LeaseIdentity {
    /// The part that all processes of the server have.
    server: String,
    /// The whole identity, which no other process has.
    whole: String,
}

/// A candidate for a Lease.
pub struct LeaderElection {
    api: Api<Lease>,
    name: String,
    identity: LeaseIdentity,
    reachability: Arc<ApiReachability>,
}

/// A Lease as it was last seen to change.
struct ObservedLease<'a> {
    version: Option<String>,
    at: Instant,
    /// The identity whose earlier processes are known to have ended.
    heir: Option<&'a LeaseIdentity>,
}

/// Whether a Lease can be taken.
#[derive(PartialEq, Eq, Debug)]
enum LeaseStatus {
    /// It is ours.
    Ours,
    /// It is free, or has expired.
    Free,
    /// Another process holds it.
    Held(String),
}

impl LeaseIdentity {
    /// Returns an identity for this process of a server.
    pub fn of(server: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut random = [0; 8];
        // Without random numbers, the time and the process id are used.
        let process = match rustix::rand::getrandom(&mut random, GetRandomFlags::empty()) {
            Ok(_) => u64::from_ne_bytes(random),
            Err(_) => {
                let now = Timestamp::now().as_millisecond().unsigned_abs();
                now << 22 | u64::from(std::process::id())
            }
        };
        let server = format!("_{server}-");
        Self { whole: format!("{host}{server}{process:016x}"), server }
    }

    /// Whether a holder is this process, or an earlier one of the same server.
    fn follows(&self, holder: &str) -> bool {
        holder.contains(&self.server)
    }
}

impl fmt::Display for LeaseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl LeaderElection {
    /// Returns a candidate for the Lease of this name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: LeaseIdentity) -> Self {
        let (api, reachability) =
            (Api::namespaced(client, namespace), Arc::new(ApiReachability::new("")));
        Self { api, name: name.to_owned(), identity, reachability }
    }

    /// Shares with the watches whether the API server can be reached.
    pub fn reporting(self, reachability: ApiReachability) -> Self {
        Self { reachability: Arc::new(reachability), ..self }
    }

    /// Whether the API server can be reached.
    pub const fn reachability(&self) -> &Arc<ApiReachability> {
        &self.reachability
    }

    /// Waits for the Lease, and runs `lead` while it is held, repeatedly, until `stop`. `lead` must
    /// end soon after its token is cancelled; the Lease is released after that.
    pub async fn run<F, Fut>(&self, stop: &CancellationToken, mut lead: F)
    where
        F: FnMut(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut seen = ObservedLease::new(Some(&self.identity));
        while let Some(lease) = stop.run_until_cancelled(self.acquire(seen)).await {
            tracing::info!(lease = self.name, identity = %self.identity, "leading");
            let lost = stop.child_token();
            let last = tokio::join!(lead(lost.clone()), self.keep(lease, &lost)).1;
            if stop.is_cancelled()
                && let Some(lease) = last
            {
                self.release(lease).await;
            }
            seen = ObservedLease::new(None);
        }
    }

    /// Waits until this process holds the Lease.
    async fn acquire(&self, mut seen: ObservedLease<'_>) -> Lease {
        let mut holder = None;
        loop {
            let tried = self.try_acquire(&mut seen).await;
            match self.noted(tried) {
                Ok(Ok(lease)) => return lease,
                Ok(Err(other)) if holder.as_ref() != Some(&other) => {
                    tracing::info!(lease = self.name, holder = other, "another server leads");
                    holder = Some(other);
                }
                Ok(Err(_)) => {}
                Err(error) if error.is_conflict() || error.is_server_failure() => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot become leader; retrying");
                }
            }
            sleep(PERIOD).await;
        }
    }

    /// Notes whether the API server could be reached.
    fn noted<T>(&self, tried: Result<T>) -> Result<T> {
        match &tried {
            Err(error) if error.is_server_failure() => self.reachability.failed(&error.to_string()),
            Ok(_) | Err(_) => self.reachability.answered(),
        }
        tried
    }

    /// Tries to take the Lease; returns it, or its holder.
    async fn try_acquire(
        &self,
        seen: &mut ObservedLease<'_>,
    ) -> Result<std::result::Result<Lease, String>> {
        let what = format!("get Lease {}", self.name);
        let Some(mut lease) = call(what, self.api.get_opt(&self.name)).await? else {
            return self.create().await.map(Ok);
        };
        match seen.status(&lease, &self.identity.whole) {
            LeaseStatus::Held(other) => Ok(Err(other)),
            LeaseStatus::Ours => self.replace(lease).await.map(Ok),
            LeaseStatus::Free => {
                let spec = lease.spec.get_or_insert_default();
                spec.acquire_time = Some(MicroTime(Timestamp::now()));
                spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
                spec.holder_identity = Some(self.identity.whole.clone());
                spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
                self.replace(lease).await.map(Ok)
            }
        }
    }

    async fn create(&self) -> Result<Lease> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                holder_identity: Some(self.identity.whole.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let what = format!("create Lease {}", self.name);
        call(what, self.api.create(&PostParams::default(), &lease)).await
    }

    /// Renews the Lease with the version that was read. A conflict says that another process has
    /// changed it.
    async fn replace(&self, mut lease: Lease) -> Result<Lease> {
        let now = Some(MicroTime(Timestamp::now()));
        lease.spec.get_or_insert_default().renew_time = now;
        let what = format!("update Lease {}", self.name);
        call(what, self.api.replace(&self.name, &PostParams::default(), &lease)).await
    }

    /// Renews the Lease until it is lost or `lost` is cancelled; returns it if it is still held.
    async fn keep(&self, mut lease: Lease, lost: &CancellationToken) -> Option<Lease> {
        let mut renewed = Instant::now();
        while lost.run_until_cancelled(sleep(PERIOD)).await.is_some() {
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew(lease.clone())).await.map(|tried| self.noted(tried)) {
                Ok(Ok(new)) => {
                    renewed = Instant::now();
                    lease = new;
                }
                Ok(Err(error))
                    if renewed.elapsed() < DEADLINE && !matches!(error, Error::Stale) =>
                {
                    if !error.is_server_failure() {
                        tracing::warn!(%error, "cannot renew the lease; retrying");
                    }
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(
                        lease = self.name,
                        "the lease is lost: provisioning stops, files are served"
                    );
                    lost.cancel();
                    return None;
                }
            }
        }
        Some(lease)
    }

    /// Renews the Lease, even if another of its fields has changed.
    ///
    /// # Errors
    /// [`Error::Stale`]: another process holds it.
    async fn renew(&self, lease: Lease) -> Result<Lease> {
        match self.replace(lease).await {
            Err(Error::Api { source, .. }) if has_code(&source, 409) || has_code(&source, 404) => {}
            other => return other,
        }
        let what = format!("get Lease {}", self.name);
        match call(what, self.api.get_opt(&self.name)).await? {
            Some(lease) if holder(&lease) == Some(&self.identity.whole) => {
                self.replace(lease).await
            }
            Some(_) => Err(Error::Stale),
            None => self.create().await,
        }
    }

    /// Releases the Lease: another server need not wait until it expires.
    async fn release(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        match timeout(PERIOD, self.replace(lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "the lease is released"),
            _ => tracing::info!(lease = self.name, "the lease could not be released; it expires"),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

impl<'a> ObservedLease<'a> {
    fn new(heir: Option<&'a LeaseIdentity>) -> Self {
        Self { version: None, at: Instant::now(), heir }
    }

    /// Notes the state of the Lease, and returns whether it can be taken.
    fn status(&mut self, lease: &Lease, identity: &str) -> LeaseStatus {
        let Some(holder) = holder(lease) else { return LeaseStatus::Free };
        if holder == identity {
            return LeaseStatus::Ours;
        }
        if self.heir.is_some_and(|heir| heir.follows(holder)) {
            return LeaseStatus::Free;
        }
        if self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.at = Instant::now();
        }
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let holds =
            seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
        if self.at.elapsed() > holds {
            LeaseStatus::Free
        } else {
            LeaseStatus::Held(holder.clone())
        }
    }
}
