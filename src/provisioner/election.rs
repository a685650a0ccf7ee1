//! One server provisions at a time: who holds the Lease.
//!
//! ```text
//!   follower --free, or not renewed for its duration--> leader --stop--> releases the Lease
//!      ^                                                  |
//!      +---------- not renewed for 10 s: steps down ------+
//! ```
//!
//! Whether a Lease is over is told by our own clock, from when it was last seen to change: clocks
//! of machines differ. A leader that cannot renew stops what it does before anybody else may begin
//! (10 s before 15 s). Losing the Lease stops nothing but the provisioner.
//!
//! A server that was killed and comes back does not wait for its own Lease to run out: who has the
//! state folder locked knows that no process before it is left, and the Lease says whose it was
//! ([`Identity`]). Each process has an identity of its own all the same: should the folder be used
//! by two after all, because a lock was lost with a node, the one before finds the Lease taken, and
//! does not take it back.

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

use super::call;
use super::error::{Error, Result, has_code};
use super::reach::Reach;

/// How long a Lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);

/// How long a leader that cannot renew goes on.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often a Lease is renewed, and looked at by those who wait.
const PERIOD: Duration = Duration::from_secs(2);

/// Who holds a Lease: a process of a server.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What all processes of the server have in theirs, one after the other.
    server: String,
    /// The whole of it, which no other process has.
    whole: String,
}

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: Identity,
    reach: Arc<Reach>,
}

/// A Lease as it was last seen to change.
struct Seen<'a> {
    version: Option<String>,
    at: Instant,
    /// Whose predecessors are known to be gone.
    heir: Option<&'a Identity>,
}

/// What a look at the Lease says.
#[derive(PartialEq, Eq, Debug)]
enum Look {
    /// It is ours.
    Ours,
    /// It is free, or nobody renews it.
    Free,
    /// Somebody has it.
    Held(String),
}

impl Identity {
    /// This process, of that server.
    pub fn of(server: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut random = [0; 8];
        // Without random numbers, the number of the process and the time have to do.
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

    /// Whether a holder is this process, or one before it.
    fn follows(&self, holder: &str) -> bool {
        holder.contains(&self.server)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl Election {
    /// A candidate for the Lease of this name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: Identity) -> Self {
        let (api, reach) = (Api::namespaced(client, namespace), Arc::new(Reach::new("")));
        Self { api, name: name.to_owned(), identity, reach }
    }

    /// The same, which tells others whether the API server answers.
    pub fn telling(self, reach: Reach) -> Self {
        Self { reach: Arc::new(reach), ..self }
    }

    /// What is known of whether the API server answers.
    pub const fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// Waits for the Lease, and runs `lead` while it is held, again and again, until `stop`. `lead`
    /// has to come to its end soon after its token is cancelled; the Lease is released after that.
    pub async fn run<F, Fut>(&self, stop: &CancellationToken, mut lead: F)
    where
        F: FnMut(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut seen = Seen::new(Some(&self.identity));
        while let Some(lease) = stop.run_until_cancelled(self.acquire(seen)).await {
            tracing::info!(lease = self.name, identity = %self.identity, "leading");
            let lost = stop.child_token();
            let last = tokio::join!(lead(lost.clone()), self.keep(lease, &lost)).1;
            if stop.is_cancelled()
                && let Some(lease) = last
            {
                self.release(lease).await;
            }
            seen = Seen::new(None);
        }
    }

    /// Waits until the Lease is ours.
    async fn acquire(&self, mut seen: Seen<'_>) -> Lease {
        let mut holder = None;
        loop {
            let tried = self.try_acquire(&mut seen).await;
            match self.heard(tried) {
                Ok(Ok(lease)) => return lease,
                Ok(Err(other)) if holder.as_ref() != Some(&other) => {
                    tracing::info!(lease = self.name, holder = other, "somebody else leads");
                    holder = Some(other);
                }
                Ok(Err(_)) => {}
                Err(error) if error.is_conflict() || error.is_of_the_server() => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot become leader; it is tried again");
                }
            }
            sleep(PERIOD).await;
        }
    }

    /// Notes whether the API server answered.
    fn heard<T>(&self, tried: Result<T>) -> Result<T> {
        match &tried {
            Err(error) if error.is_of_the_server() => self.reach.failed(&error.to_string()),
            Ok(_) | Err(_) => self.reach.answered(),
        }
        tried
    }

    /// The Lease, or who has it.
    async fn try_acquire(&self, seen: &mut Seen<'_>) -> Result<std::result::Result<Lease, String>> {
        let what = format!("get Lease {}", self.name);
        let Some(mut lease) = call(what, self.api.get_opt(&self.name)).await? else {
            return self.create().await.map(Ok);
        };
        match seen.look(&lease, &self.identity.whole) {
            Look::Held(other) => Ok(Err(other)),
            Look::Ours => self.replace(lease).await.map(Ok),
            Look::Free => {
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

    /// Renews the Lease, as it was looked at: whoever was quicker has it.
    async fn replace(&self, mut lease: Lease) -> Result<Lease> {
        let now = Some(MicroTime(Timestamp::now()));
        lease.spec.get_or_insert_default().renew_time = now;
        let what = format!("update Lease {}", self.name);
        call(what, self.api.replace(&self.name, &PostParams::default(), &lease)).await
    }

    /// Renews the Lease until it is lost, or no longer wanted; it is answered then if it is ours.
    async fn keep(&self, mut lease: Lease, lost: &CancellationToken) -> Option<Lease> {
        let mut renewed = Instant::now();
        while lost.run_until_cancelled(sleep(PERIOD)).await.is_some() {
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew(lease.clone())).await.map(|tried| self.heard(tried)) {
                Ok(Ok(new)) => {
                    renewed = Instant::now();
                    lease = new;
                }
                Ok(Err(error))
                    if renewed.elapsed() < DEADLINE && !matches!(error, Error::Stale) =>
                {
                    if !error.is_of_the_server() {
                        tracing::warn!(%error, "cannot renew the lease; it is tried again");
                    }
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(lease = self.name, "the lease is lost; serving goes on");
                    lost.cancel();
                    return None;
                }
            }
        }
        Some(lease)
    }

    /// Renews the Lease, even if something else of it has changed.
    ///
    /// # Errors
    /// [`Error::Stale`]: somebody else has it.
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

    /// Lets the next one begin at once.
    async fn release(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        match timeout(PERIOD, self.replace(lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "the lease is released"),
            _ => tracing::info!(lease = self.name, "the lease is not released; it runs out"),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

impl<'a> Seen<'a> {
    fn new(heir: Option<&'a Identity>) -> Self {
        Self { version: None, at: Instant::now(), heir }
    }

    /// Notes what a Lease is now.
    fn look(&mut self, lease: &Lease, identity: &str) -> Look {
        let Some(holder) = holder(lease) else { return Look::Free };
        if holder == identity {
            return Look::Ours;
        }
        if self.heir.is_some_and(|heir| heir.follows(holder)) {
            return Look::Free;
        }
        if self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.at = Instant::now();
        }
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let holds =
            seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
        if self.at.elapsed() > holds { Look::Free } else { Look::Held(holder.clone()) }
    }
}
