//! The API's description in OpenAPI, made from the routes themselves. `docs/openapi.json` is a copy that a test keeps fresh.

use super::shared::Shared;
use axum::{Json, extract::State};
use dvn_types::{MachineName, Report, Service};
use serde_json::Value;
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        self, Components, ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "darwin-vz-nix",
        description = "The local API of the daemon, on the Unix socket `STATE_DIR/api.sock`, and on loopback TCP where \
            `api-listen` says so. There it takes the token in `STATE_DIR/api-token`, and refuses what a browser sends.",
    ),
    components(schemas(Report, MachineName, Service))
)]
struct Head;

/// The parts that belong to no route.
pub(super) fn head() -> openapi::OpenApi {
    Head::openapi()
}

/// Adds what all routes have in common.
pub(super) fn finished(routes: openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(complete(routes)).unwrap_or_default();
    unsigned(&mut document);
    document
}

/// Gives unsigned 32-bit integers a maximum instead of the format `int32`, which covers only half of their range.
fn unsigned(value: &mut Value) {
    match value {
        Value::Object(schema) => {
            if schema.get("format") == Some(&"int32".into()) && schema.get("minimum") == Some(&0.into()) {
                schema.remove("format");
                schema.insert("maximum".to_owned(), u32::MAX.into());
            }
            schema.values_mut().for_each(unsigned);
        }
        Value::Array(items) => items.iter_mut().for_each(unsigned),
        _ => {}
    }
}

fn complete(mut api: openapi::OpenApi) -> openapi::OpenApi {
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    api.components.get_or_insert_with(Components::default).add_security_scheme("token", bearer);
    api.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
    for path in api.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete];
        operations.into_iter().flatten().for_each(may_fail);
    }
    api
}

/// Adds the error response that every operation has.
fn may_fail(operation: &mut Operation) {
    let schema = RefOr::Ref(Ref::from_schema_name(Report::name()));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new().description("Why not.").content("application/json", content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(response));
}

/// This description
#[utoipa::path(get, path = "/v1/openapi.json", responses(
    (status = 200, body = Value, content_type = "application/json", description = "OpenAPI."),
))]
pub(super) async fn document(State(api): Shared) -> Json<Value> {
    Json((api.describe)())
}
