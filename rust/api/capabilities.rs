//! What a machine's backend can do, as the daemon that runs it finds it: by its own search path, which may be another than that
//! of whoever asks.

use super::{
    given::{Name, machine},
    refusal::Answer,
    server::Shared,
};
use crate::{
    hypervisor::{Capabilities, Feature},
    spec::{Arch, MachineName},
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/machines/{name}/capabilities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// `qemu`, `vz`.
    pub backend: String,
    /// How guest code is executed: `kvm`, `tcg`, …
    pub accelerator: String,
    /// Processors of the guests that it boots, the host's own first: `aarch64`, `x86_64`.
    #[schema(value_type = Vec<String>)]
    pub guests: Vec<Arch>,
    /// What it can do and cannot.
    pub features: Vec<FeatureView>,
    /// Where its programs were looked for, written as `PATH` is.
    pub search_path: String,
}

/// Something that a backend may be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureView {
    /// Its name, in words with dashes.
    pub name: String,
    /// It works here.
    pub available: bool,
    /// Why so, and if it does not work, what would help.
    pub why: String,
}

impl BackendView {
    /// What was found along that search path.
    pub fn new(can: &Capabilities, features: &[Feature], search_path: String) -> BackendView {
        let feature = |feature: &Feature| FeatureView {
            name: feature.name.to_owned(),
            available: feature.available,
            why: feature.why.clone(),
        };
        BackendView {
            backend: can.backend.to_owned(),
            accelerator: can.accelerator.to_owned(),
            guests: can.archs.clone(),
            features: features.iter().map(feature).collect(),
            search_path,
        }
    }
}

/// What a machine's backend can do, as the daemon finds it
///
/// Programs are looked for at each request, along the daemon's own search path.
#[utoipa::path(get, path = "/v1/machines/{name}/capabilities", params(("name" = MachineName, Path)),
    responses((status = 200, body = BackendView, description = "As of now.")))]
pub(super) async fn show(State(api): Shared, name: Name) -> Answer<Json<BackendView>> {
    Ok(Json(api.control.capabilities(&machine(name)?)?))
}
