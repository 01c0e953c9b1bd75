//! The daemon's settings.

use crate::MachineName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /v1/config`: the daemon's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    /// The daemon's own, by their names.
    pub daemon: BTreeMap<String, SettingView>,
    /// Each machine's.
    pub machines: BTreeMap<MachineName, BTreeMap<String, SettingView>>,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingView {
    /// Its value, as a configuration file would have it.
    pub value: String,
    /// Its origin: a flag, a variable, a file and its line, or `default`.
    pub origin: String,
}
