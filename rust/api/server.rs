//! The API's server: axum on a Unix socket and, where configured, on loopback TCP. The routes are listed on the page of
//! [`crate::api`]; those whose answers go on and on are in [`super::streams`].
//!
//! A client that goes away drops its request, and with it whatever the request was waiting for. So a handler that does one
//! thing after another does them in a task of its own ([`to_its_end`]): what was begun is not left half done.

pub use super::refusal::status_of;
use super::{
    boots, capabilities,
    control::Control,
    generations,
    given::{Given, Name, Params, machine, params},
    openapi,
    reception::{self, Bounds},
    refusal::{Answer, Refusal},
    seats, streams,
    tcp::{Guard, TokenFile},
    types::{ConfigView, Connections, DaemonStatus, DestroyRequest, Done, StartRequest, StopRequest, Trimmed},
};
use crate::{
    config::{HostFacts, check_start},
    error::{Kind, Report},
    machine_dir::move_aside,
    spec::MachineName,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use std::{fs, io, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Longest wait of one status request.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// How long requests may take to end once the daemon ends.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Api {
    pub(super) control: Arc<dyn Control>,
    host: HostFacts,
    pub(super) stop: CancellationToken,
}

pub(super) type Shared = State<Arc<Api>>;

/// Binds the API's socket with mode 0600, in place of one that a dead daemon left. Call it under the state lock.
pub fn bind(path: &std::path::Path) -> Result<UnixListener, Report> {
    let failed = |error: io::Error| {
        Report::new(Kind::State, format!("the API's socket {} cannot be made: {error}", path.display())).hint(
            "check the state directory's permissions and the length of its path, or name another with --state-dir",
        )
    };
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => move_aside(path).map(drop),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
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
    let routes = seats::seated(router(control, host, stop.clone()));
    let server = reception::serve("the API's Unix socket", listener, routes, Bounds::UNIX, stop.clone());
    until_stopped(server, &stop).await;
    Ok(())
}

/// The same on loopback TCP, for those who pass the guard of [`super::tcp`].
pub async fn serve_tcp(
    listener: TcpListener,
    token: TokenFile,
    control: Arc<dyn Control>,
    host: HostFacts,
    stop: CancellationToken,
) -> Result<(), Report> {
    let failed = |error| Report::new(Kind::Internal, format!("the API's TCP socket has no address: {error}"));
    let guard = Guard::new(listener.local_addr().map_err(failed)?, token);
    let routes = guard.over(seats::seated(router(control, host, stop.clone())));
    let server = reception::serve("the API's TCP socket", listener, routes, Bounds::TCP, stop.clone());
    until_stopped(server, &stop).await;
    Ok(())
}

async fn until_stopped(server: impl Future<Output = ()>, stop: &CancellationToken) {
    tokio::select! {
        () = server => {}
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {}
    }
}

/// The routes.
pub fn router(control: Arc<dyn Control>, host: HostFacts, stop: CancellationToken) -> Router {
    described()
        .split_for_parts()
        .0
        .fallback(async |request: Request| {
            let what = format!("the API has nothing at {}", request.uri().path());
            Refusal::new(
                StatusCode::NOT_FOUND,
                Report::new(Kind::NotFound, what).hint("see the API's reference; its paths begin with /v1/"),
            )
        })
        .method_not_allowed_fallback(async |request: Request| {
            let what = format!("{} does not take {}", request.uri().path(), request.method());
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Report::new(Kind::Config, what).hint("the header Allow names what it takes"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Api { control, host, stop }))
}

/// The routes with their descriptions: both come from one list, so that none is without the other.
pub(super) fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(health))
        .routes(routes!(status))
        .routes(routes!(connections))
        .routes(routes!(config))
        .routes(routes!(metrics))
        .routes(routes!(streams::events))
        .routes(routes!(streams::logs))
        .routes(routes!(shutdown))
        .routes(routes!(destroy))
        .routes(routes!(start))
        .routes(routes!(stop_machine))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(trim))
        .routes(routes!(generations::list))
        .routes(routes!(generations::roll_back))
        .routes(routes!(generations::build))
        .routes(routes!(generations::forget))
        .routes(routes!(generations::build_log))
        .routes(routes!(boots::list))
        .routes(routes!(capabilities::show))
        .routes(routes!(streams::console))
        .routes(routes!(streams::connect))
        .routes(routes!(openapi::document))
}

/// The daemon serves
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Done, description = "It does.")))]
async fn health() -> Json<Done> {
    Json(Done {})
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StatusParams {
    /// Answer once the status is of a greater generation than this.
    after: Option<u64>,
    /// With `after`: answer after so many seconds anyway. More than 600 count as 600.
    timeout: Option<u64>,
}

/// The daemon and its machines, now or once something has changed
#[utoipa::path(get, path = "/v1/status", params(StatusParams), responses(
    (status = 200, body = DaemonStatus, description = "As of the answer."),
))]
async fn status(State(api): Shared, seat: streams::Seated, query: Params<StatusParams>) -> Answer<Json<DaemonStatus>> {
    let StatusParams { after, timeout } = params(query)?;
    let mut generation = api.control.generation();
    // What is newer already is answered at once, as any other request is.
    if let Some(after) = after.filter(|after| *generation.borrow() <= *after) {
        streams::watch(seat)?;
        let wait = timeout.map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
        tokio::select! {
            // Both an answer in time and the end of the time are answered with the status as it is then.
            _ = tokio::time::timeout(wait, generation.wait_for(|now| *now > after)) => {}
            () = api.stop.cancelled() => {}
        }
    }
    Ok(Json(api.control.status()))
}

/// What goes through the doors now
#[utoipa::path(get, path = "/v1/connections", responses((status = 200, body = Connections, description = "As of now.")))]
async fn connections(State(api): Shared) -> Json<Connections> {
    Json(api.control.connections())
}

/// The settings that the daemon goes by, and where each comes from
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = ConfigView, description = "Since it started.")))]
async fn config(State(api): Shared) -> Json<ConfigView> {
    Json(api.control.config())
}

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the daemon counts, for Prometheus
#[utoipa::path(get, path = "/v1/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text", description = "OpenMetrics 1.0."),
))]
async fn metrics(State(api): Shared) -> Answer<Response> {
    let text = api.control.metrics().await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Boot a machine; the answer comes when it runs
#[utoipa::path(post, path = "/v1/machines/{name}/start", params(("name" = MachineName, Path)),
    request_body(content = Option<StartRequest>, description = "None is the configured sizes."),
    responses((status = 200, body = Done, description = "It runs.")))]
async fn start(State(api): Shared, name: Name, Given(request): Given<StartRequest>) -> Answer<Json<Done>> {
    check_start(&request, &api.host)?;
    api.control.start(&machine(name)?, request).await?;
    Ok(Json(Done {}))
}

/// Stop a machine; the answer comes when it is off
#[utoipa::path(post, path = "/v1/machines/{name}/stop", params(("name" = MachineName, Path)),
    request_body(content = Option<StopRequest>, description = "None presses the power button."),
    responses((status = 200, body = Done, description = "It is off.")))]
async fn stop_machine(State(api): Shared, name: Name, Given(request): Given<StopRequest>) -> Answer<Json<Done>> {
    api.control.stop(&machine(name)?, request.force).await?;
    Ok(Json(Done {}))
}

/// Have the guest, which is started where needed, give back what its disk does not use
#[utoipa::path(post, path = "/v1/machines/{name}/trim", params(("name" = MachineName, Path)),
    responses((status = 200, body = Trimmed, description = "It has.")))]
async fn trim(State(api): Shared, name: Name) -> Answer<Json<Trimmed>> {
    Ok(Json(api.control.trim(&machine(name)?).await?))
}

/// Have a machine's guest stand still; the answer comes when it does
///
/// It keeps its memory and its connections, and the next one has it go on. Idle time does not count meanwhile.
#[utoipa::path(post, path = "/v1/machines/{name}/pause", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It stands still.")))]
async fn pause(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.pause(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Have a paused guest go on; the answer comes when it does, with its clock set
#[utoipa::path(post, path = "/v1/machines/{name}/resume", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It runs.")))]
async fn resume(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.resume(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Stop a machine and delete its state
#[utoipa::path(delete, path = "/v1/machines/{name}", params(("name" = MachineName, Path), DestroyRequest),
    responses((status = 200, body = Done, description = "It is as new.")))]
async fn destroy(State(api): Shared, name: Name, query: Params<DestroyRequest>) -> Answer<Json<Done>> {
    let (name, keep) = (machine(name)?, params(query)?);
    to_its_end(async move { api.control.destroy(&name, keep).await }).await??;
    Ok(Json(Done {}))
}

/// Stop every guest and end the daemon
#[utoipa::path(post, path = "/v1/shutdown", responses((status = 200, body = Done, description = "The guests are off.")))]
async fn shutdown(State(api): Shared) -> Answer<Json<Done>> {
    to_its_end(async move {
        api.control.shut_down().await;
        api.stop.cancel();
    })
    .await?;
    Ok(Json(Done {}))
}

/// Does something to its end, also if nobody waits for it any more.
async fn to_its_end<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Answer<T> {
    Ok(tokio::spawn(task).await.map_err(|error| Report::new(Kind::Internal, error.to_string()))?)
}
