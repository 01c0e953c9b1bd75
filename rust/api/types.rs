//! What goes over the API, shared by server and client. Field names are camelCase; times are milliseconds.

use crate::{error::Report, spec::MachineName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};
use utoipa::{IntoParams, ToSchema};

/// `GET /v1/status`: the daemon and all its machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaemonStatus {
    /// Grows with every change; `GET /v1/status?after=N` answers once it is greater than N.
    pub generation: u64,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// In the order of their names.
    pub machines: Vec<MachineStatus>,
}

/// A machine, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Its name.
    pub name: MachineName,
    /// What runs its guests: `qemu`, `vz`.
    pub backend: String,
    /// How guest code is executed: `kvm`, `tcg`, …
    pub accelerator: String,
    /// Where its lifecycle stands.
    #[serde(flatten)]
    pub state: State,
    /// Unix time in milliseconds at which this state began.
    pub since_unix_ms: u64,
    /// Boots since the daemon started, failed ones included.
    pub boots: u64,
    /// Where ssh clients reach it.
    pub listen: Vec<String>,
    /// Processors of the guest.
    pub cores: u32,
    /// Memory of the guest in bytes.
    pub memory: u64,
    /// Size of the data disk in bytes, as the guest sees it.
    pub disk_size: u64,
    /// The last boot that reached `running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_boot: Option<BootTimeline>,
    /// Guest systems built from a recipe; absent where there are none and none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generations: Option<GenerationsStatus>,
    /// What the guest has of the host's store.
    pub store: StoreStatus,
}

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
    /// As in [`MachineStatus`].
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

/// What a guest has of the host's store, and what it had to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Whether the guest builds on it.
    #[serde(flatten)]
    pub sharing: StoreSharing,
    /// Paths that the guest uses in place.
    pub shared_paths: u64,
    /// Their size in bytes.
    pub shared_bytes: u64,
    /// Bytes that clients have sent into the guest since the daemon started: what was copied, and what was said.
    pub copied_bytes: u64,
    /// Paths that the host has and the guest may not use in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPath>,
}

/// Whether a guest builds on the host's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "sharing", rename_all = "kebab-case")]
pub enum StoreSharing {
    /// The settings say no.
    #[default]
    Off,
    /// It does, or will when it runs.
    On,
    /// It should, and copies instead until it is stopped.
    Left {
        /// Why.
        why: String,
    },
}

/// A path of the host's store that the guest may not use in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedPath {
    /// The path.
    pub path: String,
    /// Why.
    pub why: String,
}

/// The lifecycle as the outside sees it. Not the supervisor's own state, which may change freely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// No guest. The next connection starts one.
    Stopped {
        /// How the last guest ended, if there was one: `powered-off`, `killed`, or `crashed: why`.
        #[serde(default, rename = "lastExit", skip_serializing_if = "Option::is_none")]
        last_exit: Option<String>,
    },
    /// A guest is on its way up.
    Starting,
    /// The guest answers.
    Running {
        /// Connections and other users of the guest right now.
        leases: u32,
        /// Milliseconds until it is stopped as idle, unless it builds then; absent while it is in use or has no idle timeout.
        #[serde(default, rename = "idleStopInMs", skip_serializing_if = "Option::is_none")]
        idle_stop_in_ms: Option<u64>,
        /// Builds that keep it though no connection does, when it was last asked; 0 is left out.
        #[serde(default, skip_serializing_if = "is_zero")]
        builds: u32,
    },
    /// The guest stands still, with all that it holds. The next connection, or `resume`, has it go on; idle time does not
    /// count.
    Paused {
        /// Connections and other users of the guest right now.
        leases: u32,
        /// It is about to go on.
        resuming: bool,
    },
    /// The guest is on its way down.
    Stopping {
        /// It is started again right after, because somebody waits for it.
        restart: bool,
    },
    /// The last boot failed. A connection before `retryInMs` is over is refused with `cause`; `start` tries at once.
    Failed {
        /// Why.
        cause: Report,
        /// Boots that failed in a row.
        attempts: u32,
        /// Milliseconds until a connection boots again.
        #[serde(rename = "retryInMs")]
        retry_in_ms: u64,
    },
}

/// One boot, milliseconds after the demand that caused it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootTimeline {
    /// Unix time of the demand in milliseconds.
    pub demand_unix_ms: u64,
    /// In order of time.
    pub phases: Vec<TimelinePhase>,
    /// What became of the data disk: `formatted`, `kept`, `rebuilt`.
    pub data_disk: String,
    /// The guest's kernel release.
    pub kernel: String,
}

/// A point of a [`BootTimeline`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelinePhase {
    /// `prepared`, `hypervisor`, `guest: kernel`, …, `ready`, `ssh banner`.
    pub name: String,
    /// Milliseconds after the demand.
    pub at_ms: u64,
}

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
        /// As in [`MachineStatus`].
        #[serde(flatten)]
        status: GenerationsStatus,
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

/// Which service of the guest a connection wants: the last part of `GET /v1/machines/{name}/connect/{service}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// sshd.
    Ssh,
    /// The running nix-daemon, as a trusted user.
    Nix,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The token of the `Upgrade` header that turns an API connection into a byte stream to the guest.
pub const UPGRADE: &str = "darwin-vz-stream";

/// The API's socket in the state directory.
pub const SOCKET_NAME: &str = "api.sock";
