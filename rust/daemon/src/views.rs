//! Converts the daemon's data to the types of the API.

use dvn_hypervisor::{Capabilities, Exit, Feature};
use dvn_lifecycle::{Phase, Snapshot};
use dvn_types::{
    Arch, ms,
    wire::{BackendView, FeatureView, GuestOs, Hardware, MachineStatus, Role, State, Vm},
};
use tokio::time::Instant;

/// The capabilities of a backend, as found with this search path.
pub fn backend_view(can: &Capabilities, features: &[Feature], search_path: String) -> BackendView {
    let feature = |feature: &Feature| FeatureView {
        name: feature.name.to_owned(),
        available: feature.available,
        why: feature.why.clone(),
    };
    BackendView {
        backend: can.backend.to_owned(),
        accelerator: can.accelerator.to_owned(),
        guests: can.archs.clone(),
        features: features.iter().map(feature).collect(),
        search_path,
    }
}

/// A builder as one of all machines.
pub fn builder(status: &MachineStatus) -> Vm {
    Vm {
        name: status.name.clone(),
        role: Role::Builder,
        state: status.state.clone(),
        waits_for: status.waits_for.clone(),
        hardware: Some(Hardware {
            os: GuestOs::Linux,
            arch: Arch::host().unwrap_or(Arch::Aarch64),
            cores: status.cores,
            memory: status.memory,
            disk_size: status.disk_size,
            disk_format: "raw".to_owned(),
            display: None,
            mac_address: None,
            medium: None,
            created_unix_ms: None,
            started_unix_ms: None,
            directory: None,
        }),
        space: None,
    }
}

/// The state of a lifecycle at `now`; `builds` are those that keep the guest running without a lease.
pub fn state(snapshot: &Snapshot, builds: u32, now: Instant) -> State {
    let away = |at: Instant| ms(at.saturating_duration_since(now));
    match &snapshot.phase {
        Phase::Stopped { last: Some(Exit::Suspended) } => State::Suspended,
        Phase::Stopped { last } => State::Stopped { last_exit: last.as_ref().map(Exit::to_string) },
        Phase::Starting => State::Starting,
        Phase::Running { leases, idle_at, .. } => {
            State::Running { leases: *leases, idle_stop_in_ms: idle_at.map(away), builds }
        }
        Phase::Paused { leases, resuming } => State::Paused { leases: *leases, resuming: *resuming },
        Phase::Stopping { restart } => State::Stopping { restart: *restart },
        Phase::Failed { cause, attempts, retry_at } => {
            State::Failed { cause: cause.clone(), attempts: *attempts, retry_in_ms: away(*retry_at) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_types::{Kind, Report};
    use std::time::Duration;

    fn at(phase: Phase, now: Instant) -> State {
        state(&Snapshot { phase, ..Snapshot::default() }, 3, now)
    }

    #[test]
    fn every_phase_is_converted_with_all_data_and_the_documented_name() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let cause = Report::new(Kind::Boot, "no");
        let failed = |retry_in_ms| State::Failed { cause: cause.clone(), attempts: 2, retry_in_ms };
        let fails = |retry_at| Phase::Failed { cause: cause.clone(), attempts: 2, retry_at };
        let ended = |exit: &str| State::Stopped { last_exit: Some(exit.to_owned()) };
        let phases = [
            (Phase::Stopped { last: None }, State::Stopped { last_exit: None }),
            (Phase::Stopped { last: Some(Exit::PoweredOff) }, ended("powered-off")),
            (Phase::Stopped { last: Some(Exit::Killed) }, ended("killed")),
            (Phase::Stopped { last: Some(Exit::Crashed("why".into())) }, ended("crashed: why")),
            (Phase::Starting, State::Starting),
            (
                Phase::Running { leases: 1, idle_at: None, asked: false },
                State::Running { leases: 1, idle_stop_in_ms: None, builds: 3 },
            ),
            (Phase::Paused { leases: 1, resuming: true }, State::Paused { leases: 1, resuming: true }),
            (Phase::Stopping { restart: true }, State::Stopping { restart: true }),
            (fails(now + 2 * second), failed(2000)),
            (fails(now), failed(0)),
        ];
        for (phase, expected) in phases {
            let name = phase.name();
            let state = at(phase, now);
            assert_eq!(state, expected);
            assert_eq!(serde_json::to_value(state).unwrap()["state"], name);
        }
        assert_eq!(at(fails(now), now + second), failed(0), "a time in the past is 0");
    }

    #[test]
    fn remaining_times_count_from_the_moment_of_reading() {
        let (now, minute) = (Instant::now(), Duration::from_secs(60));
        let idle = Phase::Running { leases: 0, idle_at: Some(now + 2 * minute), asked: false };
        for (when, ms) in [(now, 120_000), (now + minute, 60_000), (now + 3 * minute, 0)] {
            let expected = State::Running { leases: 0, idle_stop_in_ms: Some(ms), builds: 3 };
            assert_eq!(at(idle.clone(), when), expected);
        }
    }
}
