//! What a machine's backend can do, as the daemon determines it: with its own search path, which may differ from the
//! client's.

use crate::Arch;
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
    /// Processors of the guests that it can boot, the host's own first: `aarch64`, `x86_64`.
    #[schema(value_type = Vec<String>)]
    pub guests: Vec<Arch>,
    /// The features, available or not.
    pub features: Vec<FeatureView>,
    /// The search path for its programs, in the form of `PATH`.
    pub search_path: String,
}

/// An optional feature of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureView {
    /// Its name: words joined by dashes.
    pub name: String,
    /// Whether it works here.
    pub available: bool,
    /// Why; if it does not work, also what would help.
    pub why: String,
}
