//! The routes with streaming answers: logs, events, and byte streams to a guest.
//!
//! The lease is taken before `101 Switching Protocols` is sent, so that a failed boot is an error of the request, not a
//! stream that ends.

use super::{
    connection_limits::RequestSlot,
    control::Tunnel,
    given::{Name, Params, machine, named, no_path, params},
    headers::asks_for_a_stream,
    refusal::Answer,
    shared::{Api, Shared},
};
use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use dvn_host::{
    files::state_error,
    regular_file::{self, NotRegular},
    tail::{Start, tail},
};
use dvn_hypervisor::GuestStream;
use dvn_relay::ByteCounts;
use dvn_types::{
    Kind, MachineName, Report, Service,
    wire::{Event, UPGRADE},
};
use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::{convert::Infallible, path::PathBuf};
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogParams {
    /// Continue with later output.
    #[serde(default)]
    follow: bool,
    /// Start this many lines before the end.
    lines: Option<u32>,
}

/// The daemon's log
#[utoipa::path(get, path = "/v1/logs", params(LogParams), responses(
    (status = 200, body = String, content_type = "text/plain", description = "The log, or its end."),
))]
pub(super) async fn logs(State(api): Shared, slot: GivenSlot, query: Params<LogParams>) -> Answer<Response> {
    text(&api, slot, api.control.log_file(), &params(query)?)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsoleParams {
    /// Continue with later output.
    #[serde(default)]
    follow: bool,
    /// Start this many lines before the end.
    lines: Option<u32>,
    /// The boot: 0 is the present or last one, -1 the one before; a positive number is that of `boots`.
    #[serde(default)]
    boot: i64,
}

/// A guest's serial console
#[utoipa::path(get, path = "/v1/machines/{name}/console", params(("name" = MachineName, Path), ConsoleParams), responses(
    (status = 200, body = String, content_type = "text/plain", description = "What the guest printed, or its end."),
))]
pub(super) async fn console(
    State(api): Shared,
    slot: GivenSlot,
    name: Name,
    query: Params<ConsoleParams>,
) -> Answer<Response> {
    let ConsoleParams { follow, lines, boot } = params(query)?;
    let file = api.control.console_log(&machine(name)?, boot)?;
    text(&api, slot, file, &LogParams { follow, lines })
}

/// The slot of the request's connection, if slots are counted.
pub(super) type GivenSlot = Option<Extension<RequestSlot>>;

/// Counts the answer as streaming.
pub(super) fn watch(slot: GivenSlot) -> Answer<()> {
    slot.map_or(Ok(()), |Extension(slot)| slot.watch())
}

pub(super) fn text(api: &Api, slot: GivenSlot, file: PathBuf, params: &LogParams) -> Answer<Response> {
    if let Err(error) = regular_file::look(&file)
        && NotRegular::behind(&error).is_some()
    {
        return Err(state_error(&file, "cannot read", &error).into());
    }
    if params.follow {
        watch(slot)?;
    }
    let start = params.lines.map_or(Start::Whole, |lines| Start::Lines(lines as usize));
    let stream = tail(file, start, params.follow).take_until(api.stop.clone().cancelled_owned());
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response())
}

/// The events from now on, as server-sent events
///
/// Each `data` is an `Event`. An event named `lagged` gives the number of events that a slow reader missed.
#[utoipa::path(get, path = "/v1/events", responses(
    (status = 200, body = Event, content_type = "text/event-stream", description = "Until the daemon ends."),
))]
pub(super) async fn events(
    State(api): Shared,
    slot: GivenSlot,
) -> Answer<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    watch(slot)?;
    let stream = stream::unfold(api.control.events(), async |mut events| {
        let item = match events.recv().await {
            Ok(event) => sse_event(&event),
            Err(RecvError::Lagged(missed)) => sse::Event::default().event("lagged").data(missed.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(item), events))
    });
    Ok(Sse::new(stream.take_until(api.stop.clone().cancelled_owned())).keep_alive(KeepAlive::default()))
}

fn sse_event(event: &Event) -> sse::Event {
    let item = sse::Event::default().id(event.id.to_string());
    match serde_json::to_string(event) {
        Ok(data) => item.data(data),
        Err(error) => item.event("failed").data(error.to_string()),
    }
}

/// A byte stream to a service of the guest, which is started if needed
///
/// Requires the headers `Connection: upgrade` and `Upgrade: darwin-vz-stream`, in HTTP/1.1, and no body.
#[utoipa::path(get, path = "/v1/machines/{name}/connect/{service}",
    params(("name" = MachineName, Path), ("service" = Service, Path)), responses(
    (status = 101, description = "The stream follows."),
))]
pub(super) async fn connect(
    State(api): Shared,
    slot: GivenSlot,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Answer<Response> {
    let Path((name, service)) = path.map_err(|error| no_path(&error))?;
    let name = named(&name)?;
    let service: Service = service.parse().map_err(|what| {
        let names = Service::ALL.map(Service::as_str).join(" and ");
        Report::new(Kind::NotFound, what).hint(format!("the services are {names}"))
    })?;
    let machine = name.clone();
    let opened = async move { api.control.open(&machine, service).await };
    upgraded(slot, request, opened, move |tunnel: Box<dyn Tunnel>, client| async move {
        match tunnel.carry(client).await {
            Ok((sent, received)) => tracing::debug!(machine = %name, ?service, sent, received, "connection closed"),
            Err(error) => tracing::debug!(machine = %name, ?service, %error, "connection broke"),
        }
    })
    .await
}

/// Switches protocols once `guest` has a stream, and copies both ways until both sides have ended.
pub(super) async fn tunnel(
    slot: GivenSlot,
    request: Request,
    guest: impl Future<Output = Result<GuestStream, Report>>,
) -> Answer<Response> {
    upgraded(slot, request, guest, |guest: GuestStream, client: GuestStream| async move {
        if let Err(error) = dvn_relay::copy(client, guest, &ByteCounts::default()).await {
            tracing::debug!(%error, "a connection to an agent broke");
        }
    })
    .await
}

/// Switches protocols once the other end is open, and lets `carry` have both.
async fn upgraded<T: Send + 'static, Carried: Future<Output = ()> + Send>(
    slot: GivenSlot,
    mut request: Request,
    opened: impl Future<Output = Result<T, Report>>,
    carry: impl FnOnce(T, GuestStream) -> Carried + Send + 'static,
) -> Answer<Response> {
    asks_for_a_stream(&request)?;
    let joined = slot.map(|Extension(slot)| slot.join()).transpose()?;
    let upgrade = hyper::upgrade::on(&mut request);
    let other = opened.await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => carry(other, Box::new(TokioIo::new(client))).await,
            // The client disconnected before its stream began; dropping the other end frees the lease.
            Err(error) => tracing::debug!(%error, "the client disconnected before its stream began"),
        }
        drop(joined);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(UPGRADE)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
