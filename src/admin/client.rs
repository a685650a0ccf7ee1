//! The caller's side of the admin API: one request, one answer, over the server's socket.
//!
//! It blocks: the command line has nothing else to do. A connection is made for each call, so that
//! a server that was started again in between is found again. Everything may be asked again; only
//! after [`Error::Timeout`] and [`Error::Broken`] it is open whether it was done.

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
    ANSWER_MAX, Accepted, Create, End, Failure, Force, Listing, REQUEST_MAX, Refusal, Server,
};
use crate::volume::name::Name;
use crate::volume::spec::Status;
use crate::volume::{Ended, Growth, trash};

/// How long a call may take. Nothing that the server answers waits for more than a few accesses
/// to its disk.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is not written as it is in a part of a path (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Says that something is done even if a claim has the volume.
const FORCE: &str = "force=true";

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer, or which.
#[derive(Error, Debug)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "no server listens on {}; start one (berth serve --volumes DIR), or name its socket with \
         --admin-socket",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error("may not use {}; try it as the user of the server, or with sudo", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses to connect.
    #[error("cannot connect to {}; name the server's socket with --admin-socket", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no runtime for the call.
    #[error("cannot prepare a call")]
    Prepare(#[source] io::Error),
    /// The server took too long.
    #[error("no answer within {} seconds; it may still be done: look, or ask again", .0.as_secs())]
    Timeout(Duration),
    /// The server went away in the middle.
    #[error("the conversation with the server broke off; look what was done, or ask again")]
    Broken(#[source] hyper::Error),
    /// The request is larger than the server would read.
    #[error("the request has more than {REQUEST_MAX} bytes; give fewer labels or clients")]
    TooMuch,
    /// The answer is too large, or none.
    #[error("cannot understand the answer of the server; is it berth, in this version?")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server says no.
    #[error("{}", .0.message)]
    Refused(Failure),
}

/// An answer, understood and as it came.
#[derive(Debug)]
pub struct Answer<T> {
    /// What it says.
    pub value: T,
    /// Its JSON.
    pub json: String,
}

/// Somebody who asks a server.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
    patience: Duration,
}

impl Client {
    /// A client for the server behind `socket`. Asks nothing yet.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Prepare)?;
        Ok(Self { socket: socket.into(), runtime, patience: PATIENCE })
    }

    /// The same, with less or more patience.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// All volumes.
    pub fn list(&self) -> Result<Answer<Listing>> {
        self.get("/v1/volumes")
    }

    /// One volume.
    pub fn show(&self, name: &Name) -> Result<Answer<Status>> {
        self.get(&of(name, ""))
    }

    /// Makes a volume.
    pub fn create(&self, create: &Create) -> Result<Answer<Status>> {
        self.call(Method::POST, "/v1/volumes", Some(create))
    }

    /// Changes a volume's limits.
    pub fn expand(&self, name: &Name, growth: &Growth) -> Result<Answer<Status>> {
        self.call(Method::POST, &of(name, "/expand"), Some(growth))
    }

    /// Ends a volume.
    pub fn end(&self, name: &Name, end: End) -> Result<Answer<Ended>> {
        let how = end.on_delete.and_then(|how| serde_json::to_value(how).ok());
        let how = how.as_ref().and_then(serde_json::Value::as_str);
        let how = how.map(|how| format!("onDelete={how}"));
        let words: Vec<_> = how.into_iter().chain(end.force.then(|| FORCE.to_owned())).collect();
        let query = if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) };
        self.call(Method::DELETE, &of(name, &query), None::<&()>)
    }

    /// Puts a volume's directory aside.
    pub fn archive(&self, name: &Name, Force { force }: Force) -> Result<Answer<Ended>> {
        self.call(Method::POST, &of(name, &forced("/archive", force)), None::<&()>)
    }

    /// Empties a volume for the next user.
    pub fn recycle(&self, name: &Name, Force { force }: Force) -> Result<Answer<Ended>> {
        self.call(Method::POST, &of(name, &forced("/recycle", force)), None::<&()>)
    }

    /// Has a volume counted again.
    pub fn recount(&self, name: &Name) -> Result<Answer<Accepted>> {
        self.call(Method::POST, &of(name, "/recount"), None::<&()>)
    }

    /// What is still to be removed.
    pub fn trash(&self) -> Result<Answer<trash::Status>> {
        self.get("/v1/trash")
    }

    /// What the server says of itself.
    pub fn server(&self) -> Result<Answer<Server>> {
        self.get("/v1/server")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>> {
        self.call(Method::GET, path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer<T>> {
        let unfit = |error: serde_json::Error| Error::Answer(error.into());
        let body = body.map(serde_json::to_vec).transpose().map_err(unfit)?.unwrap_or_default();
        if body.len() > REQUEST_MAX {
            return Err(Error::TooMuch);
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "berth")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Answer(error.into()))?;
        let exchange = async { timeout(self.patience, self.exchange(request)).await };
        let (done, json) =
            self.runtime.block_on(exchange).map_err(|_| Error::Timeout(self.patience))??;
        understand(done, json)
    }

    /// Sends the request, and returns whether it was done, and what the server said.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(bool, String)> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.refused(error))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(Error::Broken)?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(Error::Broken)?;
            Ok((response.status().is_success(), text(response).await?))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            // How it ended, the answer says as well, and better: there may be one.
            _ = connection => (),
        }
        answer.await
    }

    fn refused(&self, source: io::Error) -> Error {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => Error::Forbidden { path, source },
            _ => Error::Connect { path, source },
        }
    }
}

/// The path of a volume, and what follows it.
fn of(name: &Name, rest: &str) -> String {
    format!("/v1/volumes/{}{rest}", utf8_percent_encode(name.as_str(), ESCAPED))
}

/// A path, and whether it is forced.
fn forced(path: &str, force: bool) -> String {
    if force { format!("{path}?{FORCE}") } else { path.to_owned() }
}

async fn text(response: Response<Incoming>) -> Result<String> {
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(broken) => Error::Broken(*broken),
        Err(other) if other.is::<LengthLimitError>() => Error::Answer("it is too large".into()),
        Err(other) => Error::Answer(other),
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|error| Error::Answer(error.into()))
}

fn understand<T: DeserializeOwned>(done: bool, json: String) -> Result<Answer<T>> {
    let unfit = |error: serde_json::Error| Error::Answer(error.into());
    if done {
        let value = serde_json::from_str(&json).map_err(unfit)?;
        return Ok(Answer { value, json });
    }
    let refusal: Refusal = serde_json::from_str(&json).map_err(unfit)?;
    Err(Error::Refused(refusal.error))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use tempfile::tempdir;

    use super::*;
    use crate::admin::api::Kind;
    use crate::admin::double::{Double, Served, name, spec};
    use crate::volume::Origin;
    use crate::volume::spec::OnDelete;

    /// A server that gives one answer, whatever it is asked.
    fn answering(path: &Path, answer: Vec<u8>) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let _ = stream.write_all(&answer); // it may hear enough before the end
        })
    }

    fn asked(answer: Vec<u8>) -> Error {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let server = answering(&path, answer);
        let error = Client::new(&path).unwrap().list().unwrap_err();
        server.join().unwrap();
        error
    }

    #[test]
    fn every_operation_reaches_the_volumes() {
        let (strange, data) = (name("a b ü?#%&+"), name("data"));
        let served = Served::start(Double::with(&["data"]));
        let client = Client::new(&served.path).unwrap();
        let mut wish = spec("other");
        wish.name = strange.clone();
        let create = Create { spec: wish, origin: Origin::Fresh };
        assert_eq!(client.create(&create).unwrap().value.spec, create.spec);
        assert_eq!(client.show(&strange).unwrap().value.spec, create.spec);
        assert_eq!(client.list().unwrap().value.volumes.len(), 2);
        let growth = Growth { capacity: Some(20 << 30), ..Growth::default() };
        let grown = client.expand(&strange, &growth).unwrap().value.spec.capacity;
        assert_eq!(grown, 20 << 30);
        client.recount(&strange).unwrap();
        let recycled = client.recycle(&strange, Force::default()).unwrap().value;
        assert!(matches!(recycled, Ended::Recycled(_)));
        let retain = End { on_delete: Some(OnDelete::Retain), force: false };
        assert!(matches!(client.end(&strange, retain).unwrap().value, Ended::Retained(_)));
        assert_eq!(client.end(&strange, End::default()).unwrap().value, Ended::Deleted);
        assert!(matches!(
            client.archive(&data, Force::default()).unwrap().value,
            Ended::Archived(_)
        ));
        assert_eq!(client.list().unwrap().json, r#"{"volumes":[]}"#);
        assert_eq!(client.trash().unwrap().value.waiting, 0);
        assert_eq!(client.server().unwrap().value.about.version, "1.2.3");
    }

    #[test]
    fn a_refusal_is_told_as_it_is() {
        let served = Served::start(Double::with(&[]));
        let client = Client::new(&served.path).unwrap();
        let Err(Error::Refused(failure)) = client.show(&name("busy")) else {
            panic!("it is busy");
        };
        assert_eq!(failure.kind, Kind::Busy);
        assert!(failure.message.contains("volume busy"), "{}", failure.message);
    }

    #[test]
    fn a_server_that_is_not_there_is_told_from_one_that_is_closed() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let client = Client::new(&path).unwrap();
        assert!(matches!(client.list(), Err(Error::NotRunning { .. })));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(client.list(), Err(Error::NotRunning { .. })));
        let refused = client.refused(io::ErrorKind::PermissionDenied.into());
        assert!(refused.to_string().contains("sudo"), "{refused}");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let http = |body: &str| {
            let len = body.len();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{body}").into_bytes()
        };
        assert!(matches!(asked(http(r#"{"volumes":{}}"#)), Error::Answer(_)));
        assert!(matches!(asked(http("")), Error::Answer(_)));
        let longer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}".to_vec();
        assert!(matches!(asked(longer), Error::Broken(_)));
        assert!(matches!(asked(b"SSH-2.0\r\n".to_vec()), Error::Broken(_)));
        assert!(matches!(asked(Vec::new()), Error::Broken(_)));
        let unfit = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        assert!(matches!(asked(unfit), Error::Answer(_)));
    }

    #[test]
    fn a_silent_server_is_not_waited_for_for_ever() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("s");
        let _silent = UnixListener::bind(&path).unwrap();
        let client = Client::new(&path).unwrap().patience(Duration::from_millis(20));
        assert!(matches!(client.list(), Err(Error::Timeout(_))));
    }

    #[test]
    fn a_wish_that_is_too_large_is_not_sent() {
        let mut wish = spec("new");
        wish.labels.insert("x".into(), "y".repeat(REQUEST_MAX));
        let create = Create { spec: wish, origin: Origin::Fresh };
        let client = Client::new(Path::new("/nowhere")).unwrap();
        assert!(matches!(client.create(&create), Err(Error::TooMuch)));
    }
}
