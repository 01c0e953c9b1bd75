//! The guest's use of the host's store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The guest's use of the host's store, and the bytes that were copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Whether the guest builds on it.
    #[serde(flatten)]
    pub sharing: StoreSharing,
    /// Paths that the guest uses in place.
    pub shared_paths: u64,
    /// Their size in bytes.
    pub shared_bytes: u64,
    /// Bytes that clients have sent into the guest since the daemon started: copied store paths and protocol traffic.
    pub copied_bytes: u64,
    /// Paths that the host has and the guest may not use in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPath>,
}

/// Whether a guest builds on the host's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "sharing", rename_all = "kebab-case")]
pub enum StoreSharing {
    /// Disabled in the settings.
    #[default]
    Off,
    /// It does, or will when it runs.
    On,
    /// Enabled, but the guest copies inputs instead until it is stopped.
    Left {
        /// Why.
        why: String,
    },
}

/// A path of the host's store that the guest may not use in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedPath {
    /// The path.
    pub path: String,
    /// Why.
    pub why: String,
}
