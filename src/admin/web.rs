//! What the read-only listener answers: `/livez`, `/readyz`, `/metrics`, `/`.
//!
//! ```text
//!   request --> guard: GET or HEAD, no body, one of our names --> handler --> what was counted, whether
//!                                                                 |           it is ready
//!                                                                 |
//!                                                                 '--> a thread that may wait for a disk
//! ```
//!
//! At most [`ASKING`] such threads, each for as long as the disk takes; nobody waits for one longer
//! than [`PATIENCE`]. What is known without the disk is told in any case.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::host::Hosts;
use super::listener::Arrived;
use super::metrics;
use super::page::{self, View};
use super::rates::{self, Rates};
use super::source::Source;
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::scrape::{CONTENT_TYPE, Scrape};

/// Threads that ask the disk at a time.
const ASKING: usize = 2;

/// How long a thread is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What holds for every answer.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What the pages are made from.
pub struct Admin {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    rates: Mutex<Rates>,
    source: OnceLock<Arc<dyn Source>>,
    listen: OnceLock<Vec<SocketAddr>>,
    asking: Arc<Semaphore>,
    hosts: OnceLock<Hosts>,
}

impl Admin {
    /// Of a server that is starting.
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self {
            metrics,
            health,
            hosts: OnceLock::new(),
            rates: Mutex::default(),
            source: OnceLock::new(),
            listen: OnceLock::new(),
            asking: Arc::new(Semaphore::new(ASKING)),
        }
    }

    /// The server is there: whom to ask, and where it listens. Once; the first one counts.
    pub fn started(&self, source: Arc<dyn Source>, listen: Vec<SocketAddr>) {
        let _ = self.source.set(source);
        let _ = self.listen.set(listen);
    }

    /// By which names and addresses it may be called. Once, before the first request; the first one counts.
    pub fn called(&self, hosts: Hosts) {
        let _ = self.hosts.set(hosts);
    }

    /// Whether a request is meant for this server, or tells nothing that anybody may not know: health
    /// checks call by whatever name they have.
    fn is_meant(&self, request: &Request) -> bool {
        let Some(hosts) = self.hosts.get() else { return true };
        let arrived = request.extensions().get::<Arrived>();
        let local = arrived.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |arrived| arrived.0);
        matches!(request.uri().path(), "/livez" | "/readyz")
            || hosts.include(request.uri(), request.headers(), local)
    }

    /// The pages.
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
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the rest of the server on a thread that may wait. `None` if it is not there yet, or
    /// does not answer in time.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Source) -> T + Send + 'static,
    ) -> Option<T> {
        let source = Arc::clone(self.source.get()?);
        let asking = Arc::clone(&self.asking);
        let answer = async move {
            let place = asking.acquire_owned().await.ok()?;
            let work = move || {
                let answer = question(&*source);
                drop(place); // the thread's, and not the one's who may have stopped waiting
                answer
            };
            tokio::task::spawn_blocking(work).await.ok()
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok().flatten();
        if answer.is_none() {
            tracing::warn!(
                name: OFTEN, "a disk does not answer; the admin listener goes on without it"
            );
        }
        answer
    }
}

/// Lets only through what asks this server for something and brings nothing.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if !admin.is_meant(&request) {
        let close = [(header::CONNECTION, "close")];
        let why = "this server is not called so; --admin-host gives it more names\n";
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

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    match admin.health.ready().await {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    let metrics = Arc::clone(&admin.metrics);
    let told = admin.ask(move |source| {
        let volumes = source.volumes().map(metrics::of_volumes);
        let scrape = Scrape { metrics, gauges: source.gauges(), volumes };
        scrape.text(|registry| source.register(registry))
    });
    let text = told.await.unwrap_or_else(|| {
        let gauges = admin.source.get().map(|source| source.gauges()).unwrap_or_default();
        Scrape { metrics: Arc::clone(&admin.metrics), gauges, volumes: None }.text(|_| ())
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n").into_response(),
    }
}

async fn status_page(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let source = admin.source.get();
    // Before the server calls itself, or that would be one of the connections.
    let gauges = source.map(|source| source.gauges()).unwrap_or_default();
    let ready = admin.health.ready().await;
    let view = View {
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
    let told = admin.ask({
        let view = view.clone();
        move |source| page::render(&view, &page::Known::of(source))
    });
    let html = match told.await {
        Some(html) => html,
        None if started => page::render(&view, &page::Known::Silent),
        None => page::render(&view, &page::Known::Starting),
    };
    let policy = [(header::CONTENT_SECURITY_POLICY, policy(&view.nonce))];
    (policy, Html(html)).into_response()
}

/// A text that nobody has foreseen.
fn nonce() -> String {
    // Each state has keys of its own.
    let part = |n: u8| RandomState::new().hash_one(n);
    format!("{:016x}{:016x}", part(0), part(1))
}

/// What the page may do: show itself, in its own style.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}
