//! What the outside sees of a machine. Kept apart from the machine's own state, which may change freely.
//!
//! Times to come are kept as instants and become "milliseconds from now" only when somebody reads them, so that a
//! snapshot does not age and nothing wakes up to refresh it.

use super::{
    state::{Halt, Idle, Machine, State, Then},
    tally::Tally,
};
use dvn_hypervisor::Exit;
use dvn_types::{BootTimeline, Report, Sizes, unix_ms};
use tokio::time::Instant;

/// A machine as of some moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Grows by one with every change of anything below.
    pub generation: u64,
    /// Where the lifecycle stands.
    pub phase: Phase,
    /// Unix time in milliseconds at which that kind of phase began; a lease more or less does not count.
    pub since_unix_ms: u64,
    /// Boots begun since the supervisor was spawned, failed ones included.
    pub boots: u64,
    /// The last boot that reached `Running`.
    pub last_boot: Option<BootTimeline>,
    /// What the present boot was asked for in place of the configured sizes; nothing while there is none.
    pub sizes: Sizes,
    /// What has happened so far.
    pub tally: Tally,
}

/// Where a lifecycle stands, as far as it concerns the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No guest.
    Stopped {
        /// How the last one ended.
        last: Option<Exit>,
    },
    /// A guest is on its way up.
    Starting,
    /// The guest answers.
    Running {
        /// Leases that are held.
        leases: u32,
        /// When it is asked for its builds, and stopped as idle if it has none or does not answer.
        idle_at: Option<Instant>,
        /// The idle time is over, the lifecycle has asked the guest for its builds, and awaits the answer until `idle_at`.
        asked: bool,
    },
    /// The guest stands still, or is about to go on.
    Paused {
        /// Leases that are held.
        leases: u32,
        /// Somebody waits for it to go on.
        resuming: bool,
    },
    /// The guest is on its way down.
    Stopping {
        /// Somebody waits for it to come up again.
        restart: bool,
    },
    /// The last boot failed.
    Failed {
        /// Why.
        cause: Report,
        /// Boots failed in a row.
        attempts: u32,
        /// When a connection boots again.
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
            // It may still run, and nobody has been told otherwise.
            State::Paused { leases, halt: Halt::Pausing, .. } => {
                Phase::Running { leases: *leases, idle_at: None, asked: false }
            }
            State::Paused { leases, halt, .. } => Phase::Paused { leases: *leases, resuming: *halt == Halt::Resuming },
            State::Stopping { then, .. } => Phase::Stopping { restart: matches!(then, Then::Restart { .. }) },
            State::Failed { cause, retry_at } => {
                Phase::Failed { cause: cause.clone(), attempts: machine.failures, retry_at: *retry_at }
            }
        }
    }

    /// As the API spells it.
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

    /// Whether there is no guest and none on its way.
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Phase::Stopped { .. } | Phase::Failed { .. })
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
        let (sizes, tally) = Default::default();
        Snapshot { generation: 1, phase, since_unix_ms: unix_ms(), boots: 0, last_boot: None, sizes, tally }
    }
}

impl Snapshot {
    /// The same with another phase and count of boots, one generation on; `None` when nothing changed. `sizes` are those of
    /// the last boot, be it over or not.
    pub(super) fn moved(
        &self,
        machine: &Machine,
        last_boot: Option<&BootTimeline>,
        sizes: Sizes,
        tally: Tally,
    ) -> Option<Snapshot> {
        let phase = Phase::of(machine);
        let sizes = if phase.is_at_rest() { Sizes::default() } else { sizes };
        let same = phase == self.phase && machine.boots == self.boots && sizes == self.sizes && tally == self.tally;
        if same && last_boot == self.last_boot.as_ref() {
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
            tally,
        })
    }
}
