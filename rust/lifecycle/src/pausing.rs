//! The transitions of [`machine::step`](super::machine) for a paused guest.
//!
//! ```text
//!            Pause                Paused               Demand                 Resumed
//!   Running ───────▶ {Pausing} ──────────▶ {Paused} ──────────▶ {Resuming} ──────────▶ Running
//!      ▲                │  │                  │ Stop                │ │                    (leases kept, idle begins anew)
//!      └─ PauseRefused ─┘  └── Stop ──▶ Stopping{Pausing, Resuming} ◀─┘ Stop ── then the power button, as ever
//! ```
//!
//! Invariants: the hypervisor gets no further pause or resume before it has answered the last one. No timer runs during a
//! pause, so a paused guest is not stopped as idle. A guest that cannot be resumed is killed, and its waiters get a new one.

use super::{
    events::{Effect, News},
    machine::{ASK_AGAIN, Step, Stepper},
    reports,
    state::{AfterStop, Leaving, PauseStage, State},
};
use tokio::time::Instant;

impl Stepper<'_> {
    pub(super) fn pause(self, state: State) -> Step {
        match state {
            State::Running { leases, .. } => {
                self.to(State::Paused { leases, waiters: 0, stage: PauseStage::Pausing }, vec![Effect::Pause])
            }
            State::Paused { stage: PauseStage::Pausing, .. } => self.to(state, vec![]),
            State::Paused { stage: PauseStage::Paused, .. } => self.to(state, vec![Effect::PauseDone]),
            State::Paused { stage: PauseStage::Resuming, .. } => {
                self.to(state, vec![Effect::PauseDenied(reports::being_resumed())])
            }
            state => self.to(state, vec![Effect::PauseDenied(reports::nothing_runs())]),
        }
    }

    pub(super) fn demand_paused(self, leases: u32, waiters: u32, stage: PauseStage) -> Step {
        let (stage, effects) = match stage {
            PauseStage::Paused => (PauseStage::Resuming, vec![Effect::Resume]),
            stage => (stage, vec![]),
        };
        self.to(State::Paused { leases, waiters: waiters.saturating_add(1), stage }, effects)
    }

    pub(super) fn stop_paused(self, waiters: u32, stage: PauseStage, force: bool) -> Step {
        let mut effects = vec![];
        if stage == PauseStage::Pausing {
            effects.push(Effect::PauseDenied(reports::being_stopped()));
        }
        if waiters > 0 {
            effects.push(Effect::Deny(reports::being_stopped()));
        }
        if force || self.policy.grace.is_zero() {
            return self.kill(Leaving::Guest, AfterStop::Rest, effects);
        }
        let what = match stage {
            PauseStage::Pausing => Leaving::Pausing,
            PauseStage::Paused => {
                effects.push(Effect::Resume);
                Leaving::Resuming
            }
            PauseStage::Resuming => Leaving::Resuming,
        };
        let kill_at = self.after(self.policy.grace);
        self.to(State::Stopping { what, ask_at: None, kill_at, kills: 0, then: AfterStop::Rest }, effects)
    }

    pub(super) fn news_paused(self, leases: u32, waiters: u32, stage: PauseStage, news: News) -> Step {
        match (stage, news) {
            (PauseStage::Pausing, News::Paused) if waiters == 0 => {
                self.to(State::Paused { leases, waiters, stage: PauseStage::Paused }, vec![Effect::PauseDone])
            }
            (PauseStage::Pausing, News::Paused) => {
                let effects = vec![Effect::PauseDone, Effect::Resume];
                self.to(State::Paused { leases, waiters, stage: PauseStage::Resuming }, effects)
            }
            (PauseStage::Pausing, News::PauseRefused(why)) => self.run(leases, waiters, vec![Effect::PauseDenied(why)]),
            (PauseStage::Resuming, News::Resumed) => self.run(leases, waiters, vec![]),
            (PauseStage::Pausing, News::Wedged(why)) => self.replace(waiters, vec![Effect::PauseDenied(why)]),
            (PauseStage::Resuming, News::Wedged(_)) => self.replace(waiters, vec![]),
            (stage, News::Exited(exit)) => {
                let effects = match stage {
                    PauseStage::Pausing => vec![Effect::PauseDenied(reports::nothing_runs())],
                    PauseStage::Paused | PauseStage::Resuming => vec![],
                };
                match waiters {
                    0 => self.to(State::Stopped { last: Some(exit) }, effects),
                    waiters => self.boot(waiters, effects),
                }
            }
            (stage, _) => self.to(State::Paused { leases, waiters, stage }, vec![]),
        }
    }

    /// News of a guest that must be resumed before it can react to its power button.
    pub(super) fn news_stopping_paused(
        self,
        what: Leaving,
        kill_at: Instant,
        kills: u32,
        then: AfterStop,
        news: News,
    ) -> Step {
        let stopping = |what, ask_at, kill_at| State::Stopping { what, ask_at, kill_at, kills, then };
        match (what, news) {
            (Leaving::Pausing, News::Paused) => {
                self.to(stopping(Leaving::Resuming, None, kill_at), vec![Effect::Resume])
            }
            (Leaving::Pausing, News::PauseRefused(_)) | (Leaving::Resuming, News::Resumed) => {
                let ask_at = Some(self.after(ASK_AGAIN));
                self.to(stopping(Leaving::Guest, ask_at, kill_at), vec![Effect::RequestStop])
            }
            (_, News::Wedged(_)) => self.to(stopping(Leaving::Guest, None, self.kill_again_at()), vec![Effect::Kill]),
            (what, _) => self.to(stopping(what, None, kill_at), vec![]),
        }
    }

    fn run(self, leases: u32, waiters: u32, mut effects: Vec<Effect>) -> Step {
        let leases = leases.saturating_add(waiters);
        if waiters > 0 {
            effects.push(Effect::Grant(waiters));
        }
        let idle = self.idle(leases);
        self.to(State::Running { leases, idle }, effects)
    }

    /// The guest cannot be resumed: kills it, and boots another one if there are waiters.
    fn replace(self, waiters: u32, effects: Vec<Effect>) -> Step {
        let then = if waiters > 0 { AfterStop::Restart { waiters } } else { AfterStop::Rest };
        self.kill(Leaving::Guest, then, effects)
    }
}
