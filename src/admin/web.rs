//! The pages of the read-only listener: `/livez`, `/readyz`, `/metrics`, `/`.
//!
//! ```text
//!   request --> guard: GET or HEAD, no body, known host --> handler --> counters, readiness
//!                                                              |
//!                                                              '--> blocking thread --> disk
//! ```
//!
//! At most [`QUERIES`] threads read the state of the disks, and each may block for as long as a
//! disk does. A request waits for them at most [`TIMEOUT`], and then replies with what is known
//! without the disks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::host::AllowedHosts;
use super::listener::LocalAddress;
use super::metrics;
use super::page::{self, PageContent, PageContext};
use super::rates::{self, Rates};
use super::server_view::ServerView;
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::scrape::{CONTENT_TYPE, Scrape};

/// Threads that may block on a disk at a time.
const QUERIES: usize = 2;

/// How long a request waits for such a thread.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Headers of the responses.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The state behind the pages.
pub struct AdminPages {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    rates: Mutex<Rates>,
    source: OnceLock<Arc<dyn ServerView>>,
    listen: OnceLock<Vec<SocketAddr>>,
    queries: Arc<Semaphore>,
    hosts: OnceLock<AllowedHosts>,
}

impl AdminPages {
    /// Creates the pages of a server that is starting.
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self {
            metrics,
            health,
            hosts: OnceLock::new(),
            rates: Mutex::default(),
            source: OnceLock::new(),
            listen: OnceLock::new(),
            queries: Arc::new(Semaphore::new(QUERIES)),
        }
    }

    /// Notes that the server has started: its state, and the addresses on which it serves NFS. Only
    /// the first call has an effect.
    pub fn started(&self, source: Arc<dyn ServerView>, listen: Vec<SocketAddr>) {
        let _ = self.source.set(source);
        let _ = self.listen.set(listen);
    }

    /// Sets the hosts that requests may name; must be called before the first request. Only the
    /// first call has an effect.
    pub fn set_hosts(&self, hosts: AllowedHosts) {
        let _ = self.hosts.set(hosts);
    }

    /// Whether a request has a host of this server, or is a health check. Health checks are open to
    /// any host: they reveal only whether the server is ready, and probes use names that are not
    /// known here.
    fn is_allowed(&self, request: &Request) -> bool {
        let Some(hosts) = self.hosts.get() else { return true };
        let arrived = request.extensions().get::<LocalAddress>();
        let local = arrived.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |arrived| arrived.0);
        matches!(request.uri().path(), "/livez" | "/readyz")
            || hosts.include(request.uri(), request.headers(), local)
    }

    /// Returns the routes of the pages.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(status_page))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(scrape))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
            .layer(middleware::from_fn_with_state(Arc::clone(&self), guard))
            .with_state(self)
    }

    /// Samples the throughput until `stop` is cancelled.
    pub async fn sample(self: Arc<Self>, stop: CancellationToken) {
        let mut clock = tokio::time::interval(rates::EVERY);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = stop.cancelled() => return,
            }
            self.rates().sample(Instant::now(), self.metrics.throughput());
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock()
    }

    /// Reads the state of the server on a blocking thread. `None` if the server is still starting,
    /// or the thread does not finish in time.
    async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn ServerView) -> T + Send + 'static,
    ) -> Option<T> {
        let source = Arc::clone(self.source.get()?);
        let queries = Arc::clone(&self.queries);
        let result = async move {
            let permit = queries.acquire_owned().await.ok()?;
            let work = move || {
                let result = read(&*source);
                drop(permit); // the thread holds the permit, also after the request timed out
                result
            };
            tokio::task::spawn_blocking(work).await.ok()
        };
        let result = tokio::time::timeout(TIMEOUT, result).await.ok().flatten();
        if result.is_none() {
            tracing::warn!(
                name: OFTEN, "a disk does not respond; the admin listener replies without it"
            );
        }
        result
    }
}

/// Refuses requests for other hosts, with other methods than GET and HEAD, or with a body.
async fn guard(State(admin): State<Arc<AdminPages>>, request: Request, next: Next) -> Response {
    if !admin.is_allowed(&request) {
        let close = [(header::CONNECTION, "close")];
        let why =
            "the host of the request is not a name of this server; add it with --admin-host\n";
        return (StatusCode::MISDIRECTED_REQUEST, HEADERS, close, why).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, "GET, HEAD"), (header::CONNECTION, "close")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "this listener is read-only\n")
            .into_response();
    }
    if !request.body().is_end_stream() {
        let close = [(header::CONNECTION, "close")];
        return (StatusCode::PAYLOAD_TOO_LARGE, close, "no body is accepted\n").into_response();
    }
    (HEADERS, next.run(request.map(|_| Body::empty())).await).into_response()
}

async fn ready(State(admin): State<Arc<AdminPages>>) -> Response {
    match admin.health.ready().await {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn scrape(State(admin): State<Arc<AdminPages>>) -> Response {
    let metrics = Arc::clone(&admin.metrics);
    let text = admin.query(move |source| {
        let volumes = source.volumes().map(metrics::of_volumes);
        let scrape = Scrape { metrics, gauges: source.gauges(), volumes };
        scrape.text(|registry| source.register(registry))
    });
    let text = text.await.unwrap_or_else(|| {
        let gauges = admin.source.get().map(|source| source.gauges()).unwrap_or_default();
        Scrape { metrics: Arc::clone(&admin.metrics), gauges, volumes: None }.text(|_| ())
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n").into_response(),
    }
}

async fn status_page(State(admin): State<Arc<AdminPages>>, RawQuery(query): RawQuery) -> Response {
    let source = admin.source.get();
    // Read before the readiness check, whose own connection would count.
    let gauges = source.map(|source| source.gauges()).unwrap_or_default();
    let ready = admin.health.ready().await;
    let view = PageContext {
        all: query.as_deref() == Some("all"),
        uptime: admin.metrics.started().elapsed().unwrap_or_default(),
        listen: admin.listen.get().cloned().unwrap_or_default(),
        gauges,
        accepted: admin.metrics.accepted.get(),
        refused: admin.metrics.refused.get(),
        rates: admin.rates().clone(),
        nonce: nonce(),
        ready,
    };
    let started = source.is_some();
    let html = admin.query({
        let view = view.clone();
        move |source| page::render(&view, &PageContent::of(source))
    });
    let html = match html.await {
        Some(html) => html,
        None if started => page::render(&view, &PageContent::Unavailable),
        None => page::render(&view, &PageContent::Starting),
    };
    let policy = [(header::CONTENT_SECURITY_POLICY, policy(&view.nonce))];
    (policy, Html(html)).into_response()
}

/// An unpredictable nonce for the Content-Security-Policy.
fn nonce() -> String {
    // Each `RandomState` has other keys.
    let part = |n: u8| RandomState::new().hash_one(n);
    format!("{:016x}{:016x}", part(0), part(1))
}

/// The Content-Security-Policy: nothing but the page's own style.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}
