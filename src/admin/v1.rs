//! The paths of the API, version 1.
//!
//! ```text
//!   GET    /v1/volumes                all volumes                          Listing
//!   POST   /v1/volumes                makes one (Create)                   Status
//!   GET    /v1/volumes/NAME           one volume                           Status
//!   POST   /v1/volumes/NAME/expand    changes its limits (Growth)          Status
//!   DELETE /v1/volumes/NAME[?onDelete=delete|archive|recycle|retain]       Ended
//!   DELETE ...[&force=true]           even if a claim has it               Ended
//!   POST   /v1/volumes/NAME/archive[?force=true]  ends it so               Ended
//!   POST   /v1/volumes/NAME/recycle[?force=true]  likewise                 Ended
//!   POST   /v1/volumes/NAME/recount   counts again what it uses            Accepted
//!   GET    /v1/trash                  what is still to be removed          trash::Status
//!   GET    /v1/server                 version, addresses, disk, faults     Server
//! ```
//!
//! Everything may be asked again. What goes wrong is answered as [`Refusal`], whatever it is, with
//! a status that fits. Volumes block on their disk, so that nothing of them runs on this runtime's
//! thread: a slow disk must not hold up a health check. What was begun goes on when its client
//! goes away.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::api::{
    About, Accepted, Admin, Create, End, Failure, Force, Kind, Listing, REQUEST_MAX, Refusal,
    Server,
};
use crate::telemetry::log::Chain;
use crate::volume::Growth;
use crate::volume::error::{Error, Result as VolumeResult};
use crate::volume::name::Name;
use crate::volume::spec::OnDelete;

/// Operations at a time; more wait. Each has a thread while it runs.
const OPERATIONS: usize = 16;

/// How long a request's body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// What the handlers share.
struct Service {
    admin: Arc<dyn Admin>,
    about: About,
    slots: Arc<Semaphore>,
}

type Shared = State<Arc<Service>>;
type Answer = Result<Response, Problem>;

/// Something that cannot be done, and the status to say it with.
struct Problem(StatusCode, Failure);

/// The volume in a request's path.
struct Named(Name);

/// What a request asks for in its body.
struct Wish<T>(T);

/// What a request says in its query.
struct Asked<T>(T);

/// The API over `admin`.
pub fn router(admin: Arc<dyn Admin>, about: About) -> Router {
    let service = Service { admin, about, slots: Arc::new(Semaphore::new(OPERATIONS)) };
    Router::new()
        .route("/v1/volumes", get(list).post(create))
        .route("/v1/volumes/{name}", get(show).delete(end))
        .route("/v1/volumes/{name}/expand", post(expand))
        .route("/v1/volumes/{name}/archive", post(archive))
        .route("/v1/volumes/{name}/recycle", post(recycle))
        .route("/v1/volumes/{name}/recount", post(recount))
        .route("/v1/trash", get(trash))
        .route("/v1/server", get(server))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(Arc::new(service))
}

async fn list(State(s): Shared) -> Answer {
    s.run(|admin| Ok(Listing { volumes: admin.list(), promise: admin.promise() })).await
}

async fn create(State(s): Shared, Wish(wish): Wish<Create>) -> Answer {
    s.run(|admin| admin.create(wish.spec, wish.origin)).await
}

async fn show(State(s): Shared, Named(name): Named) -> Answer {
    s.run(move |admin| admin.show(&name)).await
}

async fn expand(State(s): Shared, Named(name): Named, Wish(growth): Wish<Growth>) -> Answer {
    s.run(move |admin| admin.expand(&name, growth)).await
}

async fn end(State(s): Shared, Named(name): Named, Asked(end): Asked<End>) -> Answer {
    s.run(move |admin| admin.end(&name, end)).await
}

async fn archive(State(s): Shared, Named(name): Named, Asked(how): Asked<Force>) -> Answer {
    s.end(name, OnDelete::Archive, how).await
}

async fn recycle(State(s): Shared, Named(name): Named, Asked(how): Asked<Force>) -> Answer {
    s.end(name, OnDelete::Recycle, how).await
}

async fn recount(State(s): Shared, Named(name): Named) -> Answer {
    s.run(move |admin| admin.recount(&name).map(|()| Accepted {})).await
}

async fn trash(State(s): Shared) -> Answer {
    s.run(|admin| Ok(admin.trash())).await
}

async fn server(State(s): Shared) -> Answer {
    let about = s.about.clone();
    s.run(|admin| Ok(describe(admin, about))).await
}

/// A disk that does not answer is a fault among the others, not the end of the answer.
fn describe(admin: &dyn Admin, about: About) -> Server {
    let mut faults = admin.faults();
    let disk = admin.disk().map_err(|error| faults.push(Chain(&error).to_string())).ok();
    Server { about, disk, faults }
}

async fn no_such_path(request: Request) -> Problem {
    let (path, version) = (request.uri().path(), env!("CARGO_PKG_VERSION"));
    // Not the kind NotFound: what is missing is no volume.
    Problem::invalid(StatusCode::NOT_FOUND, format!("berth {version} has no path {path}"))
}

async fn no_such_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::invalid(StatusCode::METHOD_NOT_ALLOWED, format!("cannot {method} {path}"))
}

impl Service {
    async fn end(&self, name: Name, how: OnDelete, Force { force }: Force) -> Answer {
        self.run(move |admin| admin.end(&name, End { on_delete: Some(how), force })).await
    }

    /// Runs an operation on a thread that may block.
    async fn run<T: Serialize + Send + 'static>(
        &self,
        operation: impl FnOnce(&dyn Admin) -> VolumeResult<T> + Send + 'static,
    ) -> Answer {
        let admin = Arc::clone(&self.admin);
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let ran = spawn_blocking(move || {
            let _slot = slot; // until it ends, even when nobody waits for it any more
            operation(&*admin)
        });
        match ran.await {
            Ok(Ok(answer)) => Ok(Json(answer).into_response()),
            Ok(Err(error)) => Err(error.into()),
            Err(panicked) => Err(Problem::internal(&panicked)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        let named = Name::new(name.clone()).map(Self);
        named.map_err(|why| Error::Name { name, why }.into())
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(asked))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Wish<T> {
    type Rejection = Problem;

    fn from_request(request: Request, _: &S) -> impl Future<Output = Result<Self, Problem>> {
        let body = Limited::new(request.into_body(), REQUEST_MAX).collect();
        async {
            let late = |_| Problem::invalid(StatusCode::REQUEST_TIMEOUT, "the body never ended");
            let body = timeout(BODY_PATIENCE, body).await.map_err(late)?;
            let body = body.map_err(|error| Problem::of_body(&*error))?.to_bytes();
            let wish = serde_json::from_slice(&body);
            wish.map(Self).map_err(|error| Problem::invalid(StatusCode::BAD_REQUEST, error))
        }
    }
}

impl Problem {
    fn invalid(status: StatusCode, message: impl ToString) -> Self {
        Self(status, Failure { kind: Kind::Invalid, message: message.to_string() })
    }

    fn internal(error: &dyn std::error::Error) -> Self {
        let message = Chain(error).to_string();
        tracing::error!(error = message, "an operation on volumes panicked");
        Self(StatusCode::INTERNAL_SERVER_ERROR, Failure { kind: Kind::Internal, message })
    }

    fn of_body(error: &(dyn std::error::Error + 'static)) -> Self {
        if error.is::<LengthLimitError>() {
            let message = format!("the body is larger than {REQUEST_MAX} bytes");
            return Self::invalid(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Self::invalid(StatusCode::BAD_REQUEST, Chain(error))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let failure = Failure::from(&error);
        if failure.kind == Kind::Internal {
            tracing::error!(error = failure.message, "cannot do what was asked for a volume");
        }
        Self(status(failure.kind), failure)
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::admin::double::{Double, about, runtime, spec};

    struct Said {
        status: u16,
        body: Value,
    }

    /// Asks a server that has the volume `data`.
    fn ask(method: &str, path: &str, body: &str) -> Said {
        ask_of(&Double::with(&["data", "held", "umläute & mehr"]), method, path, body)
    }

    fn ask_of(double: &Arc<Double>, method: &str, path: &str, body: &str) -> Said {
        runtime().block_on(async {
            let request = Request::builder().method(method).uri(path);
            let request = request.body(axum::body::Body::from(body.to_owned())).unwrap();
            let response = router(double.clone(), about()).oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).expect("everything is answered in JSON");
            Said { status, body }
        })
    }

    #[track_caller]
    fn refused(said: &Said, status: u16, kind: &str) -> String {
        assert_eq!(said.status, status, "{}", said.body);
        let keys: Vec<_> = said.body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["error"]);
        assert_eq!(said.body["error"]["kind"], kind, "{}", said.body);
        said.body["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_path_answers() {
        let check = |method, path, body, field: &str, expected: Value| {
            let said = ask(method, path, body);
            assert_eq!(said.status, 200, "{method} {path}: {}", said.body);
            assert_eq!(said.body.pointer(field), Some(&expected), "{method} {path}: {}", said.body);
        };
        let new = json!({ "spec": spec("new"), "origin": "fresh" }).to_string();
        check("POST", "/v1/volumes", &new, "/spec/name", json!("new"));
        check("GET", "/v1/volumes", "", "/volumes/2/spec/name", json!("umläute & mehr"));
        check("GET", "/v1/volumes/data", "", "/path", json!("/data"));
        check("GET", "/v1/volumes/uml%C3%A4ute%20%26%20mehr", "", "/phase/name", json!("ready"));
        let more = r#"{"capacity":21474836480,"inodes":7}"#;
        check("POST", "/v1/volumes/data/expand", more, "/spec/inodes", json!(7));
        check("DELETE", "/v1/volumes/data", "", "/outcome", json!("deleted"));
        let archived = json!("/srv/archived-data");
        check("DELETE", "/v1/volumes/data?onDelete=archive", "", "/volume", archived.clone());
        check("DELETE", "/v1/volumes/data?onDelete=retain", "", "/outcome", json!("retained"));
        check("POST", "/v1/volumes/data/archive", "", "/volume", archived);
        check("POST", "/v1/volumes/data/recycle", "", "/volume/path", json!("/data"));
        check("DELETE", "/v1/volumes/held?force=true", "", "/outcome", json!("deleted"));
        let both = "/v1/volumes/held?onDelete=recycle&force=true";
        check("DELETE", both, "", "/outcome", json!("recycled"));
        check("POST", "/v1/volumes/held/archive?force=true", "", "/outcome", json!("archived"));
        check("POST", "/v1/volumes/held/recycle?force=true", "", "/outcome", json!("recycled"));
        check("DELETE", "/v1/volumes/held?onDelete=retain", "", "/outcome", json!("retained"));
        check("POST", "/v1/volumes/data/recount", "", "", json!({}));
        check("GET", "/v1/trash", "", "/waiting", json!(0));
        check("GET", "/v1/server", "", "/version", json!("1.2.3"));
        check("GET", "/v1/server", "", "/listen/0", json!("127.0.0.1:2050"));
        check("GET", "/v1/server", "", "/disk/free", json!(50));
    }

    #[test]
    fn every_kind_of_error_has_its_status() {
        let check = |name: &str, status, kind, message: &str| {
            let said = refused(&ask("GET", &format!("/v1/volumes/{name}"), ""), status, kind);
            assert_eq!(said, message);
            let body = json!({ "spec": spec(name) }).to_string();
            if kind != "notFound" {
                refused(&ask("POST", "/v1/volumes", &body), status, kind);
            }
        };
        check("invalid", 400, "invalid", "it makes no sense\u{1b}[2J");
        check("nothing", 404, "notFound", "there is no volume nothing");
        let way = "/x is in the way; adopt it (--adopt), or choose another name";
        check("conflict", 409, "conflict", way);
        check("busy", 503, "busy", "volume busy is being counted; try again when that is done");
        check("nospace", 507, "noSpace", "capacity 2 is more than the 1 bytes of the disk");
        check("internal", 500, "internal", "cannot read /x: Input/output error (os error 5)");
    }

    #[test]
    fn a_volume_that_a_claim_has_is_taken_away_by_force_only() {
        let check = |method: &str, path: &str| {
            let message = refused(&ask(method, path, ""), 409, "conflict");
            assert!(message.contains("claim default/data") && message.contains("force=true"));
        };
        check("DELETE", "/v1/volumes/held");
        check("DELETE", "/v1/volumes/held?onDelete=archive");
        check("DELETE", "/v1/volumes/held?force=false");
        check("POST", "/v1/volumes/held/archive");
        check("POST", "/v1/volumes/held/recycle");
    }

    #[test]
    fn an_operation_that_panics_is_an_error_of_the_server() {
        refused(&ask("GET", "/v1/volumes/panic", ""), 500, "internal");
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_done() {
        let double = Double::with(&["data"]);
        let before = double.list();
        let check = |method, path: &str, body: &str, status, word: &str| {
            let message = refused(&ask_of(&double, method, path, body), status, "invalid");
            assert!(message.contains(word), "{method} {path} {body}: {message}");
        };
        let wish = |rest: &str| format!(r#"{{"spec":{{"name":"n","id":"n","capacity":5{rest}"#);
        check("POST", "/v1/volumes", "", 400, "EOF");
        check("POST", "/v1/volumes", "[]x", 400, "");
        check("POST", "/v1/volumes", &wish(r#","colour":1}}"#), 400, "colour");
        check("POST", "/v1/volumes", &wish(r#"},"colour":1}"#), 400, "colour");
        check("POST", "/v1/volumes", &wish(r#","squash":"all"}}"#), 400, "all_squash");
        check("POST", "/v1/volumes", &wish(r#"},"origin":{"clone":"a/b"}}"#), 400, "slash");
        check("POST", "/v1/volumes/data/expand", r#"{"size":5}"#, 400, "size");
        check("POST", "/v1/volumes/data/expand", r#"{"capacity":-1}"#, 400, "-1");
        check("DELETE", "/v1/volumes/data?onDelete=burn", "", 400, "burn");
        check("DELETE", "/v1/volumes/data?ondelete=retain", "", 400, "ondelete");
        check("DELETE", "/v1/volumes/data?force=perhaps", "", 400, "force");
        check("POST", "/v1/volumes/data/recycle?onDelete=delete", "", 400, "onDelete");
        check("GET", "/v1/volumes/..%2Fdata", "", 400, "dot");
        check("GET", "/v1/volumes/a%2Fb", "", 400, "slash");
        check("GET", "/v1/volumes/%FF", "", 400, "UTF-8");
        check("GET", "/v1/nothing", "", 404, "/v1/nothing");
        check("GET", "/", "", 404, "no path /");
        check("PUT", "/v1/volumes/data", "", 405, "PUT");
        assert_eq!(double.list(), before);
    }

    #[test]
    fn a_body_is_bounded() {
        let mut wish = json!({ "spec": spec("new") });
        wish["spec"]["labels"]["x"] = "y".repeat(REQUEST_MAX - 1000).into();
        assert_eq!(ask("POST", "/v1/volumes", &wish.to_string()).status, 200);
        wish["spec"]["labels"]["x"] = "y".repeat(REQUEST_MAX).into();
        let said = ask("POST", "/v1/volumes", &wish.to_string());
        let message = refused(&said, 413, "invalid");
        assert!(message.contains(&REQUEST_MAX.to_string()), "{message}");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_a_fault() {
        let said = ask_of(&Double::with(&["lost"]), "GET", "/v1/server", "");
        assert_eq!((said.status, &said.body["disk"]), (200, &Value::Null));
        let expected = json!(["something is wrong", "there is no volume disk"]);
        assert_eq!(said.body["faults"], expected);
    }
}
