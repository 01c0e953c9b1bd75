//! Asks a guest for its builds, again and again, while somebody uses it or it builds without a connection. The answer is
//! counted for events and metrics, keeps the host awake and its store held, and shows that the guest lives. One that gives no
//! answer for too long hangs, and is killed.
//!
//! ```text
//!   unused ── a lease ──▶ in use: asked with every beat ────────────┐
//!      ▲                     │ no lease     ▲ a lease                ├─ no answer for long ──▶ killed
//!      │                     ▼              │                       │
//!      └── no builds ── nobody knows: asked at the next beat ───────┘
//!                            └─ builds: asked each minute, by the lifecycle as soon as it asks itself
//! ```
//!
//! The rule: whoever does not use a guest, and builds nothing in it, causes no wake-up here. That the idle time is over is the
//! lifecycle's to see, and nothing here moves it: while builds alone keep a guest beyond it the lifecycle asks, and is believed.
//! These numbers are of the last look: a build shorter than [`BEAT`] may never be seen.

use super::chronicle::Chronicle;
use dvn_lifecycle::{Handle, LOOK_AGAIN, Phase};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::MachineName;
use std::{future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How often a guest in use is asked, and at least so many times before it is given up.
pub(super) const BEAT: Duration = Duration::from_secs(5);
const BEATS: u32 = 4;

/// The pulse of one machine.
pub struct Pulse {
    /// Whose.
    pub name: MachineName,
    /// The machine.
    pub handle: Handle,
    /// Where builds are counted.
    pub chronicle: Arc<Chronicle>,
    /// Lets go what is held on the host for the guest: nobody uses it, and it builds nothing or is gone.
    pub let_go: Box<dyn Fn() + Send + Sync>,
    /// How long a guest may give no answer; `None` for ever.
    pub hang_timeout: Option<Duration>,
    /// Told whether the guest builds, as far as is known.
    pub building: watch::Sender<bool>,
}

/// What is known of the guest between two questions.
struct Known {
    /// The number of the guest's boot: what is known of one says nothing of the next, which may come unseen.
    boot: u64,
    /// When it is asked next.
    next: Instant,
    /// The first question since the last answer.
    unanswered: Option<Instant>,
    /// Uses of the guest that were seen.
    uses: u64,
    /// It may build: it was used since the last look, or built then.
    may_build: bool,
}

impl Pulse {
    /// Takes it for as long as the machine's supervisor lives.
    pub async fn take(self) {
        let mut snapshots = self.handle.watch();
        let mut known = Known { boot: 0, next: Instant::now(), unanswered: None, uses: 0, may_build: false };
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if std::mem::replace(&mut known.boot, snapshot.boots) != snapshot.boots {
                (known.unanswered, known.may_build) = (None, false);
            }
            // A lease that came and went unseen counts, too.
            known.may_build |= std::mem::replace(&mut known.uses, snapshot.tally.uses) != snapshot.tally.uses;
            match snapshot.phase {
                Phase::Running { leases: 1.., .. } => {
                    // It may have been asked as rarely as one that only builds.
                    known.next = known.next.min(Instant::now() + self.beat());
                    let unused = snapshots.wait_for(|snapshot| !has_leases(&snapshot.phase));
                    tokio::select! {
                        over = async { unused.await.is_err() } => if over { return },
                        () = self.until_it_hangs(&mut known) => self.kill(known.boot).await,
                    }
                    continue;
                }
                // As the lifecycle has heard. Before it has asked it knows of none, which is no news.
                Phase::Running { builds: builds @ 1.., .. } => {
                    known.unanswered = None;
                    self.heard(builds);
                }
                Phase::Running { .. } if known.may_build => {
                    let uses = known.uses;
                    let moved = snapshots.wait_for(|now| !is_unused(&now.phase) || now.tally.uses != uses);
                    tokio::select! {
                        over = async { moved.await.is_err() } => if over { return },
                        hangs = self.until_it_rests(&mut known) => if hangs { self.kill(known.boot).await },
                    }
                    continue;
                }
                Phase::Running { .. } | Phase::Starting => {}
                // One that stands still gives no answers.
                Phase::Paused { .. } => known.unanswered = None,
                Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Failed { .. } => {
                    (known.unanswered, known.may_build) = (None, false);
                    self.heard(0);
                    (self.let_go)();
                }
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks with every beat until no answer has come for so long. Any answer will do, and a guest on its way is none that
    /// hangs.
    async fn until_it_hangs(&self, known: &mut Known) {
        while self.look(known).await != Look::Hangs {}
    }

    /// Asks a guest that nobody uses until it builds nothing, and then lets go what is held for it. True if it hangs instead.
    async fn until_it_rests(&self, known: &mut Known) -> bool {
        loop {
            match self.look(known).await {
                Look::Hangs => return true,
                Look::Busy => known.next = Instant::now() + LOOK_AGAIN,
                // Whether it builds is not known, and so it is asked again soon.
                Look::Silent => {}
                Look::Quiet => {
                    let snapshot = self.handle.snapshot();
                    if is_unused(&snapshot.phase) && snapshot.tally.uses == known.uses {
                        known.may_build = false;
                        (self.let_go)();
                    }
                    return false;
                }
            }
        }
    }

    fn beat(&self) -> Duration {
        self.hang_timeout.map_or(BEAT, |limit| (limit / BEATS).min(BEAT))
    }

    /// Asks when it is time to, unless the guest turns out to hang before that, and counts what it says.
    async fn look(&self, known: &mut Known) -> Look {
        let Known { next, unanswered, .. } = known;
        let hangs = unanswered.and_then(|since| since.checked_add(self.hang_timeout?));
        tokio::select! {
            biased;
            () = sleep_until(*next) => {}
            () = until(hangs) => return Look::Hangs,
        }
        // First, so that who comes while the answer is awaited, and goes, does not have it asked again.
        let now = Instant::now();
        *next = now + self.beat();
        // A guest on its way builds nothing yet, and is none that hangs.
        let Some(agent) = self.handle.agent() else { return Look::Quiet };
        let since = *unanswered.get_or_insert(now);
        let hangs = self.hang_timeout.and_then(|limit| since.checked_add(limit));
        let answer = tokio::select! {
            answer = agent.ask(Ask::Builds) => answer,
            () = until(hangs) => return Look::Hangs,
        };
        match answer {
            Ok(answer) => {
                *unanswered = None;
                let Answer::Builds { running } = answer else {
                    tracing::debug!(machine = %self.name, "the guest was asked for its builds and answered {answer:?}");
                    return Look::Quiet;
                };
                self.heard(running);
                if running > 0 { Look::Busy } else { Look::Quiet }
            }
            Err(report) => {
                tracing::debug!(machine = %self.name, "the guest did not say what it builds: {report}");
                Look::Silent
            }
        }
    }

    fn heard(&self, running: u32) {
        self.chronicle.builds(&self.name, running);
        self.building.send_if_modified(|building| std::mem::replace(building, running > 0) != (running > 0));
    }

    async fn kill(&self, boot: u64) {
        let limit = self.hang_timeout.unwrap_or_default();
        tracing::warn!(machine = %self.name, "the guest has not answered for {limit:?} and is killed");
        if let Err(report) = self.handle.end(boot, true).await {
            tracing::warn!(machine = %self.name, "{report}");
        }
    }
}

/// What a guest shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It has given no answer for too long.
    Hangs,
    /// It gave no answer.
    Silent,
    /// It builds nothing.
    Quiet,
    /// It builds.
    Busy,
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

/// Neither a lease nor a build that the lifecycle knows of.
fn is_unused(phase: &Phase) -> bool {
    matches!(phase, Phase::Running { leases: 0, builds: 0, .. })
}

fn has_leases(phase: &Phase) -> bool {
    matches!(phase, Phase::Running { leases: 1.., .. })
}

#[cfg(test)]
mod tests;
