//! The routes of guest generations.

use super::{
    control::Change,
    given::{Given, Name, Params, machine, named, no_path, params},
    refusal::Answer,
    shared::{Api, Shared},
    streams::{GivenSlot, LogParams, text},
};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use dvn_types::{
    Kind, MachineName, Report,
    wire::{Done, GenerationList, RollbackRequest},
};

/// The guest systems that a machine can boot
#[utoipa::path(get, path = "/v1/machines/{name}/generations", params(("name" = MachineName, Path)),
    responses((status = 200, body = GenerationList, description = "All of them, and what becomes of the recipe.")))]
pub(super) async fn list(State(api): Shared, name: Name) -> Answer<Json<GenerationList>> {
    Ok(Json(api.control.generations(&machine(name)?)?))
}

/// Select the generation of the next boot
///
/// The choice stays until the recipe changes.
#[utoipa::path(post, path = "/v1/machines/{name}/generations/rollback", params(("name" = MachineName, Path)),
    request_body = Option<RollbackRequest>, responses((status = 200, body = Done, description = "It will boot.")))]
pub(super) async fn roll_back(
    State(api): Shared,
    name: Name,
    Given(RollbackRequest { to }): Given<RollbackRequest>,
) -> Answer<Json<Done>> {
    done(&api, &machine(name)?, Change::RollBack(to))
}

/// Request a build and a trial of the recipe, also after a failure; the answer comes at once
#[utoipa::path(post, path = "/v1/machines/{name}/generations/build", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It begins.")))]
pub(super) async fn build(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    done(&api, &machine(name)?, Change::Build)
}

/// Delete a generation that is not in use
#[utoipa::path(delete, path = "/v1/machines/{name}/generations/{number}",
    params(("name" = MachineName, Path), ("number" = u32, Path)),
    responses((status = 200, body = Done, description = "It is gone.")))]
pub(super) async fn forget(
    State(api): Shared,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer<Json<Done>> {
    let Path((name, number)) = path.map_err(|error| no_path(&error))?;
    let unknown = |_| Report::new(Kind::NotFound, format!("{number:?} is not the number of a generation"));
    done(&api, &named(&name)?, Change::Delete(number.parse().map_err(unknown)?))
}

fn done(api: &Api, name: &MachineName, change: Change) -> Answer<Json<Done>> {
    api.control.change_generations(name, change)?;
    Ok(Json(Done {}))
}

/// The log of the last build of the recipe
#[utoipa::path(get, path = "/v1/machines/{name}/build-log", params(("name" = MachineName, Path), LogParams), responses(
    (status = 200, body = String, content_type = "text/plain", description = "The log, or its end."),
))]
pub(super) async fn build_log(
    State(api): Shared,
    slot: GivenSlot,
    name: Name,
    query: Params<LogParams>,
) -> Answer<Response> {
    let file = api.control.build_log(&machine(name)?)?;
    text(&api, slot, file, &params(query)?)
}
