//! What a machine's backend can do, as the daemon determines it: with its own search path, which may differ from the
//! client's.

use super::{
    given::{Name, machine},
    refusal::Answer,
    shared::Shared,
};
use axum::{Json, extract::State};
use dvn_types::{MachineName, wire::BackendView};

/// What a machine's backend can do, as the daemon determines it
///
/// Programs are looked up at each request, on the daemon's own search path.
#[utoipa::path(get, path = "/v1/machines/{name}/capabilities", params(("name" = MachineName, Path)),
    responses((status = 200, body = BackendView, description = "As of now.")))]
pub(super) async fn show(State(api): Shared, name: Name) -> Answer<Json<BackendView>> {
    Ok(Json(api.control.capabilities(&machine(name)?)?))
}
