//! The lifecycle of one machine as a pure function: no I/O, no clock, no runtime. [`step`] is the whole policy.
//!
//! ```text
//!              Demand              Up               Ready            Pause
//!   Stopped ──────────▶ Starting ──────▶ Booting ─────────▶ Running ────────▶ Paused ⟲ Release, Retake
//!      ▲                 ▲    │            │                 │  ▲  ⟲ as well      │
//!      │          Demand │    │ BootFailed │ Exited          │  └────────────────┘ Demand, PauseRefused
//!      │                 │    │            │                 └── Exited ──▶ Stopped
//!      │                 │    ▼            │
//!      │                Failed ◀───────────┘
//!      │                   ▲
//!      │ Rest              │ Fail
//!      └──────────────── Stopping ◀────── Starting, Booting: Stop, too late, NotReady (kill)
//!                          │       ◀────── Running: Stop, idle (power button, grace, kill)
//!                          └─ Restart ──▶ Starting
//! ```
//!
//! A guest whose idle time is over is first asked for its builds, for a build may go on after its client has left. It is
//! idle when it has none, or does not answer; otherwise it is asked again later. `GiveWay` brings that time forward, and nothing else.
//!
//! A paused guest has a page of its own: [`pausing`](super::pausing).
//!
//! Where a demand meets Failed or a failure in Stopping, it is refused until the back-off is over, unless it insists.
//!
//! The rule that holds here: a guest or a boot exists outside exactly while the state says so, and whatever was asked
//! (a demand, a stop) is answered exactly once. `model_check` proves it for every reachable state.

pub use super::state::{
    ANSWER_WITHIN, ASK_AGAIN, GIVE_WAY, Going, Idle, LOOK_AGAIN, Machine, Policy, STUCK_AFTER, State, Then,
};
use super::{
    events::{Effect, Event, News},
    reports,
};
use dvn_hypervisor::Exit;
use dvn_types::Report;
use std::time::Duration;
use tokio::time::Instant;

/// The machine as it is now, and what is to be done.
pub(super) type Step = (Machine, Vec<Effect>);

/// Advances a machine. Total: every state has an answer to every event.
pub fn step(machine: Machine, event: Event, now: Instant, policy: &Policy) -> Step {
    let stepper = Stepper { boots: machine.boots, failures: machine.failures, now, policy };
    match event {
        Event::Demand { insist } => stepper.demand(machine.state, insist),
        Event::Release { epoch } if epoch == machine.boots => stepper.release(machine.state),
        Event::Stop { force } => stepper.stop(machine.state, force),
        Event::GiveWay => stepper.give_way(machine.state),
        Event::Pause => stepper.pause(machine.state),
        Event::News { epoch, news } if epoch == machine.boots => stepper.news(machine.state, news),
        Event::Retake { epoch } if epoch == machine.boots => stepper.retake(machine.state),
        Event::Release { .. } | Event::Retake { .. } | Event::News { .. } => (machine, vec![]),
        Event::Tick => stepper.tick(machine.state),
    }
}

/// When [`Event::Tick`] is due, if ever. A machine at rest needs no waking.
pub fn deadline(state: &State) -> Option<Instant> {
    match state {
        State::Stopped { .. } | State::Failed { .. } | State::Paused { .. } => None,
        State::Starting { deadline, .. } | State::Booting { deadline, .. } => Some(*deadline),
        State::Running { idle, .. } => idle.map(|idle| match idle {
            Idle::Until { at } => at,
            Idle::Asked { until } => until,
        }),
        State::Stopping { ask_at, kill_at, .. } => Some(ask_at.map_or(*kill_at, |ask| ask.min(*kill_at))),
    }
}

/// What one step knows beside the state, which each of its methods consumes.
#[derive(Clone, Copy)]
pub(super) struct Stepper<'a> {
    boots: u64,
    failures: u32,
    now: Instant,
    pub(super) policy: &'a Policy,
}

impl Stepper<'_> {
    fn demand(self, state: State, insist: bool) -> Step {
        match state {
            State::Stopped { .. } => self.boot(1, vec![]),
            State::Failed { retry_at, .. } if insist || self.now >= retry_at => self.boot(1, vec![]),
            State::Failed { cause, retry_at } => {
                let refusal = reports::refused(&cause, retry_at - self.now);
                self.to(State::Failed { cause, retry_at }, vec![Effect::Deny(refusal)])
            }
            State::Starting { waiters, deadline } => {
                self.to(State::Starting { waiters: waiters.saturating_add(1), deadline }, vec![])
            }
            State::Booting { waiters, deadline } => {
                self.to(State::Booting { waiters: waiters.saturating_add(1), deadline }, vec![])
            }
            State::Running { leases, .. } => {
                self.to(State::Running { leases: leases.saturating_add(1), idle: None }, vec![Effect::Grant(1)])
            }
            State::Paused { leases, waiters, halt } => self.demand_paused(leases, waiters, halt),
            State::Stopping { what, ask_at, kill_at, kills, then } => {
                let (then, effects) = match then {
                    Then::Rest => (Then::Restart { waiters: 1 }, vec![]),
                    Then::Restart { waiters } => (Then::Restart { waiters: waiters.saturating_add(1) }, vec![]),
                    Then::Fail(_) if insist || self.backoff().is_zero() => (Then::Restart { waiters: 1 }, vec![]),
                    Then::Fail(cause) => {
                        let refusal = reports::refused(&cause, self.backoff());
                        (Then::Fail(cause), vec![Effect::Deny(refusal)])
                    }
                };
                self.to(State::Stopping { what, ask_at, kill_at, kills, then }, effects)
            }
        }
    }

    fn release(self, state: State) -> Step {
        match state {
            State::Running { leases, .. } => {
                let leases = leases.saturating_sub(1);
                let idle = self.idle(leases);
                self.to(State::Running { leases, idle }, vec![])
            }
            State::Paused { leases, waiters, halt } => {
                self.to(State::Paused { leases: leases.saturating_sub(1), waiters, halt }, vec![])
            }
            // The guest is on its way out or gone, whoever still held it.
            state => self.to(state, vec![]),
        }
    }

    /// Its idle time is over soon. A guest that is never idle by its policy is kept; one that builds is kept, too, because its builds
    /// are asked for first.
    fn give_way(self, state: State) -> Step {
        match state {
            State::Running { leases, idle: Some(Idle::Until { at }) } => {
                let at = at.min(self.after(GIVE_WAY));
                self.to(State::Running { leases, idle: Some(Idle::Until { at }) }, vec![])
            }
            state => self.to(state, vec![]),
        }
    }

    fn retake(self, state: State) -> Step {
        match state {
            State::Running { leases, .. } => {
                self.to(State::Running { leases: leases.saturating_add(1), idle: None }, vec![])
            }
            // A connection that was open before the pause does not end it: nobody could pause a guest with one.
            State::Paused { leases, waiters, halt } => {
                self.to(State::Paused { leases: leases.saturating_add(1), waiters, halt }, vec![])
            }
            state => self.to(state, vec![]),
        }
    }

    fn stop(self, state: State, force: bool) -> Step {
        match state {
            State::Stopped { .. } | State::Failed { .. } => self.to(state, vec![Effect::Rested]),
            State::Starting { .. } => self.kill(Going::Boot, Then::Rest, vec![Effect::Deny(reports::being_stopped())]),
            // A guest that is half up hears no power button.
            State::Booting { .. } => self.kill(Going::Guest, Then::Rest, vec![Effect::Deny(reports::being_stopped())]),
            State::Running { .. } if force => self.kill(Going::Guest, Then::Rest, vec![]),
            State::Running { .. } => self.power_off(),
            State::Paused { waiters, halt, .. } => self.stop_paused(waiters, halt, force),
            State::Stopping { mut what, mut ask_at, mut kill_at, kills, then } => {
                let (then, mut effects) = match then {
                    Then::Restart { .. } => (Then::Rest, vec![Effect::Deny(reports::being_stopped())]),
                    Then::Rest | Then::Fail(_) => (then, vec![]),
                };
                if force {
                    effects.push(Effect::Kill);
                    (what, ask_at, kill_at) = (killed(what), None, self.kill_again_at());
                }
                self.to(State::Stopping { what, ask_at, kill_at, kills, then }, effects)
            }
        }
    }

    fn news(self, state: State, news: News) -> Step {
        match (state, news) {
            (State::Starting { waiters, deadline }, News::Up) => {
                self.to(State::Booting { waiters, deadline }, vec![Effect::AwaitReady])
            }
            // The boot was faster than its cancellation.
            (State::Stopping { what: Going::Boot, kills, then, .. }, News::Up) => {
                let kill_at = self.kill_again_at();
                let state = State::Stopping { what: Going::Guest, ask_at: None, kill_at, kills, then };
                self.to(state, vec![Effect::Kill])
            }
            (State::Starting { .. }, News::BootFailed(cause)) => self.fail(cause),
            (State::Stopping { what: Going::Boot, then, .. }, News::BootFailed(_)) => self.settle(then, None),
            (State::Booting { waiters, .. }, News::Ready) => {
                let idle = self.idle(waiters);
                Stepper { failures: 0, ..self }
                    .to(State::Running { leases: waiters, idle }, vec![Effect::Grant(waiters)])
            }
            (State::Running { idle: Some(Idle::Asked { .. }), .. }, News::Builds(0)) => self.power_off(),
            (State::Running { leases, idle: Some(Idle::Asked { .. }) }, News::Builds(_)) => {
                let pause = self.policy.idle.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN).max(ASK_AGAIN);
                self.to(State::Running { leases, idle: Some(Idle::Until { at: self.after(pause) }) }, vec![])
            }
            (State::Booting { .. }, News::NotReady(cause)) => self.give_up(Going::Guest, cause),
            (State::Booting { .. }, News::Exited(exit)) => self.fail(reports::gone_early(&exit)),
            (State::Running { .. }, News::Exited(exit)) => self.to(State::Stopped { last: Some(exit) }, vec![]),
            (State::Paused { leases, waiters, halt }, news) => self.news_paused(leases, waiters, halt, news),
            (State::Stopping { what, then, .. }, News::Exited(exit)) if what != Going::Boot => {
                self.settle(then, Some(exit))
            }
            (State::Failed { retry_at, .. }, News::Explained(cause)) => {
                self.to(State::Failed { cause, retry_at }, vec![])
            }
            (State::Stopping { what, ask_at, kill_at, kills, then: Then::Fail(_) }, News::Explained(cause)) => {
                self.to(State::Stopping { what, ask_at, kill_at, kills, then: Then::Fail(cause) }, vec![])
            }
            (State::Stopping { what: what @ (Going::Pausing | Going::Resuming), kill_at, kills, then, .. }, news) => {
                self.news_stopping_paused(what, kill_at, kills, then, news)
            }
            // News that came too late to matter: a guest that got ready while it is being stopped, and the like.
            (state, _) => self.to(state, vec![]),
        }
    }

    fn tick(self, state: State) -> Step {
        match state {
            State::Starting { deadline, .. } if self.now >= deadline => {
                self.give_up(Going::Boot, reports::not_started(self.policy.boot_timeout))
            }
            State::Booting { deadline, .. } if self.now >= deadline => {
                self.give_up(Going::Guest, reports::not_ready(self.policy.boot_timeout))
            }
            State::Running { leases, idle: Some(Idle::Until { at }) } if self.now >= at => {
                let idle = Idle::Asked { until: self.after(ANSWER_WITHIN) };
                self.to(State::Running { leases, idle: Some(idle) }, vec![Effect::AskBuilds])
            }
            State::Running { idle: Some(Idle::Asked { until }), .. } if self.now >= until => self.power_off(),
            State::Stopping { what, kill_at, kills, then, .. } if self.now >= kill_at => {
                let kills = kills.saturating_add(1).min(STUCK_AFTER);
                let mut effects = vec![Effect::Kill];
                let then = match then {
                    then if kills < STUCK_AFTER => then,
                    Then::Restart { .. } => {
                        effects.push(Effect::Deny(reports::stuck(what)));
                        Then::Rest
                    }
                    then => then,
                };
                if kills == STUCK_AFTER {
                    effects.push(Effect::Stuck(reports::stuck(what)));
                }
                let (what, kill_at) = (killed(what), self.kill_again_at());
                self.to(State::Stopping { what, ask_at: None, kill_at, kills, then }, effects)
            }
            State::Stopping { what, ask_at: Some(at), kill_at, kills, then } if self.now >= at => {
                let ask_at = Some(self.after(ASK_AGAIN));
                self.to(State::Stopping { what, ask_at, kill_at, kills, then }, vec![Effect::RequestStop])
            }
            state => self.to(state, vec![]),
        }
    }

    pub(super) fn to(self, state: State, effects: Vec<Effect>) -> Step {
        (Machine { boots: self.boots, failures: self.failures, state }, effects)
    }

    pub(super) fn boot(self, waiters: u32, mut effects: Vec<Effect>) -> Step {
        effects.push(Effect::Boot);
        let deadline = self.after(self.policy.boot_timeout);
        Stepper { boots: self.boots.saturating_add(1), ..self }.to(State::Starting { waiters, deadline }, effects)
    }

    pub(super) fn power_off(self) -> Step {
        if self.policy.grace.is_zero() {
            return self.kill(Going::Guest, Then::Rest, vec![]);
        }
        let state = State::Stopping {
            what: Going::Guest,
            ask_at: Some(self.after(ASK_AGAIN)),
            kill_at: self.after(self.policy.grace),
            kills: 0,
            then: Then::Rest,
        };
        self.to(state, vec![Effect::RequestStop])
    }

    pub(super) fn kill(self, what: Going, then: Then, mut effects: Vec<Effect>) -> Step {
        effects.push(Effect::Kill);
        let kill_at = self.kill_again_at();
        self.to(State::Stopping { what, ask_at: None, kill_at, kills: 0, then }, effects)
    }

    /// The boot failed, but something of it is still there.
    fn give_up(self, what: Going, cause: Report) -> Step {
        Stepper { failures: self.failures.saturating_add(1), ..self }.kill(
            what,
            Then::Fail(cause.clone()),
            vec![Effect::DenyExplained(cause)],
        )
    }

    /// The boot failed, and nothing of it is left.
    fn fail(self, cause: Report) -> Step {
        let failed = Stepper { failures: self.failures.saturating_add(1), ..self };
        let retry_at = failed.after(failed.backoff());
        failed.to(State::Failed { cause: cause.clone(), retry_at }, vec![Effect::DenyExplained(cause)])
    }

    /// What was on its way out is gone.
    fn settle(self, then: Then, last: Option<Exit>) -> Step {
        match then {
            Then::Rest => self.to(State::Stopped { last }, vec![Effect::Rested]),
            Then::Restart { waiters } => self.boot(waiters, vec![Effect::Rested]),
            Then::Fail(cause) => {
                let retry_at = self.after(self.backoff());
                self.to(State::Failed { cause, retry_at }, vec![Effect::Rested])
            }
        }
    }

    pub(super) fn idle(&self, leases: u32) -> Option<Idle> {
        self.policy.idle.filter(|_| leases == 0).map(|idle| Idle::Until { at: self.after(idle) })
    }

    /// Never now, or a policy without grace would kill in a busy loop.
    pub(super) fn kill_again_at(&self) -> Instant {
        self.after(self.policy.grace.max(Duration::from_secs(1)))
    }

    fn backoff(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            n => self.policy.backoff.saturating_mul(2u32.saturating_pow(n - 2)).min(self.policy.backoff_max),
        }
    }

    /// A time too far off to be represented is as good as thirty years.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        let far = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        self.now.checked_add(wait).unwrap_or_else(|| self.now + far)
    }
}

/// What is left to wait for after a kill.
fn killed(what: Going) -> Going {
    match what {
        Going::Boot => Going::Boot,
        Going::Pausing | Going::Resuming | Going::Guest => Going::Guest,
    }
}
