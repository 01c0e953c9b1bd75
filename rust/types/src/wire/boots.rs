//! A machine's last boots.

use crate::{Kind, Report};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// `GET /v1/machines/{name}/boots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootList {
    /// The newest first. The first is the present or last boot, number 0 of `console?boot=`; the next one is -1.
    pub boots: Vec<BootRecord>,
}

/// The record of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// Its number, counted from 1 since the machine was created.
    pub number: u64,
    /// Unix time in milliseconds at which it began.
    pub begun_unix_ms: u64,
    /// Unix time in milliseconds at which the guest answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_unix_ms: Option<u64>,
    /// Unix time in milliseconds at which it failed or its guest ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: BootOutcome,
    /// The bundle that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<PathBuf>,
    /// Processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Size of its console in bytes; absent where the guest printed nothing, or had no console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_bytes: Option<u64>,
}

/// The outcome of a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum BootOutcome {
    /// It is in progress.
    Starting,
    /// Its guest answers.
    Running,
    /// Its guest has ended.
    Ended {
        /// How: `powered-off`, `killed`, or `crashed: why`.
        exit: String,
    },
    /// Its guest did not boot.
    Failed {
        /// Why, with the last output of the console and of the programs that ended.
        why: Report,
    },
    /// The daemon ended abruptly meanwhile, and the guest with it.
    Lost,
}

impl BootRecord {
    /// Why it counts as failed, if it does.
    pub fn went_wrong(&self) -> Option<Report> {
        match &self.outcome {
            BootOutcome::Failed { why } => Some(why.clone()),
            BootOutcome::Ended { exit } if exit.starts_with("crashed") => {
                Some(Report::new(Kind::Guest, format!("the guest {exit}")))
            }
            BootOutcome::Lost => Some(Report::new(Kind::Guest, "the daemon ended abruptly, and the guest with it")),
            BootOutcome::Starting | BootOutcome::Running | BootOutcome::Ended { .. } => None,
        }
    }
}
