//! A machine's totals since the daemon started, for the metrics. They only grow.

use super::{
    events::{Effect, Event, News},
    state::{Machine, State},
};
use dvn_hypervisor::Exit;
use std::time::Duration;
use tokio::time::Instant;

/// The totals. `Machine` itself counts the boots that have begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Boots after which the guest answered.
    pub ready: u64,
    /// Boots that failed. A boot that is in neither number was cancelled by a stop.
    pub failed: u64,
    /// Boots that began at the end of a guest, because a demand waited.
    pub restarts: u64,
    /// Completed pauses.
    pub pauses: u64,
    /// Guests that powered off or were suspended, that were killed, and that ended otherwise.
    pub exits: [u64; 3],
    /// Leases that were granted, or activated again. They also show a use that began and ended between two reads.
    pub uses: u64,
    idle: Duration,
    idle_since: Option<Instant>,
}

impl Counters {
    /// How long the machine's guests have run without a lease.
    pub fn idle(&self, now: Instant) -> Duration {
        self.idle + self.idle_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Counts one step.
    pub(super) fn note(
        &mut self,
        failures_before: u32,
        event: &Event,
        after: &Machine,
        effects: &[Effect],
        now: Instant,
    ) {
        if let Event::News { news, .. } = event {
            match news {
                News::Ready if matches!(after.state, State::Running { .. }) => self.ready += 1,
                News::Paused if effects.contains(&Effect::PauseDone) => self.pauses += 1,
                News::Exited(Exit::PoweredOff | Exit::Suspended) => self.exits[0] += 1,
                News::Exited(Exit::Killed) => self.exits[1] += 1,
                News::Exited(Exit::Crashed(_)) => self.exits[2] += 1,
                _ => {}
            }
        }
        for effect in effects {
            if let Effect::Grant(leases) = effect {
                self.uses += u64::from(*leases);
            }
        }
        self.uses += u64::from(matches!((event, &after.state), (Event::Reacquire { .. }, State::Running { .. })));
        self.failed += u64::from(after.failures > failures_before);
        self.restarts += u64::from(effects.contains(&Effect::Boot) && !matches!(event, Event::Demand { .. }));
        match after.state {
            State::Running { leases: 0, .. } => {
                self.idle_since.get_or_insert(now);
            }
            _ => {
                self.idle = self.idle(now);
                self.idle_since = None;
            }
        }
    }
}
