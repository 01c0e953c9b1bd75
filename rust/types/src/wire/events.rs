//! Events and connections.

use super::{generations::GenerationsStatus, status::State};
use crate::MachineName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An item of `GET /v1/events`, the SSE stream. Its SSE id is `id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Increases by one with every event of this daemon.
    pub id: u64,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// The machine concerned.
    pub machine: MachineName,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// The content of an [`Event`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The lifecycle changed state.
    State {
        /// The new state.
        #[serde(flatten)]
        state: State,
    },
    /// A client connected.
    Opened {
        /// `ssh`, `nix`.
        door: String,
        /// Increases by one with every connection of this daemon.
        connection: u64,
    },
    /// That connection ended.
    Closed {
        /// As in `opened`.
        door: String,
        /// As in `opened`.
        connection: u64,
        /// Bytes from the client to the guest.
        sent: u64,
        /// Bytes from the guest to the client.
        received: u64,
    },
    /// The state of a generation changed.
    Generations {
        /// As in `MachineStatus`.
        #[serde(flatten)]
        status: GenerationsStatus,
    },
    /// A boot waits until other machines leave room for it, or waits no longer.
    Waits {
        /// For what, and which machines have it; absent where no boot waits any longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The number of builds in the guest was seen to change.
    Builds {
        /// Running builds.
        running: u32,
    },
}

/// `GET /v1/connections`: the open connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// The oldest first.
    pub connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// As in the events `opened` and `closed`.
    pub connection: u64,
    /// The machine that it leads to.
    pub machine: MachineName,
    /// `ssh`, `nix`.
    pub door: String,
    /// Unix time in milliseconds at which it was established.
    pub since_unix_ms: u64,
    /// Bytes from the client to the guest so far.
    pub sent: u64,
    /// Bytes from the guest to the client so far.
    pub received: u64,
}
