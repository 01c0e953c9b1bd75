//! All routes, in one list with their descriptions.

use super::{
    boots, capabilities, control::Control, generations, library, openapi, refusal::Refusal, routes, shared::Api,
    streams,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
};
use dvn_config::HostFacts;
use dvn_types::{Kind, Report};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

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
        .with_state(Arc::new(Api { control, host, stop, describe: description }))
}

/// The routes with their descriptions, from a single list, so that neither lacks the other.
fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(routes::health))
        .routes(routes!(routes::status))
        .routes(routes!(routes::connections))
        .routes(routes!(routes::config))
        .routes(routes!(routes::metrics))
        .routes(routes!(streams::events))
        .routes(routes!(streams::logs))
        .routes(routes!(routes::shutdown))
        .routes(routes!(routes::start))
        .routes(routes!(routes::stop_machine))
        .routes(routes!(routes::pause))
        .routes(routes!(routes::resume))
        .routes(routes!(routes::trim))
        .routes(routes!(library::list, library::create))
        .routes(routes!(library::show, library::set, routes::destroy))
        .routes(routes!(library::clone))
        .routes(routes!(library::rename))
        .routes(routes!(library::run))
        .routes(routes!(library::suspend))
        .routes(routes!(library::addresses))
        .routes(routes!(library::screenshot))
        .routes(routes!(library::agent))
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

/// The whole description in OpenAPI.
pub fn description() -> Value {
    openapi::finished(described().into_openapi())
}
