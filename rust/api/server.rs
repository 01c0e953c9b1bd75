//! The API's server: axum on a Unix socket. The routes are listed on the page of [`crate::api`].
//!
//! A lease is taken before `101 Switching Protocols` is sent, so that a failed boot is an error of the request, not a stream
//! that ends. A client that goes away drops its request, and with it whatever the request was waiting for.

use super::{
    control::Control,
    generations,
    tail::{Start, tail},
    types::{DestroyRequest, Event, Service, StartRequest, StopRequest, Trimmed, UPGRADE},
};
use crate::{
    config::{HostFacts, check_start},
    error::{Kind, Report},
    spec::MachineName,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::{delete, get, post},
};
use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{convert::Infallible, fs, io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::UnixListener, sync::broadcast::error::RecvError};
use tokio_util::sync::CancellationToken;

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Longest wait of one status request.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// How long requests may take to end once the daemon ends.
const GRACE: Duration = Duration::from_secs(2);

/// What every request is answered from.
pub(super) struct Api {
    pub(super) control: Arc<dyn Control>,
    host: HostFacts,
    stop: CancellationToken,
}

pub(super) type Shared = State<Arc<Api>>;

/// Binds the API's socket with mode 0600, in place of one that a dead daemon left. Call it under the state lock.
pub fn bind(path: &std::path::Path) -> Result<UnixListener, Report> {
    let failed = |error: io::Error| {
        Report::new(Kind::State, format!("the API's socket {} cannot be made: {error}", path.display())).hint(
            "check the state directory's permissions and the length of its path, or name another with --state-dir",
        )
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The state directory is 0700, so nobody else could come in between.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop` is cancelled, which `POST /v1/shutdown` does too, after [`Control::shut_down`].
pub async fn serve(
    listener: UnixListener,
    control: Arc<dyn Control>,
    host: HostFacts,
    stop: CancellationToken,
) -> Result<(), Report> {
    let server = axum::serve(listener, router(control, host, stop.clone()))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = server => served.map_err(|error| Report::new(Kind::Internal, format!("the API's server failed: {error}"))),
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// The routes.
pub fn router(control: Arc<dyn Control>, host: HostFacts, stop: CancellationToken) -> Router {
    Router::new()
        .route("/v1/health", get(async || Json(serde_json::json!({}))))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/logs", get(logs))
        .route("/v1/shutdown", post(shutdown))
        .route("/v1/machines/{name}", delete(destroy))
        .route("/v1/machines/{name}/start", post(start))
        .route("/v1/machines/{name}/stop", post(stop_machine))
        .route("/v1/machines/{name}/trim", post(trim))
        .route("/v1/machines/{name}/console", get(console))
        .route("/v1/machines/{name}/connect/{service}", get(connect))
        .merge(generations::routes())
        .fallback(async |request: Request| {
            let what = format!("the API has nothing at {}", request.uri().path());
            Refusal(
                StatusCode::NOT_FOUND,
                Report::new(Kind::NotFound, what).hint("see the API's reference; its paths begin with /v1/"),
            )
        })
        .method_not_allowed_fallback(async |request: Request| {
            let what = format!("{} does not take {}", request.uri().path(), request.method());
            Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                Report::new(Kind::Config, what).hint("the header Allow names what it takes"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Api { control, host, stop }))
}

/// An error with the HTTP status it is sent under.
pub(super) struct Refusal(StatusCode, Report);

impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        let status = match report.kind {
            Kind::Config | Kind::Bundle => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Busy => StatusCode::CONFLICT,
            Kind::Boot | Kind::Guest | Kind::Host | Kind::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
            Kind::State | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, report)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(super) type Answer<T> = Result<T, Refusal>;
pub(super) type Params<T> = Result<Query<T>, QueryRejection>;

pub(super) fn params<T>(query: Params<T>) -> Answer<T> {
    let refused = |error: QueryRejection| {
        Refusal(
            StatusCode::BAD_REQUEST,
            Report::new(Kind::Config, format!("the query cannot be read: {}", error.body_text())),
        )
    };
    query.map(|Query(params)| params).map_err(refused)
}

pub(super) fn body<T: DeserializeOwned + Default>(bytes: Result<Bytes, BytesRejection>) -> Answer<T> {
    let bytes = bytes.map_err(|error| Refusal(error.status(), Report::new(Kind::Config, error.body_text())))?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let refused = |error| Report::new(Kind::Config, format!("the body cannot be read: {error}"));
    Ok(serde_json::from_slice(&bytes).map_err(refused)?)
}

pub(super) fn machine(name: &str) -> Answer<MachineName> {
    Ok(name.parse().map_err(|why: String| Report::new(Kind::NotFound, why))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusParams {
    after: Option<u64>,
    timeout: Option<u64>,
}

async fn status(State(api): Shared, query: Params<StatusParams>) -> Answer<Response> {
    let StatusParams { after, timeout } = params(query)?;
    if let Some(after) = after {
        let wait = timeout.map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
        let mut generation = api.control.generation();
        tokio::select! {
            // Both an answer in time and the end of the time are answered with the status as it is then.
            _ = tokio::time::timeout(wait, generation.wait_for(|now| *now > after)) => {}
            () = api.stop.cancelled() => {}
        }
    }
    Ok(Json(api.control.status()).into_response())
}

async fn start(
    State(api): Shared,
    Path(name): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<Json<serde_json::Value>> {
    let request: StartRequest = body(bytes)?;
    check_start(&request, &api.host)?;
    api.control.start(&machine(&name)?, request).await?;
    Ok(Json(serde_json::json!({})))
}

async fn stop_machine(
    State(api): Shared,
    Path(name): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<Json<serde_json::Value>> {
    let request: StopRequest = body(bytes)?;
    api.control.stop(&machine(&name)?, request.force).await?;
    Ok(Json(serde_json::json!({})))
}

async fn trim(State(api): Shared, Path(name): Path<String>) -> Answer<Json<Trimmed>> {
    Ok(Json(api.control.trim(&machine(&name)?).await?))
}

async fn destroy(
    State(api): Shared,
    Path(name): Path<String>,
    query: Params<DestroyRequest>,
) -> Answer<Json<serde_json::Value>> {
    api.control.destroy(&machine(&name)?, params(query)?).await?;
    Ok(Json(serde_json::json!({})))
}

async fn shutdown(State(api): Shared) -> Json<serde_json::Value> {
    api.control.shut_down().await;
    api.stop.cancel();
    Json(serde_json::json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogParams {
    #[serde(default)]
    follow: bool,
    lines: Option<usize>,
}

async fn logs(State(api): Shared, query: Params<LogParams>) -> Answer<Response> {
    Ok(text(&api, api.control.log_file(), &params(query)?))
}

async fn console(State(api): Shared, Path(name): Path<String>, query: Params<LogParams>) -> Answer<Response> {
    let file = api.control.console_log(&machine(&name)?)?;
    Ok(text(&api, file, &params(query)?))
}

pub(super) fn text(api: &Api, file: PathBuf, params: &LogParams) -> Response {
    let start = params.lines.map_or(Start::Whole, Start::Lines);
    let stream = tail(file, start, params.follow).take_until(api.stop.clone().cancelled_owned());
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response()
}

async fn events(State(api): Shared) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let stream = stream::unfold(api.control.events(), async |mut events| {
        let item = match events.recv().await {
            Ok(event) => sse_event(&event),
            Err(RecvError::Lagged(missed)) => sse::Event::default().event("lagged").data(missed.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(item), events))
    });
    Sse::new(stream.take_until(api.stop.clone().cancelled_owned())).keep_alive(KeepAlive::default())
}

fn sse_event(event: &Event) -> sse::Event {
    let item = sse::Event::default().id(event.id.to_string());
    match serde_json::to_string(event) {
        Ok(data) => item.data(data),
        Err(error) => item.event("failed").data(error.to_string()),
    }
}

async fn connect(
    State(api): Shared,
    Path((name, service)): Path<(String, String)>,
    mut request: Request,
) -> Answer<Response> {
    let name = machine(&name)?;
    let service = match service.as_str() {
        "ssh" => Service::Ssh,
        "nix" => Service::Nix,
        other => {
            let report = Report::new(Kind::NotFound, format!("a guest has no service {other:?}"));
            return Err(report.hint("the services are ssh and nix").into());
        }
    };
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !asked.is_some_and(|token| token.eq_ignore_ascii_case(UPGRADE)) {
        let report = Report::new(Kind::Config, "this is a byte stream, and the request did not ask for one");
        let report = report.hint(format!("send the headers Connection: upgrade and Upgrade: {UPGRADE}"));
        return Err(Refusal(StatusCode::UPGRADE_REQUIRED, report));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let passage = api.control.open(&name, service).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => match passage.carry(Box::new(TokioIo::new(client))).await {
                Ok((sent, received)) => tracing::debug!(machine = %name, ?service, sent, received, "connection closed"),
                Err(error) => tracing::debug!(machine = %name, ?service, %error, "connection broke"),
            },
            // The client left between the lease and the stream; the lease goes with the passage.
            Err(error) => tracing::debug!(machine = %name, %error, "the client left before its stream began"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(UPGRADE)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
