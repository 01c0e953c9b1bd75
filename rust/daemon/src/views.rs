//! What the daemon's parts know, in the words of the API.

use dvn_hypervisor::{Capabilities, Exit, Feature};
use dvn_lifecycle::{Phase, Snapshot};
use dvn_types::wire::{BackendView, FeatureView, State};
use std::time::Duration;
use tokio::time::Instant;

/// What a backend can do, as was found along that search path.
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

/// Where a lifecycle stands at `now`.
pub fn state(snapshot: &Snapshot, now: Instant) -> State {
    let away = |at: Instant| ms(at.saturating_duration_since(now));
    match &snapshot.phase {
        Phase::Stopped { last } => State::Stopped { last_exit: last.as_ref().map(Exit::to_string) },
        Phase::Starting => State::Starting,
        Phase::Running { leases, idle_at, builds } => {
            State::Running { leases: *leases, idle_stop_in_ms: idle_at.map(away), builds: *builds }
        }
        Phase::Paused { leases, resuming } => State::Paused { leases: *leases, resuming: *resuming },
        Phase::Stopping { restart } => State::Stopping { restart: *restart },
        Phase::Failed { cause, attempts, retry_at } => {
            State::Failed { cause: cause.clone(), attempts: *attempts, retry_in_ms: away(*retry_at) }
        }
    }
}

/// Whole milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_types::{Kind, Report};

    #[test]
    fn names_and_ends_are_spelled_as_the_api_documents() {
        let now = Instant::now();
        let snapshot = Snapshot::default();
        let phases = [
            Phase::Stopped { last: None },
            Phase::Starting,
            Phase::Running { leases: 1, idle_at: None, builds: 0 },
            Phase::Paused { leases: 1, resuming: false },
            Phase::Stopping { restart: true },
            Phase::Failed { cause: Report::new(Kind::Boot, "no"), attempts: 2, retry_at: now },
        ];
        for phase in phases {
            let snapshot = Snapshot { phase: phase.clone(), ..snapshot.clone() };
            let wire = serde_json::to_value(state(&snapshot, now)).unwrap();
            assert_eq!(wire["state"], phase.name(), "{wire}");
        }
        let ends = [Exit::PoweredOff, Exit::Killed, Exit::Crashed("why".into())];
        assert_eq!(ends.each_ref().map(Exit::to_string), ["powered-off", "killed", "crashed: why"]);
    }

    #[test]
    fn what_remains_is_counted_when_it_is_read() {
        let now = Instant::now();
        let left = |phase, at| state(&Snapshot { phase, ..Snapshot::default() }, at);
        let minute = Duration::from_secs(60);
        let idle = Phase::Running { leases: 0, idle_at: Some(now + 2 * minute), builds: 0 };
        for (at, ms) in [(now, 120_000), (now + minute, 60_000), (now + 3 * minute, 0)] {
            let expected = State::Running { leases: 0, idle_stop_in_ms: Some(ms), builds: 0 };
            assert_eq!(left(idle.clone(), at), expected);
        }
    }
}
