//! The lifecycle of one machine as a pure function: no I/O, no clock, no runtime. [`step`] is the whole policy.
//!
//! ```text
//!              Demand              Up               Ready            Pause
//!   Stopped ──────────▶ Starting ──────▶ Booting ─────────▶ Running ────────▶ Paused ⟲ Release, Reacquire
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
//! When the idle time is over, the guest is first asked for its builds, because a build may continue after its client has
//! disconnected. The guest is idle if it reports no build, or does not answer; otherwise it is asked again later. `GiveWay`
//! only shortens the idle time.
//!
//! [`pausing`](super::pausing) has the transitions of a paused guest.
//!
//! `NoRoom` leads from Starting back to Stopped: the guest was not tried.
//!
//! In Failed, and in a Stopping that leads to Failed, a demand is refused until the back-off is over, unless it insists.
//!
//! Invariant: a guest or a boot exists exactly while the state says so, and every request (a demand, a stop) is answered
//! exactly once. `model_check` proves it for every reachable state.

pub use super::state::{
    ANSWER_WITHIN, ASK_AGAIN, AfterStop, GIVE_WAY, Idle, LOOK_AGAIN, Leaving, Machine, Policy, STUCK_AFTER, State,
};
use super::{
    events::{Effect, Event, News},
    reports,
};
use dvn_hypervisor::Exit;
use dvn_types::Report;
use std::time::Duration;
use tokio::time::Instant;

/// The new machine, and the effects to perform.
pub(super) type Step = (Machine, Vec<Effect>);

/// Advances a machine by one event. Total: it handles every event in every state.
pub fn step(machine: Machine, event: Event, now: Instant, policy: &Policy) -> Step {
    let stepper = Stepper { boots: machine.boots, failures: machine.failures, now, policy };
    match event {
        Event::Demand { insist } => stepper.demand(machine.state, insist),
        Event::Release { epoch } if epoch == machine.boots => stepper.release(machine.state),
        Event::Stop { force } => stepper.stop(machine.state, force),
        Event::GiveWay => stepper.give_way(machine.state),
        Event::Pause => stepper.pause(machine.state),
        Event::News { epoch, news } if epoch == machine.boots => stepper.news(machine.state, news),
        Event::Reacquire { epoch } if epoch == machine.boots => stepper.reacquire(machine.state),
        Event::Release { .. } | Event::Reacquire { .. } | Event::News { .. } => (machine, vec![]),
        Event::Tick => stepper.tick(machine.state),
    }
}

/// When [`Event::Tick`] is due; `None` if the state has no deadline. A machine at rest has none.
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

/// The inputs of one step other than the state, which each method consumes.
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
            State::Paused { leases, waiters, stage } => self.demand_paused(leases, waiters, stage),
            State::Stopping { what, ask_at, kill_at, kills, then } => {
                let (then, effects) = match then {
                    AfterStop::Rest => (AfterStop::Restart { waiters: 1 }, vec![]),
                    AfterStop::Restart { waiters } => {
                        (AfterStop::Restart { waiters: waiters.saturating_add(1) }, vec![])
                    }
                    AfterStop::Fail(_) if insist || self.backoff().is_zero() => {
                        (AfterStop::Restart { waiters: 1 }, vec![])
                    }
                    AfterStop::Fail(cause) => {
                        let refusal = reports::refused(&cause, self.backoff());
                        (AfterStop::Fail(cause), vec![Effect::Deny(refusal)])
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
            State::Paused { leases, waiters, stage } => {
                self.to(State::Paused { leases: leases.saturating_sub(1), waiters, stage }, vec![])
            }
            // The guest is stopping or gone: its leases no longer count.
            state => self.to(state, vec![]),
        }
    }

    /// Shortens the idle time to [`GIVE_WAY`]. A guest whose policy has no idle time is kept. So is one that builds, because
    /// its builds are asked for first.
    fn give_way(self, state: State) -> Step {
        match state {
            State::Running { leases, idle: Some(Idle::Until { at }) } => {
                let at = at.min(self.after(GIVE_WAY));
                self.to(State::Running { leases, idle: Some(Idle::Until { at }) }, vec![])
            }
            state => self.to(state, vec![]),
        }
    }

    fn reacquire(self, state: State) -> Step {
        match state {
            State::Running { leases, .. } => {
                self.to(State::Running { leases: leases.saturating_add(1), idle: None }, vec![])
            }
            // Traffic on a connection that was open before the pause does not end the pause: otherwise a guest with an
            // open connection could not be paused.
            State::Paused { leases, waiters, stage } => {
                self.to(State::Paused { leases: leases.saturating_add(1), waiters, stage }, vec![])
            }
            state => self.to(state, vec![]),
        }
    }

    fn stop(self, state: State, force: bool) -> Step {
        match state {
            State::Stopped { .. } | State::Failed { .. } => self.to(state, vec![Effect::Rested]),
            State::Starting { .. } => {
                self.kill(Leaving::Boot, AfterStop::Rest, vec![Effect::Deny(reports::being_stopped())])
            }
            // A guest that is still booting does not react to its power button.
            State::Booting { .. } => {
                self.kill(Leaving::Guest, AfterStop::Rest, vec![Effect::Deny(reports::being_stopped())])
            }
            State::Running { .. } if force => self.kill(Leaving::Guest, AfterStop::Rest, vec![]),
            State::Running { .. } => self.power_off(),
            State::Paused { waiters, stage, .. } => self.stop_paused(waiters, stage, force),
            State::Stopping { mut what, mut ask_at, mut kill_at, kills, then } => {
                let (then, mut effects) = match then {
                    AfterStop::Restart { .. } => (AfterStop::Rest, vec![Effect::Deny(reports::being_stopped())]),
                    AfterStop::Rest | AfterStop::Fail(_) => (then, vec![]),
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
            // The boot completed before its cancellation took effect.
            (State::Stopping { what: Leaving::Boot, kills, then, .. }, News::Up) => {
                let kill_at = self.kill_again_at();
                let state = State::Stopping { what: Leaving::Guest, ask_at: None, kill_at, kills, then };
                self.to(state, vec![Effect::Kill])
            }
            (State::Starting { .. }, News::BootFailed(cause)) => self.fail(cause),
            // The guest is not at fault, so there is no back-off.
            (State::Starting { .. }, News::NoRoom(why)) => {
                self.to(State::Stopped { last: None }, vec![Effect::Deny(why)])
            }
            (State::Stopping { what: Leaving::Boot, then, .. }, News::BootFailed(_) | News::NoRoom(_)) => {
                self.settle(then, None)
            }
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
            (State::Booting { .. }, News::NotReady(cause)) => self.give_up(Leaving::Guest, cause),
            (State::Booting { .. }, News::Exited(exit)) => self.fail(reports::gone_early(&exit)),
            (State::Running { .. }, News::Exited(exit)) => self.to(State::Stopped { last: Some(exit) }, vec![]),
            (State::Paused { leases, waiters, stage }, news) => self.news_paused(leases, waiters, stage, news),
            (State::Stopping { what, then, .. }, News::Exited(exit)) if what != Leaving::Boot => {
                self.settle(then, Some(exit))
            }
            (State::Failed { retry_at, .. }, News::Explained(cause)) => {
                self.to(State::Failed { cause, retry_at }, vec![])
            }
            (State::Stopping { what, ask_at, kill_at, kills, then: AfterStop::Fail(_) }, News::Explained(cause)) => {
                self.to(State::Stopping { what, ask_at, kill_at, kills, then: AfterStop::Fail(cause) }, vec![])
            }
            (
                State::Stopping { what: what @ (Leaving::Pausing | Leaving::Resuming), kill_at, kills, then, .. },
                news,
            ) => self.news_stopping_paused(what, kill_at, kills, then, news),
            // Late news changes nothing, for example the readiness of a guest that is being stopped.
            (state, _) => self.to(state, vec![]),
        }
    }

    fn tick(self, state: State) -> Step {
        match state {
            State::Starting { deadline, .. } if self.now >= deadline => {
                self.give_up(Leaving::Boot, reports::not_started(self.policy.boot_timeout))
            }
            State::Booting { deadline, .. } if self.now >= deadline => {
                self.give_up(Leaving::Guest, reports::not_ready(self.policy.boot_timeout))
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
                    AfterStop::Restart { .. } => {
                        effects.push(Effect::Deny(reports::stuck(what)));
                        AfterStop::Rest
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
            return self.kill(Leaving::Guest, AfterStop::Rest, vec![]);
        }
        let state = State::Stopping {
            what: Leaving::Guest,
            ask_at: Some(self.after(ASK_AGAIN)),
            kill_at: self.after(self.policy.grace),
            kills: 0,
            then: AfterStop::Rest,
        };
        self.to(state, vec![Effect::RequestStop])
    }

    pub(super) fn kill(self, what: Leaving, then: AfterStop, mut effects: Vec<Effect>) -> Step {
        effects.push(Effect::Kill);
        let kill_at = self.kill_again_at();
        self.to(State::Stopping { what, ask_at: None, kill_at, kills: 0, then }, effects)
    }

    /// The boot failed, and its guest or its job still exists.
    fn give_up(self, what: Leaving, cause: Report) -> Step {
        Stepper { failures: self.failures.saturating_add(1), ..self }.kill(
            what,
            AfterStop::Fail(cause.clone()),
            vec![Effect::DenyExplained(cause)],
        )
    }

    /// The boot failed, and neither a guest nor a job of it exists.
    fn fail(self, cause: Report) -> Step {
        let failed = Stepper { failures: self.failures.saturating_add(1), ..self };
        let retry_at = failed.after(failed.backoff());
        failed.to(State::Failed { cause: cause.clone(), retry_at }, vec![Effect::DenyExplained(cause)])
    }

    /// The guest or boot that was being stopped is gone.
    fn settle(self, then: AfterStop, last: Option<Exit>) -> Step {
        match then {
            AfterStop::Rest => self.to(State::Stopped { last }, vec![Effect::Rested]),
            AfterStop::Restart { waiters } => self.boot(waiters, vec![Effect::Rested]),
            AfterStop::Fail(cause) => {
                let retry_at = self.after(self.backoff());
                self.to(State::Failed { cause, retry_at }, vec![Effect::Rested])
            }
        }
    }

    pub(super) fn idle(&self, leases: u32) -> Option<Idle> {
        self.policy.idle.filter(|_| leases == 0).map(|idle| Idle::Until { at: self.after(idle) })
    }

    /// At least a second from now: a policy without grace must not kill in a busy loop.
    pub(super) fn kill_again_at(&self) -> Instant {
        self.after(self.policy.grace.max(Duration::from_secs(1)))
    }

    fn backoff(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            n => self.policy.backoff.saturating_mul(2u32.saturating_pow(n - 2)).min(self.policy.backoff_max),
        }
    }

    /// A time that cannot be represented becomes thirty years from now.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        let far = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        self.now.checked_add(wait).unwrap_or_else(|| self.now + far)
    }
}

/// What a Stopping machine waits for after a kill.
fn killed(what: Leaving) -> Leaving {
    match what {
        Leaving::Boot => Leaving::Boot,
        Leaving::Pausing | Leaving::Resuming | Leaving::Guest => Leaving::Guest,
    }
}
