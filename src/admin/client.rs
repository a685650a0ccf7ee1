//! The client of the admin API: blocking calls over the server's socket.
//!
//! Each call opens a connection of its own, so a client survives a restart of the server. Every
//! call may be repeated. After [`AdminClientError::Timeout`], [`AdminClientError::Broken`] and
//! [`AdminClientError::BadReply`] the request may have been carried out.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::api::{
    ApiError, CreateRequest, EmptyResponse, ErrorBody, ForceQuery, REQUEST_MAX, RESPONSE_MAX,
    ReclaimRequest, ServerInfo, VolumeListing,
};
use crate::volume::name::VolumeName;
use crate::volume::spec::VolumeStatus;
use crate::volume::{CapacityChange, Reclaimed, trash};

/// Default time limit of a call. No operation of the API waits for more than a few accesses to the
/// disk.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The characters that are escaped in a segment of a path (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The query parameter that reclaims a volume even if a claim uses it.
const FORCE: &str = "force=true";

/// The result of a call.
pub type Result<T> = std::result::Result<T, AdminClientError>;

/// Why a call failed.
#[derive(Error, Debug)]
pub enum AdminClientError {
    /// There is no socket, or no server listens on it.
    #[error(
        "no server listens on {}; start one (berth serve --volumes DIR), or name its socket with \
         --admin-socket",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The permissions of the socket do not allow it.
    #[error("no permission to open {}; use sudo, or run as the user of the server", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The connection failed for another reason.
    #[error("cannot connect to {}; name the server's socket with --admin-socket", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The runtime of the client cannot be created.
    #[error("cannot prepare a call")]
    Prepare(#[source] io::Error),
    /// There was no reply in time.
    #[error(
        "no reply within {} seconds; the request may still be carried out: check, or repeat it",
        .0.as_secs()
    )]
    Timeout(Duration),
    /// The connection broke during the call.
    #[error("the connection to the server broke; check what was done, or repeat the request")]
    Broken(#[source] hyper::Error),
    /// The request is larger than [`REQUEST_MAX`].
    #[error("the request has more than {REQUEST_MAX} bytes; give fewer labels or clients")]
    TooLarge,
    /// The reply is malformed or too large.
    #[error("cannot read the reply of the server; is it berth, in this version?")]
    BadReply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server replied with an error.
    #[error("{}", .0.message)]
    Refused(ApiError),
}

/// A successful reply.
#[derive(Debug)]
pub struct ApiReply<T> {
    /// The decoded value.
    pub value: T,
    /// The JSON as it was received.
    pub json: String,
}

/// A client of the server behind a socket. All calls block, for at most the time limit.
pub struct AdminClient {
    socket: PathBuf,
    runtime: Runtime,
    timeout: Duration,
}

impl AdminClient {
    /// Creates a client for the server behind `socket`. Opens no connection yet.
    ///
    /// # Errors
    /// [`AdminClientError::Prepare`], for lack of descriptors.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminClientError::Prepare)?;
        Ok(Self { socket: socket.into(), runtime, timeout: TIMEOUT })
    }

    /// Sets the time limit of each call.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns all volumes.
    pub fn list(&self) -> Result<ApiReply<VolumeListing>> {
        self.get("/v1/volumes")
    }

    /// Returns one volume.
    pub fn show(&self, name: &VolumeName) -> Result<ApiReply<VolumeStatus>> {
        self.get(&of(name, ""))
    }

    /// Creates a volume.
    pub fn create(&self, create: &CreateRequest) -> Result<ApiReply<VolumeStatus>> {
        self.call(Method::POST, "/v1/volumes", Some(create))
    }

    /// Changes the limits of a volume.
    pub fn expand(
        &self,
        name: &VolumeName,
        growth: &CapacityChange,
    ) -> Result<ApiReply<VolumeStatus>> {
        self.call(Method::POST, &of(name, "/expand"), Some(growth))
    }

    /// Reclaims a volume.
    pub fn reclaim(
        &self,
        name: &VolumeName,
        request: ReclaimRequest,
    ) -> Result<ApiReply<Reclaimed>> {
        let how = request.on_delete.and_then(|how| serde_json::to_value(how).ok());
        let how = how.as_ref().and_then(serde_json::Value::as_str);
        let how = how.map(|how| format!("onDelete={how}"));
        let words: Vec<_> =
            how.into_iter().chain(request.force.then(|| FORCE.to_owned())).collect();
        let query = if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) };
        self.call(Method::DELETE, &of(name, &query), None::<&()>)
    }

    /// Removes a volume, and keeps its directory.
    pub fn archive(
        &self,
        name: &VolumeName,
        ForceQuery { force }: ForceQuery,
    ) -> Result<ApiReply<Reclaimed>> {
        self.call(Method::POST, &of(name, &forced("/archive", force)), None::<&()>)
    }

    /// Empties a volume, and keeps it.
    pub fn recycle(
        &self,
        name: &VolumeName,
        ForceQuery { force }: ForceQuery,
    ) -> Result<ApiReply<Reclaimed>> {
        self.call(Method::POST, &of(name, &forced("/recycle", force)), None::<&()>)
    }

    /// Starts to count the usage of a volume again.
    pub fn recount(&self, name: &VolumeName) -> Result<ApiReply<EmptyResponse>> {
        self.call(Method::POST, &of(name, "/recount"), None::<&()>)
    }

    /// Returns the state of the trash.
    pub fn trash(&self) -> Result<ApiReply<trash::TrashStatus>> {
        self.get("/v1/trash")
    }

    /// Returns the properties and the state of the server.
    pub fn server(&self) -> Result<ApiReply<ServerInfo>> {
        self.get("/v1/server")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<ApiReply<T>> {
        self.call(Method::GET, path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<ApiReply<T>> {
        let unfit = |error: serde_json::Error| AdminClientError::BadReply(error.into());
        let body = body.map(serde_json::to_vec).transpose().map_err(unfit)?.unwrap_or_default();
        if body.len() > REQUEST_MAX {
            return Err(AdminClientError::TooLarge);
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "berth")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| AdminClientError::BadReply(error.into()))?;
        let exchange = async { timeout(self.timeout, self.exchange(request)).await };
        let (success, json) = self
            .runtime
            .block_on(exchange)
            .map_err(|_| AdminClientError::Timeout(self.timeout))??;
        decode(success, json)
    }

    /// Sends the request, and returns whether it succeeded, and the body of the response.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(bool, String)> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.refused(error))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(AdminClientError::Broken)?;
        let reply = async move {
            let response = sender.send_request(request).await.map_err(AdminClientError::Broken)?;
            Ok((response.status().is_success(), text(response).await?))
        };
        tokio::pin!(reply);
        tokio::select! {
            reply = &mut reply => return reply,
            // The connection has ended, but the reply may have arrived before. If not, the future
            // returns the better error.
            _ = connection => (),
        }
        reply.await
    }

    fn refused(&self, source: io::Error) -> AdminClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AdminClientError::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => AdminClientError::Forbidden { path, source },
            _ => AdminClientError::Connect { path, source },
        }
    }
}

/// The path of a volume, followed by `rest`.
fn of(name: &VolumeName, rest: &str) -> String {
    format!("/v1/volumes/{}{rest}", utf8_percent_encode(name.as_str(), ESCAPED))
}

/// A path, with the query for `force`.
fn forced(path: &str, force: bool) -> String {
    if force { format!("{path}?{FORCE}") } else { path.to_owned() }
}

async fn text(response: Response<Incoming>) -> Result<String> {
    let body = Limited::new(response.into_body(), RESPONSE_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(broken) => AdminClientError::Broken(*broken),
        Err(other) if other.is::<LengthLimitError>() => {
            AdminClientError::BadReply("it is too large".into())
        }
        Err(other) => AdminClientError::BadReply(other),
    })?;
    String::from_utf8(body.to_bytes().into())
        .map_err(|error| AdminClientError::BadReply(error.into()))
}

fn decode<T: DeserializeOwned>(success: bool, json: String) -> Result<ApiReply<T>> {
    let unfit = |error: serde_json::Error| AdminClientError::BadReply(error.into());
    if success {
        let value = serde_json::from_str(&json).map_err(unfit)?;
        return Ok(ApiReply { value, json });
    }
    let refusal: ErrorBody = serde_json::from_str(&json).map_err(unfit)?;
    Err(AdminClientError::Refused(refusal.error))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use tempfile::tempdir;

    use super::*;
    use crate::admin::api::ApiErrorKind;
    use crate::admin::fake::{FakeServer, FakeVolumes, name, spec};
    use crate::volume::VolumeOrigin;
    use crate::volume::spec::OnDelete;

    /// Starts a server that accepts one connection and sends `reply`, whatever the request.
    fn replying(path: &Path, reply: Vec<u8>) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let _ = stream.write_all(&reply); // the client may close before the last byte
        })
    }

    fn error_of(reply: Vec<u8>) -> AdminClientError {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let server = replying(&path, reply);
        let error = AdminClient::new(&path).unwrap().list().unwrap_err();
        server.join().unwrap();
        error
    }

    #[test]
    fn every_operation_reaches_the_volumes() {
        let (strange, data) = (name("a b ü?#%&+"), name("data"));
        let served = FakeServer::start(FakeVolumes::with(&["data"]));
        let client = AdminClient::new(&served.path).unwrap();
        let mut other = spec("other");
        other.name = strange.clone();
        let create = CreateRequest { spec: other, origin: VolumeOrigin::Fresh };
        assert_eq!(client.create(&create).unwrap().value.spec, create.spec);
        assert_eq!(client.show(&strange).unwrap().value.spec, create.spec);
        assert_eq!(client.list().unwrap().value.volumes.len(), 2);
        let growth = CapacityChange { capacity: Some(20 << 30), ..CapacityChange::default() };
        let grown = client.expand(&strange, &growth).unwrap().value.spec.capacity;
        assert_eq!(grown, 20 << 30);
        client.recount(&strange).unwrap();
        let recycled = client.recycle(&strange, ForceQuery::default()).unwrap().value;
        assert!(matches!(recycled, Reclaimed::Recycled(_)));
        let retain = ReclaimRequest { on_delete: Some(OnDelete::Retain), force: false };
        assert!(matches!(client.reclaim(&strange, retain).unwrap().value, Reclaimed::Retained(_)));
        assert_eq!(
            client.reclaim(&strange, ReclaimRequest::default()).unwrap().value,
            Reclaimed::Deleted
        );
        assert!(matches!(
            client.archive(&data, ForceQuery::default()).unwrap().value,
            Reclaimed::Archived(_)
        ));
        assert_eq!(client.list().unwrap().json, r#"{"volumes":[]}"#);
        assert_eq!(client.trash().unwrap().value.waiting, 0);
        assert_eq!(client.server().unwrap().value.about.version, "1.2.3");
    }

    #[test]
    fn errors_of_the_server_are_returned_unchanged() {
        let served = FakeServer::start(FakeVolumes::with(&[]));
        let client = AdminClient::new(&served.path).unwrap();
        let Err(AdminClientError::Refused(failure)) = client.show(&name("busy")) else {
            panic!("the volume is busy");
        };
        assert_eq!(failure.kind, ApiErrorKind::Busy);
        assert!(failure.message.contains("volume busy"), "{}", failure.message);
    }

    #[test]
    fn a_missing_server_and_a_missing_permission_are_different_errors() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let client = AdminClient::new(&path).unwrap();
        assert!(matches!(client.list(), Err(AdminClientError::NotRunning { .. })));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(client.list(), Err(AdminClientError::NotRunning { .. })));
        let refused = client.refused(io::ErrorKind::PermissionDenied.into());
        assert!(refused.to_string().contains("sudo"), "{refused}");
    }

    #[test]
    fn malformed_replies_are_errors() {
        let http = |body: &str| {
            let len = body.len();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{body}").into_bytes()
        };
        assert!(matches!(error_of(http(r#"{"volumes":{}}"#)), AdminClientError::BadReply(_)));
        assert!(matches!(error_of(http("")), AdminClientError::BadReply(_)));
        let longer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}".to_vec();
        assert!(matches!(error_of(longer), AdminClientError::Broken(_)));
        assert!(matches!(error_of(b"SSH-2.0\r\n".to_vec()), AdminClientError::Broken(_)));
        assert!(matches!(error_of(Vec::new()), AdminClientError::Broken(_)));
        let unfit = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        assert!(matches!(error_of(unfit), AdminClientError::BadReply(_)));
    }

    #[test]
    fn a_call_to_a_silent_server_times_out() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let _silent = UnixListener::bind(&path).unwrap();
        let client = AdminClient::new(&path).unwrap().timeout(Duration::from_millis(20));
        assert!(matches!(client.list(), Err(AdminClientError::Timeout(_))));
    }

    #[test]
    fn a_request_that_is_too_large_is_not_sent() {
        let mut large = spec("new");
        large.labels.insert("x".into(), "y".repeat(REQUEST_MAX));
        let create = CreateRequest { spec: large, origin: VolumeOrigin::Fresh };
        let client = AdminClient::new(Path::new("/nowhere")).unwrap();
        assert!(matches!(client.create(&create), Err(AdminClientError::TooLarge)));
    }
}
