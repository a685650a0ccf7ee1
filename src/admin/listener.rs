//! The read-only listener: connections, and what bounds them.
//!
//! Nobody proves who he is here, so that everything has a limit: connections and what they ask for
//! ([`super::places`]), the size of a request's header and the time for it, the life of a connection.
//! A body is refused ([`super::web`]), and what is not read in time is cut off.

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

use super::places::{Place, Places, Wish};
use crate::telemetry::bounded::network;

/// A request's header has at most so many bytes and lines, and comes within this time.
const HEADER_MAX: usize = 16 * 1024;
const HEADER_LINES: usize = 64;
const HEADER_TIME: Duration = Duration::from_secs(5);

/// After this time a connection ends with the request that it is at.
const LIFE: Duration = Duration::from_secs(60);

/// How long that request may take then.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long accepting rests when the system has no descriptor for a connection.
const RESPITE: Duration = Duration::from_millis(100);

/// The listener, bound and not yet answering.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Its address, with the port that it got.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with `routes` until `stop` is cancelled; those that are being answered
    /// then, to their end.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
        let places = Arc::<Places>::default();
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => match places.take(network(peer.ip())) {
                    Some(place) => {
                        tasks.spawn(connection(stream, routes.clone(), place, stop.clone()));
                    }
                    None => tracing::debug!(%peer, "admin connection refused: too many"),
                },
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(RESPITE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Where a request arrived: an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct Arrived(pub IpAddr);

/// Serves one connection.
async fn connection(stream: TcpStream, routes: Router, place: Place, stop: CancellationToken) {
    let Ok(local) = stream.local_addr() else { return };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(HEADER_LINES)
        .max_buf_size(HEADER_MAX);
    let service = service_fn(|request| answer(request, routes.clone(), &place, local.ip()));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = place.lost() => return,
        () = tokio::time::sleep(LIFE) => None,
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection closed");
    }
}

/// Answers one request, if there are not too many of its kind.
async fn answer(
    mut request: Request<Incoming>,
    routes: Router,
    place: &Place,
    local: IpAddr,
) -> Result<Response, Infallible> {
    let is_check = matches!(request.uri().path(), "/livez" | "/readyz");
    let Some(_busy) = place.begin(if is_check { Wish::Health } else { Wish::Page }) else {
        let head = [(header::RETRY_AFTER, "1"), (header::CONNECTION, "close")];
        let why = "too many pages are being made; ask again\n";
        return Ok((StatusCode::SERVICE_UNAVAILABLE, head, why).into_response());
    };
    request.extensions_mut().insert(Arrived(local));
    TowerToHyperService::new(routes).call(request).await
}
