//! The routes that answer at once, or once what was asked for is done. Those whose answers go on and on are in [`super::streams`].
//!
//! A client that goes away drops its request, and with it whatever the request was waiting for. So a handler that does one
//! thing after another does them in a task of its own ([`to_its_end`]): what was begun is not left half done.

use super::{
    given::{Given, Name, Params, machine, params},
    refusal::Answer,
    shared::Shared,
    streams,
};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use dvn_config::check_start;
use dvn_types::{
    Kind, MachineName, Report,
    wire::{ConfigView, Connections, DaemonStatus, DestroyRequest, Done, StartRequest, StopRequest, Trimmed},
};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Longest wait of one status request.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The daemon serves
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Done, description = "It does.")))]
pub(super) async fn health() -> Json<Done> {
    Json(Done {})
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusParams {
    /// Answer once the status is of a greater generation than this.
    after: Option<u64>,
    /// With `after`: answer after so many seconds anyway. More than 600 count as 600.
    timeout: Option<u64>,
}

/// The daemon and its machines, now or once something has changed
#[utoipa::path(get, path = "/v1/status", params(StatusParams), responses(
    (status = 200, body = DaemonStatus, description = "As of the answer."),
))]
pub(super) async fn status(
    State(api): Shared,
    seat: streams::Seated,
    query: Params<StatusParams>,
) -> Answer<Json<DaemonStatus>> {
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
pub(super) async fn connections(State(api): Shared) -> Json<Connections> {
    Json(api.control.connections())
}

/// The settings that the daemon goes by, and where each comes from
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = ConfigView, description = "Since it started.")))]
pub(super) async fn config(State(api): Shared) -> Json<ConfigView> {
    Json(api.control.config())
}

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the daemon counts, for Prometheus
#[utoipa::path(get, path = "/v1/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text", description = "OpenMetrics 1.0."),
))]
pub(super) async fn metrics(State(api): Shared) -> Answer<Response> {
    let text = api.control.metrics().await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Boot a machine; the answer comes when it runs
#[utoipa::path(post, path = "/v1/machines/{name}/start", params(("name" = MachineName, Path)),
    request_body(content = Option<StartRequest>, description = "None is the configured sizes."),
    responses((status = 200, body = Done, description = "It runs.")))]
pub(super) async fn start(State(api): Shared, name: Name, Given(request): Given<StartRequest>) -> Answer<Json<Done>> {
    check_start(&request.into(), &api.host)?;
    api.control.start(&machine(name)?, request).await?;
    Ok(Json(Done {}))
}

/// Stop a machine; the answer comes when it is off
#[utoipa::path(post, path = "/v1/machines/{name}/stop", params(("name" = MachineName, Path)),
    request_body(content = Option<StopRequest>, description = "None presses the power button."),
    responses((status = 200, body = Done, description = "It is off.")))]
pub(super) async fn stop_machine(
    State(api): Shared,
    name: Name,
    Given(request): Given<StopRequest>,
) -> Answer<Json<Done>> {
    api.control.stop(&machine(name)?, request.force).await?;
    Ok(Json(Done {}))
}

/// Have the guest, which is started where needed, give back what its disk does not use
#[utoipa::path(post, path = "/v1/machines/{name}/trim", params(("name" = MachineName, Path)),
    responses((status = 200, body = Trimmed, description = "It has.")))]
pub(super) async fn trim(State(api): Shared, name: Name) -> Answer<Json<Trimmed>> {
    Ok(Json(api.control.trim(&machine(name)?).await?))
}

/// Have a machine's guest stand still; the answer comes when it does
///
/// It keeps its memory and its connections, and the next one has it go on. Idle time does not count meanwhile.
#[utoipa::path(post, path = "/v1/machines/{name}/pause", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It stands still.")))]
pub(super) async fn pause(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.pause(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Have a paused guest go on; the answer comes when it does, with its clock set
#[utoipa::path(post, path = "/v1/machines/{name}/resume", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It runs.")))]
pub(super) async fn resume(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.resume(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Stop a machine and delete its files
///
/// A machine that the configuration declares is made anew at once, so that the next connection still starts it: what is deleted is its
/// disk, its logs, its keys and its generations. Any other machine is removed, with its address, its numbers and all its files; of
/// such a one nothing can be kept.
#[utoipa::path(delete, path = "/v1/machines/{name}", params(("name" = MachineName, Path), DestroyRequest),
    responses((status = 200, body = Done, description = "It is as new, or removed.")))]
pub(super) async fn destroy(State(api): Shared, name: Name, query: Params<DestroyRequest>) -> Answer<Json<Done>> {
    let (name, keep) = (machine(name)?, params(query)?);
    to_its_end(async move { api.control.destroy(&name, keep).await }).await??;
    Ok(Json(Done {}))
}

/// Stop every guest and end the daemon
#[utoipa::path(post, path = "/v1/shutdown", responses((status = 200, body = Done, description = "The guests are off.")))]
pub(super) async fn shutdown(State(api): Shared) -> Answer<Json<Done>> {
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
