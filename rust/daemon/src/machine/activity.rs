//! A guest's activity: whether it is in use, whether it builds, whether it answers.
//!
//! ```text
//!            snapshots of the lifecycle ─▶ monitor ─┐                    ┌─▶ host_awake, clock, store_hold, hang
//!   each question for the guest's builds ─▶ asked ──┴─▶ watch<Activity> ─┴─▶ status, events, metrics
//! ```
//!
//! The rule: an [`Activity`] is kept once, in a watch channel. [`monitor`](super::monitor) and [`asked`](super::asked) write it.
//! All other code subscribes to it and does not ask the guest.

use dvn_lifecycle::Phase;
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// How often a guest in use is asked for its builds.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A use lasts this long after the last lease and the last build: builds often follow each other, and whether the guest still
/// builds is known only after its next answer.
pub(super) const LINGER: Duration = PROBE_INTERVAL.saturating_mul(3);

/// The subscription to an activity.
pub(super) type Activities = watch::Receiver<Activity>;

/// The activity of one machine's guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// The number of the boot.
    pub(super) boot: u64,
    /// Whether there is a guest.
    pub(super) presence: Presence,
    /// Leases that are held.
    pub(super) leases: u32,
    /// Leases that were granted or activated again so far, in all boots of the machine.
    pub(super) uses: u64,
    /// Builds in the guest at its last answer; 0 if there is no guest.
    pub(super) builds: u32,
    /// Nothing relies on the guest: it has answered since its last use that it has no builds, or it is stopping or stopped.
    pub(super) settled: bool,
    /// When the monitor asked the first question since the last answer; `None` while no question is open.
    pub(super) silent_since: Option<Instant>,
    /// When the guest was last asked for its builds, by any code.
    pub(super) asked: Option<Instant>,
    /// The number of guests that became ready so far. Answers of earlier ones do not count.
    pub(super) guests: u64,
}

/// Whether there is a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// No guest, and no boot.
    #[default]
    Off,
    /// A guest that boots, is paused or is being stopped.
    Passive,
    /// A guest that answers.
    Running,
}

impl Presence {
    pub(super) fn of(phase: &Phase) -> Presence {
        match phase {
            Phase::Stopped { .. } | Phase::Failed { .. } => Presence::Off,
            Phase::Starting | Phase::Paused { .. } | Phase::Stopping { .. } => Presence::Passive,
            Phase::Running { .. } => Presence::Running,
        }
    }
}

impl Activity {
    /// Whether a lease is held, or a build runs without one.
    pub(super) fn in_use(&self) -> bool {
        self.presence == Presence::Running && (self.leases > 0 || self.builds > 0)
    }

    /// The builds that keep the guest running without a lease.
    pub(super) fn builds_alone(&self) -> u32 {
        if self.leases == 0 { self.builds } else { 0 }
    }
}

/// The uses of a guest, one after the other. Each begins with a lease or a build and ends [`LINGER`] after the last of both, or
/// at once if the guest is off.
#[derive(Clone)]
pub(super) struct Uses(Activities);

impl Uses {
    pub(super) fn of(activities: Activities) -> Uses {
        Uses(activities)
    }

    /// Waits for the next use. `false`: the machine was removed.
    pub(super) async fn begins(&mut self) -> bool {
        self.0.wait_for(Activity::in_use).await.is_ok()
    }

    /// Waits for the end of the use, or of the machine.
    pub(super) async fn ends(&mut self) {
        while self.0.wait_for(|now| !now.in_use()).await.is_ok() {
            let resumed = self.0.wait_for(|now| now.in_use() || now.presence == Presence::Off);
            match timeout(LINGER, resumed).await {
                Ok(Ok(now)) if now.in_use() => {}
                _ => return,
            }
        }
    }
}
