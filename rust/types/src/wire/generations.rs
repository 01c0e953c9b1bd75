//! Guest systems that a machine can boot, and what comes.

use crate::Report;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// Which guest system boots, and what comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationsStatus {
    /// The generation that boots; 0 is the configured bundle.
    pub current: u32,
    /// The generation of the guest that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// What becomes of the configured recipe, unless it is what boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prospect: Option<Prospect>,
}

/// What becomes of a recipe.
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
    /// It is built, and is tried when nobody uses the guest.
    Waiting {
        /// Its number.
        number: u32,
    },
    /// It boots for the first time. Who connects waits for the outcome.
    Trying {
        /// Its number.
        number: u32,
        /// Unix time in milliseconds.
        #[serde(rename = "sinceUnixMs")]
        since_unix_ms: u64,
    },
    /// Something came in between; it goes on by itself.
    Postponed {
        /// What.
        why: Report,
        /// Unix time in milliseconds.
        #[serde(rename = "untilUnixMs")]
        until_unix_ms: u64,
    },
    /// It cannot be built. Nothing more is done until somebody asks or the daemon starts anew.
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
    /// The user went back: it stays so until the recipe changes.
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
    /// Its bundle; generation 0 has none where none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<PathBuf>,
    /// What it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub recipe: Option<PathBuf>,
    /// The store path that it was in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_unix_ms: Option<u64>,
    /// How it fared.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How a generation fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It has not booted yet.
    Untried,
    /// It came up and answered; or it is the configured bundle.
    Good,
    /// It did not.
    Bad {
        /// Why, with the console's last lines.
        why: Report,
    },
}

/// Body of `POST /v1/machines/{name}/generations/rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// The generation to go to; without it, the good one before the present one.
    pub to: Option<u32>,
}
