//! The routes of the API, version 1.
//!
//! ```text
//!   GET    /v1/volumes                all volumes                          VolumeListing
//!   POST   /v1/volumes                creates one (CreateRequest)          VolumeStatus
//!   GET    /v1/volumes/NAME           one volume                           VolumeStatus
//!   POST   /v1/volumes/NAME/expand    changes its limits (CapacityChange)          VolumeStatus
//!   DELETE /v1/volumes/NAME[?onDelete=delete|archive|recycle|retain]       Reclaimed
//!   DELETE ...[&force=true]           even if a claim uses it              Reclaimed
//!   POST   /v1/volumes/NAME/archive[?force=true]  removes it, keeps files  Reclaimed
//!   POST   /v1/volumes/NAME/recycle[?force=true]  empties it               Reclaimed
//!   POST   /v1/volumes/NAME/recount   counts its usage again               EmptyResponse
//!   GET    /v1/trash                  what is still to be removed          trash::TrashStatus
//!   GET    /v1/server                 version, addresses, disk, faults     ServerInfo
//! ```
//!
//! Every request may be repeated. Every error is an [`ErrorBody`], with a matching status.
//! Operations block on the disk and run on blocking threads, because a slow disk must not delay a
//! health check on this runtime. An operation that has started completes even if its client
//! disconnects.

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
    ApiError, ApiErrorKind, CreateRequest, EmptyResponse, ErrorBody, ForceQuery, REQUEST_MAX,
    ReclaimRequest, ServerInfo, ServerProperties, VolumeApi, VolumeListing,
};
use crate::telemetry::log::Chain;
use crate::volume::CapacityChange;
use crate::volume::error::{Error, Result as VolumeResult};
use crate::volume::name::VolumeName;
use crate::volume::spec::OnDelete;

/// Operations at a time; more wait. Each has a thread while it runs.
const OPERATIONS: usize = 16;

/// Time limit for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The state that the handlers share.
struct ApiService {
    volumes: Arc<dyn VolumeApi>,
    about: ServerProperties,
    slots: Arc<Semaphore>,
}

type SharedService = State<Arc<ApiService>>;
type ApiResult = Result<Response, ErrorResponse>;

/// An error, and its status.
struct ErrorResponse(StatusCode, ApiError);

/// The volume in the path of a request.
struct VolumeInPath(VolumeName);

/// The body of a request.
struct JsonBody<T>(T);

/// The query of a request.
struct QueryParams<T>(T);

/// Returns the routes of the API, with `volumes` behind them.
pub fn router(volumes: Arc<dyn VolumeApi>, about: ServerProperties) -> Router {
    let service = ApiService { volumes, about, slots: Arc::new(Semaphore::new(OPERATIONS)) };
    Router::new()
        .route("/v1/volumes", get(list).post(create))
        .route("/v1/volumes/{name}", get(show).delete(reclaim))
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

async fn list(State(s): SharedService) -> ApiResult {
    s.run(|all| {
        let (volumes, promise, damaged) = (all.list(), all.committed_capacity(), all.damaged());
        Ok(VolumeListing { volumes, promise, damaged })
    })
    .await
}

async fn create(State(s): SharedService, JsonBody(request): JsonBody<CreateRequest>) -> ApiResult {
    s.run(|volumes| volumes.create(request.spec, request.origin)).await
}

async fn show(State(s): SharedService, VolumeInPath(name): VolumeInPath) -> ApiResult {
    s.run(move |volumes| volumes.show(&name)).await
}

async fn expand(
    State(s): SharedService,
    VolumeInPath(name): VolumeInPath,
    JsonBody(growth): JsonBody<CapacityChange>,
) -> ApiResult {
    s.run(move |volumes| volumes.expand(&name, growth)).await
}

async fn reclaim(
    State(s): SharedService,
    VolumeInPath(name): VolumeInPath,
    QueryParams(request): QueryParams<ReclaimRequest>,
) -> ApiResult {
    s.run(move |volumes| volumes.reclaim(&name, request)).await
}

async fn archive(
    State(s): SharedService,
    VolumeInPath(name): VolumeInPath,
    QueryParams(how): QueryParams<ForceQuery>,
) -> ApiResult {
    s.reclaim(name, OnDelete::Archive, how).await
}

async fn recycle(
    State(s): SharedService,
    VolumeInPath(name): VolumeInPath,
    QueryParams(how): QueryParams<ForceQuery>,
) -> ApiResult {
    s.reclaim(name, OnDelete::Recycle, how).await
}

async fn recount(State(s): SharedService, VolumeInPath(name): VolumeInPath) -> ApiResult {
    s.run(move |volumes| volumes.recount(&name).map(|()| EmptyResponse {})).await
}

async fn trash(State(s): SharedService) -> ApiResult {
    s.run(|volumes| Ok(volumes.trash())).await
}

async fn server(State(s): SharedService) -> ApiResult {
    let about = s.about.clone();
    s.run(|volumes| Ok(describe(volumes, about))).await
}

/// Describes the server. If the statistics of the disk cannot be read, that is one of the faults.
fn describe(volumes: &dyn VolumeApi, about: ServerProperties) -> ServerInfo {
    let mut faults = volumes.faults();
    let disk = volumes.disk().map_err(|error| faults.push(Chain(&error).to_string())).ok();
    ServerInfo { about, disk, faults }
}

async fn no_such_path(request: Request) -> ErrorResponse {
    let (path, version) = (request.uri().path(), env!("CARGO_PKG_VERSION"));
    // Not the kind NotFound, which means that there is no such volume.
    ErrorResponse::invalid(StatusCode::NOT_FOUND, format!("berth {version} has no path {path}"))
}

async fn no_such_method(request: Request) -> ErrorResponse {
    let (method, path) = (request.method(), request.uri().path());
    ErrorResponse::invalid(StatusCode::METHOD_NOT_ALLOWED, format!("cannot {method} {path}"))
}

impl ApiService {
    async fn reclaim(
        &self,
        name: VolumeName,
        how: OnDelete,
        ForceQuery { force }: ForceQuery,
    ) -> ApiResult {
        self.run(move |volumes| {
            volumes.reclaim(&name, ReclaimRequest { on_delete: Some(how), force })
        })
        .await
    }

    /// Runs an operation on a blocking thread.
    async fn run<T: Serialize + Send + 'static>(
        &self,
        operation: impl FnOnce(&dyn VolumeApi) -> VolumeResult<T> + Send + 'static,
    ) -> ApiResult {
        let volumes = Arc::clone(&self.volumes);
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let ran = spawn_blocking(move || {
            let _slot = slot; // held until the operation ends, even if the client has gone
            operation(&*volumes)
        });
        match ran.await {
            Ok(Ok(value)) => Ok(Json(value).into_response()),
            Ok(Err(error)) => Err(error.into()),
            Err(panicked) => Err(ErrorResponse::internal(&panicked)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for VolumeInPath {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        let named = VolumeName::new(name.clone()).map(Self);
        named.map_err(|why| Error::Name { name, why }.into())
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        let Query(query) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(query))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ErrorResponse;

    fn from_request(request: Request, _: &S) -> impl Future<Output = Result<Self, ErrorResponse>> {
        let body = Limited::new(request.into_body(), REQUEST_MAX).collect();
        async {
            let late = |_| {
                let message = format!("the body is not complete within {BODY_TIMEOUT:?}");
                ErrorResponse::invalid(StatusCode::REQUEST_TIMEOUT, message)
            };
            let body = timeout(BODY_TIMEOUT, body).await.map_err(late)?;
            let body = body.map_err(|error| ErrorResponse::of_body(&*error))?.to_bytes();
            let body = serde_json::from_slice(&body);
            body.map(Self).map_err(|error| ErrorResponse::invalid(StatusCode::BAD_REQUEST, error))
        }
    }
}

impl ErrorResponse {
    fn invalid(status: StatusCode, message: impl ToString) -> Self {
        Self(status, ApiError { kind: ApiErrorKind::Invalid, message: message.to_string() })
    }

    fn internal(error: &dyn std::error::Error) -> Self {
        let message = Chain(error).to_string();
        tracing::error!(error = message, "an operation on volumes panicked");
        Self(StatusCode::INTERNAL_SERVER_ERROR, ApiError { kind: ApiErrorKind::Internal, message })
    }

    fn of_body(error: &(dyn std::error::Error + 'static)) -> Self {
        if error.is::<LengthLimitError>() {
            let message = format!("the body is larger than {REQUEST_MAX} bytes");
            return Self::invalid(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Self::invalid(StatusCode::BAD_REQUEST, Chain(error))
    }
}

impl From<Error> for ErrorResponse {
    fn from(error: Error) -> Self {
        let failure = ApiError::from(&error);
        if failure.kind == ApiErrorKind::Internal {
            tracing::error!(error = failure.message, "a request of the admin API failed");
        }
        Self(status(failure.kind), failure)
    }
}

impl From<PathRejection> for ErrorResponse {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for ErrorResponse {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

fn status(kind: ApiErrorKind) -> StatusCode {
    match kind {
        ApiErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
        ApiErrorKind::Conflict => StatusCode::CONFLICT,
        ApiErrorKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ApiErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ApiErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::admin::fake::{FakeVolumes, about, runtime, spec};

    struct TestReply {
        status: u16,
        body: Value,
    }

    /// Sends a request to a server with a few volumes.
    fn send(method: &str, path: &str, body: &str) -> TestReply {
        send_to(&FakeVolumes::with(&["data", "held", "umläute & mehr"]), method, path, body)
    }

    fn send_to(fake: &Arc<FakeVolumes>, method: &str, path: &str, body: &str) -> TestReply {
        runtime().block_on(async {
            let request = Request::builder().method(method).uri(path);
            let request = request.body(axum::body::Body::from(body.to_owned())).unwrap();
            let response = router(fake.clone(), about()).oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).expect("every response is JSON");
            TestReply { status, body }
        })
    }

    #[track_caller]
    fn refused(reply: &TestReply, status: u16, kind: &str) -> String {
        assert_eq!(reply.status, status, "{}", reply.body);
        let keys: Vec<_> = reply.body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["error"]);
        assert_eq!(reply.body["error"]["kind"], kind, "{}", reply.body);
        reply.body["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_route_works() {
        let check = |method, path, body, field: &str, expected: Value| {
            let reply = send(method, path, body);
            assert_eq!(reply.status, 200, "{method} {path}: {}", reply.body);
            assert_eq!(
                reply.body.pointer(field),
                Some(&expected),
                "{method} {path}: {}",
                reply.body
            );
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
            let text = refused(&send("GET", &format!("/v1/volumes/{name}"), ""), status, kind);
            assert_eq!(text, message);
            let body = json!({ "spec": spec(name) }).to_string();
            if kind != "notFound" {
                refused(&send("POST", "/v1/volumes", &body), status, kind);
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
    fn a_volume_in_use_by_a_claim_is_reclaimed_only_with_force() {
        let check = |method: &str, path: &str| {
            let message = refused(&send(method, path, ""), 409, "conflict");
            assert!(message.contains("claim default/data") && message.contains("force=true"));
        };
        check("DELETE", "/v1/volumes/held");
        check("DELETE", "/v1/volumes/held?onDelete=archive");
        check("DELETE", "/v1/volumes/held?force=false");
        check("POST", "/v1/volumes/held/archive");
        check("POST", "/v1/volumes/held/recycle");
    }

    #[test]
    fn an_operation_that_panics_is_an_internal_error() {
        refused(&send("GET", "/v1/volumes/panic", ""), 500, "internal");
    }

    #[test]
    fn invalid_requests_are_refused_and_change_nothing() {
        let fake = FakeVolumes::with(&["data"]);
        let before = fake.list();
        let check = |method, path: &str, body: &str, status, word: &str| {
            let message = refused(&send_to(&fake, method, path, body), status, "invalid");
            assert!(message.contains(word), "{method} {path} {body}: {message}");
        };
        let create = |rest: &str| format!(r#"{{"spec":{{"name":"n","id":"n","capacity":5{rest}"#);
        check("POST", "/v1/volumes", "", 400, "EOF");
        check("POST", "/v1/volumes", "[]x", 400, "");
        check("POST", "/v1/volumes", &create(r#","colour":1}}"#), 400, "colour");
        check("POST", "/v1/volumes", &create(r#"},"colour":1}"#), 400, "colour");
        check("POST", "/v1/volumes", &create(r#","squash":"all"}}"#), 400, "all_squash");
        check("POST", "/v1/volumes", &create(r#"},"origin":{"clone":"a/b"}}"#), 400, "slash");
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
        assert_eq!(fake.list(), before);
    }

    #[test]
    fn a_body_that_is_too_large_is_refused() {
        let mut create = json!({ "spec": spec("new") });
        create["spec"]["labels"]["x"] = "y".repeat(REQUEST_MAX - 1000).into();
        assert_eq!(send("POST", "/v1/volumes", &create.to_string()).status, 200);
        create["spec"]["labels"]["x"] = "y".repeat(REQUEST_MAX).into();
        let reply = send("POST", "/v1/volumes", &create.to_string());
        let message = refused(&reply, 413, "invalid");
        assert!(message.contains(&REQUEST_MAX.to_string()), "{message}");
    }

    #[test]
    fn an_unreadable_disk_is_a_fault() {
        let reply = send_to(&FakeVolumes::with(&["lost"]), "GET", "/v1/server", "");
        assert_eq!((reply.status, &reply.body["disk"]), (200, &Value::Null));
        let expected = json!(["something is wrong", "there is no volume disk"]);
        assert_eq!(reply.body["faults"], expected);
    }
}
