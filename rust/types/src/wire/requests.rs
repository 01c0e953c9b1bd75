//! Requests of clients, and answers other than a status.

use crate::{Keep, Sizes};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Query of `DELETE /v1/machines/{name}`: what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DestroyRequest {
    /// The keys.
    pub keep_keys: bool,
    /// The generations.
    pub keep_generations: bool,
}

/// An empty answer: the request is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}

/// Body of `POST /v1/machines/{name}/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StopRequest {
    /// Cut the power instead of pressing the power button.
    pub force: bool,
}

/// Body of `POST /v1/machines/{name}/start`: sizes for this boot that override the configured ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StartRequest {
    /// Processors.
    pub cores: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub disk_size: Option<u64>,
}

/// Answer of `POST /v1/machines/{name}/trim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trimmed {
    /// Bytes that the guest's file system discarded. The host may have freed some of them before.
    pub bytes: u64,
}

impl From<StartRequest> for Sizes {
    fn from(request: StartRequest) -> Sizes {
        let StartRequest { cores, memory, disk_size } = request;
        Sizes { cores, memory, disk_size }
    }
}

impl From<Sizes> for StartRequest {
    fn from(sizes: Sizes) -> StartRequest {
        let Sizes { cores, memory, disk_size } = sizes;
        StartRequest { cores, memory, disk_size }
    }
}

impl From<DestroyRequest> for Keep {
    fn from(request: DestroyRequest) -> Keep {
        Keep { keys: request.keep_keys, generations: request.keep_generations }
    }
}
