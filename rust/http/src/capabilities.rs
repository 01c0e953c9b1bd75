//! What a machine's backend can do, as the daemon that runs it finds it: by its own search path, which may be another than that
//! of whoever asks.

use super::{
    given::{Name, machine},
    refusal::Answer,
    shared::Shared,
};
use axum::{Json, extract::State};
use dvn_types::{MachineName, wire::BackendView};

/// What a machine's backend can do, as the daemon finds it
///
/// Programs are looked for at each request, along the daemon's own search path.
#[utoipa::path(get, path = "/v1/machines/{name}/capabilities", params(("name" = MachineName, Path)),
    responses((status = 200, body = BackendView, description = "As of now.")))]
pub(super) async fn show(State(api): Shared, name: Name) -> Answer<Json<BackendView>> {
    Ok(Json(api.control.capabilities(&machine(name)?)?))
}
