//! Watches one machine: turns what the lifecycle shows into its [`Activity`], and asks the guest for its builds while it is in
//! use, or builds without a lease.
//!
//! ```text
//!   unused ── a lease ──▶ in use: asked at each interval ◀──────────┐
//!      ▲                     │ no lease                             │ a lease
//!      │                     ▼                                      │
//!      └── no builds ── asked at the next interval ─────────────────┤
//!                            └─ builds: asked each minute, by the ──┘
//!                               lifecycle once the idle time is over
//! ```
//!
//! The rules: an idle guest is never polled, and a guest in use is asked once in an interval for all purposes. The idle timer
//! belongs to the lifecycle: where its own question comes before the monitor's, the monitor waits for that one's answer.
//!
//! The numbers are of the last answer: a build shorter than [`PROBE_INTERVAL`] may never be seen.

use super::activity::{Activity, PROBE_INTERVAL, Presence};
use dvn_lifecycle::{Handle, LOOK_AGAIN, Phase, Snapshot};
use dvn_protocol::messages::Ask;
use dvn_types::MachineName;
use futures_util::future::{BoxFuture, OptionFuture};
use std::{future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// A guest in use is asked at least so many times before it counts as hung.
const PROBES: u32 = 4;

/// The monitor of one machine.
pub(super) struct Monitor {
    /// The machine's name.
    pub(super) name: MachineName,
    /// The machine.
    pub(super) handle: Handle,
    /// Publishes the activity.
    pub(super) activity: Arc<watch::Sender<Activity>>,
    /// How long a guest may give no answer: [`hang`](super::hang) needs several probes in this time.
    pub(super) hang_timeout: Option<Duration>,
}

/// A question that is under way.
struct Probe {
    /// The number of the guest's boot.
    boot: u64,
    /// The number of uses before the question; `None` if the guest was in use then.
    uses: Option<u64>,
    /// Whether the guest answered.
    answer: BoxFuture<'static, bool>,
}

impl Monitor {
    /// Runs until the machine's supervisor ends.
    pub(super) async fn run(self) {
        let mut snapshots = self.handle.watch();
        let mut probe: Option<Probe> = None;
        // Boot and uses of the last question that was answered and was asked while the guest was unused.
        let mut heard: Option<(u64, u64)> = None;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let unused = matches!(snapshot.phase, Phase::Running { leases: 0, .. });
            let heard_since = unused && heard == Some((snapshot.boots, snapshot.counters.uses));
            self.publish(&snapshot, heard_since);
            probe = probe.filter(|probe| probe.boot == snapshot.boots && snapshot.phase.is_running());
            let next = if probe.is_none() { self.next(&snapshot, heard_since) } else { None };
            let answer = OptionFuture::from(probe.as_mut().map(|probe| &mut probe.answer));
            tokio::select! {
                biased;
                changed = snapshots.changed() => if changed.is_err() { return },
                Some(answered) = answer => {
                    let asked = probe.take().filter(|_| answered);
                    heard = asked.and_then(|probe| Some((probe.boot, probe.uses?)));
                }
                () = until(next) => probe = Some(self.ask(&snapshot)),
            }
        }
    }

    /// Publishes the state of the lifecycle. `heard`: the guest has answered since its last use.
    fn publish(&self, snapshot: &Snapshot, heard: bool) {
        self.activity.send_if_modified(|activity| {
            let before = activity.clone();
            activity.boot = snapshot.boots;
            activity.presence = Presence::of(&snapshot.phase);
            activity.uses = snapshot.counters.uses;
            activity.leases = match snapshot.phase {
                Phase::Running { leases, .. } | Phase::Paused { leases, .. } => leases,
                _ => 0,
            };
            let leaves =
                matches!(snapshot.phase, Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Failed { .. });
            if !matches!(snapshot.phase, Phase::Running { .. } | Phase::Paused { .. }) {
                activity.builds = 0;
            }
            // A paused guest gives no answers, and the silence of one guest does not count against the next.
            if activity.presence != Presence::Running || activity.boot != before.boot {
                activity.silent_since = None;
            }
            activity.settled = leaves || heard && activity.builds == 0;
            *activity != before
        });
    }

    /// When to ask the guest next, if ever.
    fn next(&self, snapshot: &Snapshot, heard: bool) -> Option<Instant> {
        let Phase::Running { leases, idle_at, asked: lifecycle_asks } = snapshot.phase else { return None };
        let (asked, builds) = {
            let activity = self.activity.borrow();
            (activity.asked, activity.builds)
        };
        let after = |interval| asked.map_or_else(Instant::now, |asked| asked + interval);
        match (leases, heard, builds) {
            (1.., ..) | (0, false, _) => Some(after(self.interval())),
            (0, true, 0) => None,
            (0, true, 1..) if lifecycle_asks => None,
            (0, true, 1..) => Some(after(LOOK_AGAIN)).filter(|next| idle_at.is_none_or(|idle| idle > *next)),
        }
    }

    fn interval(&self) -> Duration {
        self.hang_timeout.map_or(PROBE_INTERVAL, |limit| (limit / PROBES).min(PROBE_INTERVAL))
    }

    /// Asks the guest for its builds. [`asked`](super::asked) notes the answer.
    fn ask(&self, snapshot: &Snapshot) -> Probe {
        let unused = matches!(snapshot.phase, Phase::Running { leases: 0, .. });
        let (boot, uses) = (snapshot.boots, unused.then_some(snapshot.counters.uses));
        let agent = self.handle.agent();
        self.activity.send_if_modified(|activity| {
            let now = Instant::now();
            activity.asked = Some(now);
            agent.is_some() && activity.silent_since.replace(activity.silent_since.unwrap_or(now)).is_none()
        });
        // A guest without an agent shows no builds, and cannot hang.
        let Some(agent) = agent else {
            return Probe { boot, uses, answer: Box::pin(future::ready(true)) };
        };
        let name = self.name.clone();
        let answer = Box::pin(async move {
            let answer = agent.ask(Ask::Builds).await;
            if let Err(report) = &answer {
                tracing::debug!(machine = %name, "the guest did not report its builds: {report}");
            }
            answer.is_ok()
        });
        Probe { boot, uses, answer }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;
