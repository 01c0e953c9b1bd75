//! What a client asks for, and the answers that are not a status.

use crate::{Keep, Sizes};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Query of `DELETE /v1/machines/{name}`: what stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DestroyRequest {
    /// The keys.
    pub keep_keys: bool,
    /// The generations.
    pub keep_generations: bool,
}

/// The answer where there is nothing to say but that it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}

/// Body of `POST /v1/machines/{name}/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StopRequest {
    /// Pull the plug instead of pressing the power button.
    pub force: bool,
}

/// Body of `POST /v1/machines/{name}/start`: sizes for this boot in place of the configured ones.
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
    /// What the guest's file system gave back, in bytes. The host may have had some of it already.
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
