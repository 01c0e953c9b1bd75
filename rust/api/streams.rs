//! The routes whose answers go on and on: logs, events, and byte streams to a guest.
//!
//! A lease is taken before `101 Switching Protocols` is sent, so that a failed boot is an error of the request, not a stream
//! that ends.

use super::{
    server::{Answer, Api, Name, Params, Refusal, Shared, machine, named, no_path, params},
    tail::{Start, tail},
    types::{Event, Service, UPGRADE},
};
use crate::{
    error::{Kind, Report},
    machine_dir::state_error,
    regular_file::{self, NotRegular},
    spec::MachineName,
};
use axum::{
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
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
    /// Go on with what is written later.
    #[serde(default)]
    follow: bool,
    /// Begin so many lines before the end.
    lines: Option<u32>,
}

/// The daemon's log
#[utoipa::path(get, path = "/v1/logs", params(LogParams), responses(
    (status = 200, body = String, content_type = "text/plain", description = "The log, or its end."),
))]
pub(super) async fn logs(State(api): Shared, query: Params<LogParams>) -> Answer<Response> {
    Ok(text(&api, api.control.log_file(), &params(query)?))
}

/// A guest's serial console
#[utoipa::path(get, path = "/v1/machines/{name}/console", params(("name" = MachineName, Path), LogParams), responses(
    (status = 200, body = String, content_type = "text/plain", description = "What the last guest printed, or its end."),
))]
pub(super) async fn console(State(api): Shared, name: Name, query: Params<LogParams>) -> Answer<Response> {
    let file = api.control.console_log(&machine(name)?)?;
    Ok(text(&api, file, &params(query)?))
}

pub(super) fn text(api: &Api, file: PathBuf, params: &LogParams) -> Response {
    if let Err(error) = regular_file::look(&file)
        && NotRegular::behind(&error).is_some()
    {
        return Refusal::from(state_error(&file, "cannot read", &error)).into_response();
    }
    let start = params.lines.map_or(Start::Whole, |lines| Start::Lines(lines as usize));
    let stream = tail(file, start, params.follow).take_until(api.stop.clone().cancelled_owned());
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response()
}

/// What happens from now on, as server-sent events
///
/// Each `data` is an `Event`. An event named `lagged` tells a reader who was too slow how many it missed.
#[utoipa::path(get, path = "/v1/events", responses(
    (status = 200, body = Event, content_type = "text/event-stream", description = "Until the daemon ends."),
))]
pub(super) async fn events(State(api): Shared) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
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

/// A byte stream to a service of the guest, which is started where needed
///
/// Takes the headers `Connection: upgrade` and `Upgrade: darwin-vz-stream`.
#[utoipa::path(get, path = "/v1/machines/{name}/connect/{service}",
    params(("name" = MachineName, Path), ("service" = Service, Path)), responses(
    (status = 101, description = "What follows is the stream."),
))]
pub(super) async fn connect(
    State(api): Shared,
    path: Result<Path<(String, String)>, PathRejection>,
    mut request: Request,
) -> Answer<Response> {
    let Path((name, service)) = path.map_err(|error| no_path(&error))?;
    let name = named(&name)?;
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
