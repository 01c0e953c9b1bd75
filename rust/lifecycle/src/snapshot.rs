//! The public view of a machine. It is separate from the machine's state, which may change freely.
//!
//! Future times are kept as instants and converted to "milliseconds from now" only when a snapshot is read. So a snapshot
//! does not age, and no timer refreshes it.

use super::{
    counters::Counters,
    state::{AfterStop, Idle, Machine, PauseStage, State},
};
use dvn_hypervisor::Exit;
use dvn_types::{BootTimeline, Report, Sizes, unix_ms};
use tokio::time::Instant;

/// A machine at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Grows by one with every change of anything below.
    pub generation: u64,
    /// The phase of the lifecycle.
    pub phase: Phase,
    /// Unix time in milliseconds at which that kind of phase began; a change in the number of leases does not count.
    pub since_unix_ms: u64,
    /// Boots begun since the supervisor was spawned, failed ones included.
    pub boots: u64,
    /// The last boot that reached `Running`.
    pub last_boot: Option<BootTimeline>,
    /// The sizes that were requested for the present boot instead of the configured ones; empty while there is no boot.
    pub sizes: Sizes,
    /// The totals so far.
    pub counters: Counters,
}

/// The phase of a lifecycle, as the public sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No guest.
    Stopped {
        /// How the last guest ended.
        last: Option<Exit>,
    },
    /// A guest boots.
    Starting,
    /// The guest answers.
    Running {
        /// Leases that are held.
        leases: u32,
        /// When the guest is asked for its builds; it is stopped as idle if it has none or does not answer.
        idle_at: Option<Instant>,
        /// The idle time is over: the lifecycle has asked the guest for its builds and waits for the answer until `idle_at`.
        asked: bool,
    },
    /// The guest is paused, or is being resumed.
    Paused {
        /// Leases that are held.
        leases: u32,
        /// It is being resumed.
        resuming: bool,
    },
    /// The guest is being stopped.
    Stopping {
        /// A demand waits: the machine boots again afterwards.
        restart: bool,
    },
    /// The last boot failed.
    Failed {
        /// Why it failed.
        cause: Report,
        /// Boots failed in a row.
        attempts: u32,
        /// From when on a connection boots again.
        retry_at: Instant,
    },
}

impl Phase {
    pub(super) fn of(machine: &Machine) -> Phase {
        match &machine.state {
            State::Stopped { last } => Phase::Stopped { last: last.clone() },
            State::Starting { .. } | State::Booting { .. } => Phase::Starting,
            State::Running { leases, idle } => {
                let (idle_at, asked) = match *idle {
                    Some(Idle::Until { at }) => (Some(at), false),
                    Some(Idle::Asked { until }) => (Some(until), true),
                    None => (None, false),
                };
                Phase::Running { leases: *leases, idle_at, asked }
            }
            // It may still run: the hypervisor has not answered.
            State::Paused { leases, stage: PauseStage::Pausing, .. } => {
                Phase::Running { leases: *leases, idle_at: None, asked: false }
            }
            State::Paused { leases, stage, .. } => {
                Phase::Paused { leases: *leases, resuming: *stage == PauseStage::Resuming }
            }
            State::Stopping { then, .. } => Phase::Stopping { restart: matches!(then, AfterStop::Restart { .. }) },
            State::Failed { cause, retry_at } => {
                Phase::Failed { cause: cause.clone(), attempts: machine.failures, retry_at: *retry_at }
            }
        }
    }

    /// The name that the API uses.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Stopped { .. } => "stopped",
            Phase::Starting => "starting",
            Phase::Running { .. } => "running",
            Phase::Paused { .. } => "paused",
            Phase::Stopping { .. } => "stopping",
            Phase::Failed { .. } => "failed",
        }
    }

    /// Whether there is no guest and no boot.
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Phase::Stopped { .. } | Phase::Failed { .. })
    }

    /// How the last guest ended, if none has begun since.
    pub fn last_exit(self) -> Option<Exit> {
        match self {
            Phase::Stopped { last } => last,
            _ => None,
        }
    }

    /// Whether the guest answers.
    pub fn is_running(&self) -> bool {
        matches!(self, Phase::Running { .. })
    }
}

/// Of a machine before its first boot.
impl Default for Snapshot {
    fn default() -> Self {
        let phase = Phase::of(&Machine::default());
        let (sizes, counters) = Default::default();
        Snapshot { generation: 1, phase, since_unix_ms: unix_ms(), boots: 0, last_boot: None, sizes, counters }
    }
}

impl Snapshot {
    /// The next snapshot, one generation later; `None` if nothing changed. `sizes` are those of the last boot, even if that is
    /// over.
    pub(super) fn moved(
        &self,
        machine: &Machine,
        last_boot: Option<&BootTimeline>,
        sizes: Sizes,
        counters: Counters,
    ) -> Option<Snapshot> {
        let phase = Phase::of(machine);
        let sizes = if phase.is_at_rest() { Sizes::default() } else { sizes };
        let same = phase == self.phase && machine.boots == self.boots && sizes == self.sizes;
        if same && counters == self.counters && last_boot == self.last_boot.as_ref() {
            return None;
        }
        let same_kind = std::mem::discriminant(&phase) == std::mem::discriminant(&self.phase);
        Some(Snapshot {
            generation: self.generation + 1,
            phase,
            since_unix_ms: if same_kind { self.since_unix_ms } else { unix_ms() },
            boots: machine.boots,
            last_boot: last_boot.cloned(),
            sizes,
            counters,
        })
    }
}
