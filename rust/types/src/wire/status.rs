//! The daemon and its machines, as `status` shows them.

use super::{generations::GenerationsStatus, store::StoreStatus};
use crate::{MachineName, Report};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/status`: the daemon and all its machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaemonStatus {
    /// Increases with every change; `GET /v1/status?after=N` answers once it exceeds N.
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
    /// The backend that runs its guests: `qemu`, `vz`.
    pub backend: String,
    /// How guest code is executed: `kvm`, `tcg`, …
    pub accelerator: String,
    /// The state of its lifecycle.
    #[serde(flatten)]
    pub state: State,
    /// What a boot waits for, and which machines have it; absent where none waits. It boots by itself when they leave room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Unix time in milliseconds at which this state began.
    pub since_unix_ms: u64,
    /// Boots since the daemon started, failed ones included.
    pub boots: u64,
    /// Addresses where ssh clients reach it.
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
    /// The guest's use of the host's store.
    pub store: StoreStatus,
}

/// The lifecycle as clients see it. It is not the supervisor's own state, which may change freely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// No guest. The next connection starts one.
    Stopped {
        /// How the last guest ended, if there was one: `powered-off`, `killed`, or `crashed: why`.
        #[serde(default, rename = "lastExit", skip_serializing_if = "Option::is_none")]
        last_exit: Option<String>,
    },
    /// No guest; its memory is saved on disk. The next start continues it.
    Suspended,
    /// Another process runs the machine, for example Tart.
    Elsewhere {
        /// That process.
        pid: u32,
    },
    /// A guest is booting.
    Starting,
    /// The guest answers.
    Running {
        /// Leases held now, by connections and other users of the guest.
        leases: u32,
        /// Milliseconds until the guest is stopped as idle, unless it runs builds then; absent while it is in use or
        /// has no idle timeout.
        #[serde(default, rename = "idleStopInMs", skip_serializing_if = "Option::is_none")]
        idle_stop_in_ms: Option<u64>,
        /// Builds that keep an otherwise idle guest running, when last asked; left out if 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        builds: u32,
    },
    /// The guest is paused and keeps its memory. The next connection, or `resume`, resumes it; paused time does not
    /// count as idle.
    Paused {
        /// Leases held now, by connections and other users of the guest.
        leases: u32,
        /// It is being resumed.
        resuming: bool,
    },
    /// The guest is shutting down.
    Stopping {
        /// It is started again afterwards, because a client waits for it.
        restart: bool,
    },
    /// The daemon could not open the machine: its files, its backend or its port are at fault. Every request about it fails with
    /// `cause`. It is tried again by `start`, by a connection, and once a minute.
    Broken {
        /// Why, and what to do.
        cause: Report,
    },
    /// The last boot failed. A connection before `retryInMs` is over is refused with `cause`; `start` tries at once.
    Failed {
        /// Why.
        cause: Report,
        /// Consecutive failed boots.
        attempts: u32,
        /// Milliseconds until a connection boots again.
        #[serde(rename = "retryInMs")]
        retry_in_ms: u64,
    },
}

/// The phases of one boot, in milliseconds after the demand that caused it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootTimeline {
    /// Unix time of the demand in milliseconds.
    pub demand_unix_ms: u64,
    /// In chronological order.
    pub phases: Vec<TimelinePhase>,
    /// The state of the data disk: `formatted`, `kept`, `rebuilt`.
    pub data_disk: String,
    /// The guest's kernel release.
    pub kernel: String,
}

/// A phase of a [`BootTimeline`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelinePhase {
    /// `prepared`, `hypervisor`, `guest: kernel`, …, `ready`, `ssh banner`.
    pub name: String,
    /// Milliseconds after the demand.
    pub at_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl From<crate::BootTimeline> for BootTimeline {
    fn from(boot: crate::BootTimeline) -> BootTimeline {
        let crate::BootTimeline { demand_unix_ms, phases, data_disk, kernel } = boot;
        let phases = phases.into_iter().map(|phase| TimelinePhase { name: phase.name, at_ms: phase.at_ms }).collect();
        BootTimeline { demand_unix_ms, phases, data_disk, kernel }
    }
}
