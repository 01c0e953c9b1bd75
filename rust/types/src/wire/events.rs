//! What happens, and what goes through the doors now.

use super::{generations::GenerationsStatus, status::State};
use crate::MachineName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An item of `GET /v1/events`, the SSE stream. Its SSE id is `id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Grows by one with every event of this daemon.
    pub id: u64,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// Whose.
    pub machine: MachineName,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What an [`Event`] tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The lifecycle moved.
    State {
        /// To here.
        #[serde(flatten)]
        state: State,
    },
    /// Somebody connected through a door.
    Opened {
        /// `ssh`, `nix`.
        door: String,
        /// Grows by one with every connection of this daemon.
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
    /// Something became of a generation.
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
        /// Builds that go on.
        running: u32,
    },
}

/// `GET /v1/connections`: what goes through the doors now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// The oldest first.
    pub connections: Vec<Connection>,
}

/// One connection through a door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// As in the events `opened` and `closed`.
    pub connection: u64,
    /// To which machine.
    pub machine: MachineName,
    /// `ssh`, `nix`.
    pub door: String,
    /// Unix time in milliseconds at which it got through.
    pub since_unix_ms: u64,
    /// Bytes from the client to the guest so far.
    pub sent: u64,
    /// Bytes from the guest to the client so far.
    pub received: u64,
}
