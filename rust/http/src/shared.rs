//! State and types shared by all routes.

use crate::control::Control;
use axum::extract::State;
use dvn_config::HostFacts;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub(super) struct Api {
    pub(super) control: Arc<dyn Control>,
    pub(super) host: HostFacts,
    pub(super) stop: CancellationToken,
    /// Describes all routes in OpenAPI.
    pub(super) describe: fn() -> Value,
}

pub(super) type Shared = State<Arc<Api>>;
