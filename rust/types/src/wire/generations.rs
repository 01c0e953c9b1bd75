//! Guest systems that a machine can boot, and the one being prepared.

use crate::Report;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// The guest system that boots, and the one being prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationsStatus {
    /// The generation that boots; 0 is the configured bundle.
    pub current: u32,
    /// The generation of the present guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// The state of the configured recipe, unless it is what boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prospect: Option<Prospect>,
}

/// The state of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Prospect {
    /// The guest builds it.
    Building {
        /// The number it will have.
        number: u32,
        /// Unix time in milliseconds.
        #[serde(rename = "sinceUnixMs")]
        since_unix_ms: u64,
    },
    /// It is built, and is tried when the guest is not in use.
    Waiting {
        /// Its number.
        number: u32,
    },
    /// It boots for the first time. New connections wait for the outcome.
    Trying {
        /// Its number.
        number: u32,
        /// Unix time in milliseconds.
        #[serde(rename = "sinceUnixMs")]
        since_unix_ms: u64,
    },
    /// It was interrupted, and continues automatically.
    Postponed {
        /// The reason.
        why: Report,
        /// Unix time in milliseconds.
        #[serde(rename = "untilUnixMs")]
        until_unix_ms: u64,
    },
    /// It cannot be built. It is tried again only on request or after a restart of the daemon.
    GivenUp {
        /// Why.
        why: Report,
    },
    /// It was built and does not work.
    Bad {
        /// Its number.
        number: u32,
        /// Why.
        why: Report,
    },
}

/// `GET /v1/machines/{name}/generations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationList {
    /// As in `MachineStatus`.
    #[serde(flatten)]
    pub status: GenerationsStatus,
    /// The configured recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub recipe: Option<PathBuf>,
    /// The user has selected a generation, which stays until the recipe changes.
    pub held: bool,
    /// In the order of their numbers, from 0.
    pub generations: Vec<GenerationStatus>,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationStatus {
    /// Its number.
    pub number: u32,
    /// Its bundle; generation 0 has none if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<PathBuf>,
    /// The recipe that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub recipe: Option<PathBuf>,
    /// Its store path in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_unix_ms: Option<u64>,
    /// Whether it works.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whether a generation works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It has not booted yet.
    Untried,
    /// It booted and answered; or it is the configured bundle.
    Good,
    /// It did not boot or answer.
    Bad {
        /// Why, with the console's last lines.
        why: Report,
    },
}

/// Body of `POST /v1/machines/{name}/generations/rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// The generation to select; without it, the last good one before the present one.
    pub to: Option<u32>,
}
