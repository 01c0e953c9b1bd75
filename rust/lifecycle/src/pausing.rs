//! The part of [`machine::step`](super::machine) about a guest that stands still.
//!
//! ```text
//!            Pause                Paused              Demand                 Resumed
//!   Running ───────▶ {Pausing} ──────────▶ {Still} ──────────▶ {Resuming} ──────────▶ Running
//!      ▲                │  │                  │ Stop               │ │                    (leases kept, idle begins anew)
//!      └─ PauseRefused ─┘  └── Stop ──▶ Stopping{Pausing, Resuming} ◀┘ Stop ── then the power button, as ever
//! ```
//!
//! The rule that holds here: the hypervisor is never told to pause or to resume before it has answered what it was told
//! before; and time does not count, so nobody is stopped as idle while he stands still. A guest that does not go on any more is
//! of no use to anybody: it is killed, and those who wait get another one.

use super::{
    events::{Effect, News},
    machine::{ASK_AGAIN, Step, Stepper},
    reports,
    state::{Going, Halt, State, Then},
};
use tokio::time::Instant;

impl Stepper<'_> {
    pub(super) fn pause(self, state: State) -> Step {
        match state {
            State::Running { leases, .. } => {
                self.to(State::Paused { leases, waiters: 0, halt: Halt::Pausing }, vec![Effect::Pause])
            }
            State::Paused { halt: Halt::Pausing, .. } => self.to(state, vec![]),
            State::Paused { halt: Halt::Still, .. } => self.to(state, vec![Effect::PauseDone]),
            State::Paused { halt: Halt::Resuming, .. } => {
                self.to(state, vec![Effect::PauseDenied(reports::being_resumed())])
            }
            state => self.to(state, vec![Effect::PauseDenied(reports::nothing_runs())]),
        }
    }

    pub(super) fn demand_paused(self, leases: u32, waiters: u32, halt: Halt) -> Step {
        let (halt, effects) = match halt {
            Halt::Still => (Halt::Resuming, vec![Effect::Resume]),
            halt => (halt, vec![]),
        };
        self.to(State::Paused { leases, waiters: waiters.saturating_add(1), halt }, effects)
    }

    pub(super) fn stop_paused(self, waiters: u32, halt: Halt, force: bool) -> Step {
        let mut effects = vec![];
        if halt == Halt::Pausing {
            effects.push(Effect::PauseDenied(reports::being_stopped()));
        }
        if waiters > 0 {
            effects.push(Effect::Deny(reports::being_stopped()));
        }
        if force || self.policy.grace.is_zero() {
            return self.kill(Going::Guest, Then::Rest, effects);
        }
        let what = match halt {
            Halt::Pausing => Going::Pausing,
            Halt::Still => {
                effects.push(Effect::Resume);
                Going::Resuming
            }
            Halt::Resuming => Going::Resuming,
        };
        let kill_at = self.after(self.policy.grace);
        self.to(State::Stopping { what, ask_at: None, kill_at, kills: 0, then: Then::Rest }, effects)
    }

    pub(super) fn news_paused(self, leases: u32, waiters: u32, halt: Halt, news: News) -> Step {
        match (halt, news) {
            (Halt::Pausing, News::Paused) if waiters == 0 => {
                self.to(State::Paused { leases, waiters, halt: Halt::Still }, vec![Effect::PauseDone])
            }
            (Halt::Pausing, News::Paused) => {
                let effects = vec![Effect::PauseDone, Effect::Resume];
                self.to(State::Paused { leases, waiters, halt: Halt::Resuming }, effects)
            }
            (Halt::Pausing, News::PauseRefused(why)) => self.go_on(leases, waiters, vec![Effect::PauseDenied(why)]),
            (Halt::Resuming, News::Resumed) => self.go_on(leases, waiters, vec![]),
            (Halt::Pausing, News::Wedged(why)) => self.replace(waiters, vec![Effect::PauseDenied(why)]),
            (Halt::Resuming, News::Wedged(_)) => self.replace(waiters, vec![]),
            (halt, News::Exited(exit)) => {
                let effects = match halt {
                    Halt::Pausing => vec![Effect::PauseDenied(reports::nothing_runs())],
                    Halt::Still | Halt::Resuming => vec![],
                };
                match waiters {
                    0 => self.to(State::Stopped { last: Some(exit) }, effects),
                    waiters => self.boot(waiters, effects),
                }
            }
            (halt, _) => self.to(State::Paused { leases, waiters, halt }, vec![]),
        }
    }

    /// News of a guest that must go on before it can hear its power button.
    pub(super) fn news_stopping_paused(
        self,
        what: Going,
        kill_at: Instant,
        kills: u32,
        then: Then,
        news: News,
    ) -> Step {
        let stopping = |what, ask_at, kill_at| State::Stopping { what, ask_at, kill_at, kills, then };
        match (what, news) {
            (Going::Pausing, News::Paused) => self.to(stopping(Going::Resuming, None, kill_at), vec![Effect::Resume]),
            (Going::Pausing, News::PauseRefused(_)) | (Going::Resuming, News::Resumed) => {
                let ask_at = Some(self.after(ASK_AGAIN));
                self.to(stopping(Going::Guest, ask_at, kill_at), vec![Effect::RequestStop])
            }
            (_, News::Wedged(_)) => self.to(stopping(Going::Guest, None, self.kill_again_at()), vec![Effect::Kill]),
            (what, _) => self.to(stopping(what, None, kill_at), vec![]),
        }
    }

    fn go_on(self, leases: u32, waiters: u32, mut effects: Vec<Effect>) -> Step {
        let leases = leases.saturating_add(waiters);
        if waiters > 0 {
            effects.push(Effect::Grant(waiters));
        }
        let idle = self.idle(leases);
        self.to(State::Running { leases, idle }, effects)
    }

    /// The guest does not go on: away with it, and another one for those who wait.
    fn replace(self, waiters: u32, effects: Vec<Effect>) -> Step {
        let then = if waiters > 0 { Then::Restart { waiters } } else { Then::Rest };
        self.kill(Going::Guest, then, effects)
    }
}
