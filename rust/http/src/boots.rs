//! The records of a machine's last boots. [`super::streams`] serves their consoles.

use super::{
    given::{Name, machine},
    refusal::Answer,
    shared::Shared,
};
use axum::{Json, extract::State};
use dvn_types::{MachineName, wire::BootList};

/// The records of a machine's last boots
///
/// Kept are the last five boots with a console, the last failed one of those, and the last five that failed before.
#[utoipa::path(get, path = "/v1/machines/{name}/boots", params(("name" = MachineName, Path)),
    responses((status = 200, body = BootList, description = "The newest first.")))]
pub(super) async fn list(State(api): Shared, name: Name) -> Answer<Json<BootList>> {
    Ok(Json(api.control.boots(&machine(name)?)?))
}
