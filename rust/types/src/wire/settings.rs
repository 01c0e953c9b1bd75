//! The settings that the daemon goes by.

use crate::MachineName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /v1/config`: the settings that the daemon goes by.
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
    /// As one would write it.
    pub value: String,
    /// Where it comes from: a flag, a variable, a file and its line, or `default`.
    pub origin: String,
}
