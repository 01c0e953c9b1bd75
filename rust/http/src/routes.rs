//! The routes that answer at once, or when the requested action is done. Streaming answers are in [`super::streams`].
//!
//! A client that disconnects drops its request, and with it the handler's future. So a handler with several steps runs
//! them in a task of its own ([`to_its_end`]), and none is left half done.

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
    wire::{ConfigView, Connections, DaemonStatus, DestroyRequest, Done, StartRequest, StopRequest, Stopped, Trimmed},
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
    /// Answer once the generation of the status exceeds this.
    after: Option<u64>,
    /// With `after`: answer after this many seconds at the latest. The maximum is 600.
    timeout: Option<u64>,
}

/// The daemon and its machines, now or once something has changed
#[utoipa::path(get, path = "/v1/status", params(StatusParams), responses(
    (status = 200, body = DaemonStatus, description = "As of the answer."),
))]
pub(super) async fn status(
    State(api): Shared,
    slot: streams::GivenSlot,
    query: Params<StatusParams>,
) -> Answer<Json<DaemonStatus>> {
    let StatusParams { after, timeout } = params(query)?;
    let mut generation = api.control.generation();
    // A newer status is answered at once, like any other request.
    if let Some(after) = after.filter(|after| *generation.borrow() <= *after) {
        streams::watch(slot)?;
        let wait = timeout.map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
        tokio::select! {
            // The answer is the status at that time, whether it changed or the time is over.
            _ = tokio::time::timeout(wait, generation.wait_for(|now| *now > after)) => {}
            () = api.stop.cancelled() => {}
        }
    }
    Ok(Json(api.control.status()))
}

/// The open connections
#[utoipa::path(get, path = "/v1/connections", responses((status = 200, body = Connections, description = "As of now.")))]
pub(super) async fn connections(State(api): Shared) -> Json<Connections> {
    Json(api.control.connections())
}

/// The daemon's settings, and the origin of each
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = ConfigView, description = "Since it started.")))]
pub(super) async fn config(State(api): Shared) -> Json<ConfigView> {
    Json(api.control.config())
}

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The daemon's metrics, for Prometheus
#[utoipa::path(get, path = "/v1/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text", description = "OpenMetrics 1.0."),
))]
pub(super) async fn metrics(State(api): Shared) -> Answer<Response> {
    let text = api.control.metrics().await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Boot a machine; the answer comes when it runs
#[utoipa::path(post, path = "/v1/machines/{name}/start", params(("name" = MachineName, Path)),
    request_body(content = Option<StartRequest>, description = "Without one: the configured sizes."),
    responses((status = 200, body = Done, description = "It runs.")))]
pub(super) async fn start(State(api): Shared, name: Name, Given(request): Given<StartRequest>) -> Answer<Json<Done>> {
    check_start(&request.into(), &api.host)?;
    api.control.start(&machine(name)?, request).await?;
    Ok(Json(Done {}))
}

/// Stop a machine; the answer comes when it is off
#[utoipa::path(post, path = "/v1/machines/{name}/stop", params(("name" = MachineName, Path)),
    request_body(content = Option<StopRequest>, description = "Without one: press the power button."),
    responses((status = 200, body = Stopped, description = "It is off.")))]
pub(super) async fn stop_machine(
    State(api): Shared,
    name: Name,
    Given(request): Given<StopRequest>,
) -> Answer<Json<Stopped>> {
    Ok(Json(api.control.stop(&machine(name)?, request.force).await?))
}

/// Make the guest, which is started if needed, discard unused disk blocks on the host
#[utoipa::path(post, path = "/v1/machines/{name}/trim", params(("name" = MachineName, Path)),
    responses((status = 200, body = Trimmed, description = "It has.")))]
pub(super) async fn trim(State(api): Shared, name: Name) -> Answer<Json<Trimmed>> {
    Ok(Json(api.control.trim(&machine(name)?).await?))
}

/// Pause a machine's guest; the answer comes when it is paused
///
/// It keeps its memory and its connections, and the next connection resumes it. Paused time does not count as idle.
#[utoipa::path(post, path = "/v1/machines/{name}/pause", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It is paused.")))]
pub(super) async fn pause(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.pause(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Resume a paused guest; the answer comes when it answers and its clock is set
#[utoipa::path(post, path = "/v1/machines/{name}/resume", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It runs.")))]
pub(super) async fn resume(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.resume(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// Delete a machine's files
///
/// A builder is stopped, and made anew at once, so that the next connection still starts it: what is deleted is its disk, its logs,
/// its keys and its generations. A machine of the library must not run. It is removed with its disk and all its files; of such a one
/// nothing can be kept.
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

/// Runs something to its end, even if the client no longer waits for it.
async fn to_its_end<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Answer<T> {
    Ok(tokio::spawn(task).await.map_err(|error| Report::new(Kind::Internal, error.to_string()))?)
}
