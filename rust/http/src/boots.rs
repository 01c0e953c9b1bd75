//! The last boots of a machine, over the API. Their consoles come by [`super::streams`].

use super::{
    given::{Name, machine},
    refusal::Answer,
    shared::Shared,
};
use axum::{Json, extract::State};
use dvn_types::{MachineName, wire::BootList};

/// What is known of a machine's last boots
///
/// Kept are the last five that had a console, the last one of those that failed, and the last five that failed before.
#[utoipa::path(get, path = "/v1/machines/{name}/boots", params(("name" = MachineName, Path)),
    responses((status = 200, body = BootList, description = "The newest first.")))]
pub(super) async fn list(State(api): Shared, name: Name) -> Answer<Json<BootList>> {
    Ok(Json(api.control.boots(&machine(name)?)?))
}
