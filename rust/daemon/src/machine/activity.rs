//! What is known of a guest's use: whether it is in use, whether it builds, whether it answers.
//!
//! ```text
//!            snapshots of the lifecycle ─▶ monitor ─┐                    ┌─▶ host_awake, clock, store_hold, hang
//!  whoever asks the guest for its builds ─▶ asked ──┴─▶ watch<Activity> ─┴─▶ status, events, metrics
//! ```
//!
//! The rule: an [`Activity`] is kept once, in a watch channel. [`monitor`](super::monitor) and [`asked`](super::asked) write it;
//! everything else subscribes, and asks no guest for what stands in it.

use dvn_lifecycle::Phase;
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// How often a guest in use is asked for its builds.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A use lasts for so long after the last lease and the last build: builds come in rows, and whether the guest goes on building
/// is known only once it has been asked and has answered.
pub(super) const LINGER: Duration = PROBE_INTERVAL.saturating_mul(3);

/// Where subscribers read it.
pub(super) type Activities = watch::Receiver<Activity>;

/// One machine's guest, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// The number of the boot that this is about.
    pub(super) boot: u64,
    /// Whether there is a guest.
    pub(super) presence: Presence,
    /// Leases that are held.
    pub(super) leases: u32,
    /// Leases that were granted so far, or woke: of this machine, not of this boot.
    pub(super) uses: u64,
    /// Builds in the guest at its last answer; 0 where there is no guest.
    pub(super) builds: u32,
    /// Nothing relies on the guest: it has answered since its last use that it builds nothing, or it is on its way out.
    pub(super) settled: bool,
    /// The monitor's first question since the last answer; `None` while the guest answers, or is asked nothing.
    pub(super) silent_since: Option<Instant>,
    /// When the guest was last asked for its builds, by anything.
    pub(super) asked: Option<Instant>,
    /// Guests that got ready so far. An answer of an earlier one says nothing of this one.
    pub(super) guests: u64,
}

/// Whether there is a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// None, and none on its way.
    #[default]
    Off,
    /// One that comes, stands still or goes.
    Passive,
    /// One that answers.
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
    /// A lease is held, or a build goes on without one.
    pub(super) fn in_use(&self) -> bool {
        self.presence == Presence::Running && (self.leases > 0 || self.builds > 0)
    }

    /// The builds that keep the guest though no lease does.
    pub(super) fn builds_alone(&self) -> u32 {
        if self.leases == 0 { self.builds } else { 0 }
    }
}

/// The uses of a guest, one after the other. Each begins with a lease or a build, and ends a while after the last of both; at
/// once where the guest is off.
#[derive(Clone)]
pub(super) struct Uses(Activities);

impl Uses {
    pub(super) fn of(activities: Activities) -> Uses {
        Uses(activities)
    }

    /// Waits for the next. False: the machine is gone.
    pub(super) async fn begins(&mut self) -> bool {
        self.0.wait_for(Activity::in_use).await.is_ok()
    }

    /// Waits for the end of one, also that of the machine.
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
