//! What a machine's backend can do, as the daemon that runs it finds it: by its own search path, which may be another than that of
//! the program that asks.

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
