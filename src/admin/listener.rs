//! The read-only listener: accepts connections, and bounds them.
//!
//! Clients are not authenticated, so everything has a limit: the number of connections and of
//! requests in progress ([`super::slots`]), the size of a request's header and the time for it, and
//! the life of a connection. Bodies are refused ([`super::web`]), and a response that the client
//! does not read is cut off when the connection's life ends.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::slots::{ConnectionSlot, ConnectionSlots, RequestKind};
use crate::telemetry::bounded::network;

/// Limits of a request's header: bytes, lines, and the time to receive it.
const HEADER_MAX: usize = 16 * 1024;
const HEADER_LINES: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Age at which a connection is closed, after the request in progress.
const LIFE: Duration = Duration::from_secs(60);

/// Time limit of that request.
const GRACE: Duration = Duration::from_secs(5);

/// Pause before the next attempt when accepting fails, for example for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener, which does not accept yet.
pub struct HttpListener {
    socket: TcpListener,
    address: SocketAddr,
}

impl HttpListener {
    /// Binds an address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Returns the bound address, with the actual port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `routes` until `stop` is cancelled, and then completes the requests in progress.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
        let slots = Arc::<ConnectionSlots>::default();
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => match slots.take(network(peer.ip())) {
                    Some(slot) => {
                        tasks.spawn(connection(stream, routes.clone(), slot, stop.clone()));
                    }
                    None => tracing::debug!(%peer, "admin connection refused: too many"),
                },
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// The local address at which a request arrived, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub IpAddr);

/// Serves one connection.
async fn connection(
    stream: TcpStream,
    routes: Router,
    slot: ConnectionSlot,
    stop: CancellationToken,
) {
    let Ok(local) = stream.local_addr() else { return };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADER_LINES)
        .max_buf_size(HEADER_MAX);
    let service = service_fn(|request| respond(request, routes.clone(), &slot, local.ip()));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = slot.lost() => return,
        () = tokio::time::sleep(LIFE) => None,
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection closed");
    }
}

/// Responds to one request; with an error if too many of its kind are in progress.
async fn respond(
    mut request: Request<Incoming>,
    routes: Router,
    slot: &ConnectionSlot,
    local: IpAddr,
) -> Result<Response, Infallible> {
    let is_check = matches!(request.uri().path(), "/livez" | "/readyz");
    let kind = if is_check { RequestKind::Health } else { RequestKind::Page };
    let Some(_active) = slot.begin(kind) else {
        let head = [(header::RETRY_AFTER, "1"), (header::CONNECTION, "close")];
        let why = "too many requests are in progress; try again later\n";
        return Ok((StatusCode::SERVICE_UNAVAILABLE, head, why).into_response());
    };
    request.extensions_mut().insert(LocalAddress(local));
    TowerToHyperService::new(routes).call(request).await
}
