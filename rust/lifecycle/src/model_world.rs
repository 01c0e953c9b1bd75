//! The world of the model check: the facts outside of a machine, derived only from its effects, and the properties that every
//! step must have.

use super::{
    events::{Effect, Event, News},
    machine::deadline,
    state::{AfterStop, Idle, Leaving, Machine, PauseStage, Policy, State},
};
use dvn_hypervisor::Exit;
use dvn_types::{Kind, Report};
use std::time::Duration;
use tokio::time::Instant;

/// The function under check: [`step`](super::machine::step), or a version with a fault.
pub(super) type Stepping = fn(Machine, Event, Instant, &Policy) -> (Machine, Vec<Effect>);

/// How many demands, stops and pauses may be open, and leases held, at once: more would show nothing new.
const MOST: u32 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    pub(super) booting: bool,
    pub(super) alive: bool,
    pub(super) awaiting: bool,
    explaining: bool,
    /// The guest was asked for its builds.
    asked: bool,
    pub(super) execution: Execution,
    pub(super) pausers: u32,
    pub(super) waiters: u32,
    pub(super) stoppers: u32,
    /// Leases of the present epoch, and whether there are leases of earlier epochs.
    leases: u32,
    stale: bool,
}

/// Whether the hypervisor runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Execution {
    #[default]
    Runs,
    /// A pause is under way.
    Pausing,
    Paused,
    /// A resumption is under way.
    Resuming,
    /// It is unknown.
    Lost,
}

/// One reachable situation.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) machine: Machine,
    pub(super) world: World,
    pub(super) now: Instant,
}

impl Pair {
    /// Equal for situations that behave alike: times count from now, epochs do not count.
    pub(super) fn key(&self) -> String {
        let away = |t: Instant| t.saturating_duration_since(self.now).as_millis();
        let state = match &self.machine.state {
            State::Stopped { last } => format!("Stopped {last:?}"),
            State::Starting { waiters, deadline } => format!("Starting {waiters} {}", away(*deadline)),
            State::Booting { waiters, deadline } => format!("Booting {waiters} {}", away(*deadline)),
            State::Running { leases, idle: None } => format!("Running {leases}"),
            State::Running { idle: Some(Idle::Until { at }), .. } => format!("Idle {}", away(*at)),
            State::Running { idle: Some(Idle::Asked { until }), .. } => format!("Asked {}", away(*until)),
            State::Paused { leases, waiters, stage } => format!("Paused {leases} {waiters} {stage:?}"),
            State::Stopping { what, ask_at, kill_at, kills, then } => {
                format!("Stopping {what:?} {:?} {} {kills} {then:?}", ask_at.map(away), away(*kill_at))
            }
            State::Failed { cause, retry_at } => format!("Failed {cause:?} {}", away(*retry_at)),
        };
        // Four failures reach the longest back-off.
        format!("{state} {} {} {:?}", self.machine.failures.min(4), self.machine.boots.min(1), self.world)
    }

    /// Every event that this world allows now, and when.
    pub(super) fn choices(&self) -> Vec<(Event, Instant)> {
        let Pair { machine, world, now } = self;
        let epoch = machine.boots;
        let news = |news| Event::News { epoch, news };
        let mut at_once = vec![];
        if world.stoppers < MOST {
            at_once.extend([Event::Stop { force: false }, Event::Stop { force: true }]);
        }
        if world.waiters < MOST && world.leases < MOST {
            at_once.extend([Event::Demand { insist: false }, Event::Demand { insist: true }]);
        }
        if world.leases > 0 {
            at_once.push(Event::Release { epoch });
        }
        if world.pausers < MOST {
            at_once.push(Event::Pause);
        }
        at_once.push(Event::GiveWay);
        match world.execution {
            Execution::Pausing => {
                at_once.extend(
                    [News::Paused, News::PauseRefused(report("no pause")), News::Wedged(report("wedged"))].map(news),
                );
            }
            Execution::Resuming => at_once.extend([News::Resumed, News::Wedged(report("wedged"))].map(news)),
            Execution::Runs | Execution::Paused | Execution::Lost => {}
        }
        // A lease that was released may be acquired again.
        if has_leases(&machine.state) && world.leases < MOST {
            at_once.push(Event::Reacquire { epoch });
        }
        if world.asked {
            at_once.extend([news(News::Builds(0)), news(News::Builds(1))]);
        }
        if world.stale {
            at_once.push(Event::Release { epoch: epoch - 1 });
        }
        if world.booting {
            let failures = [News::BootFailed(report("no boot")), News::NoRoom(report("no room"))];
            at_once.extend([News::Up].into_iter().chain(failures).map(news));
        }
        if world.awaiting {
            at_once.extend([news(News::Ready), news(News::NotReady(report("not ready")))]);
        }
        if world.alive {
            at_once.extend([news(News::Exited(Exit::PoweredOff)), news(News::Exited(Exit::Crashed("oops".into())))]);
        }
        if world.explaining {
            at_once.push(news(News::Explained(report("explained"))));
        }
        let mut choices: Vec<_> = at_once.into_iter().map(|event| (event, *now)).collect();
        if let Some(due) = deadline(&machine.state) {
            // On time, and an hour late, as after a host's sleep.
            choices.extend([(Event::Tick, due), (Event::Tick, due + Duration::from_secs(3600))]);
        }
        if let State::Failed { retry_at, .. } = machine.state {
            choices.push((Event::Demand { insist: false }, retry_at));
        }
        choices
    }

    /// Takes one event and checks everything that must hold of one step.
    pub(super) fn take(
        &self,
        step: Stepping,
        event: &Event,
        now: Instant,
        policy: &Policy,
    ) -> Result<(Pair, Vec<Effect>), String> {
        let (machine, effects) = step(self.machine.clone(), event.clone(), now, policy);
        let mut world = self.world.clone();
        let apply = |world: &mut World, news: &News| match news {
            News::Up => (world.booting, world.alive) = (false, true),
            News::BootFailed(_) | News::NoRoom(_) => world.booting = false,
            News::Ready | News::NotReady(_) => world.awaiting = false,
            News::Builds(_) => world.asked = false,
            News::Paused => world.execution = Execution::Paused,
            News::PauseRefused(_) | News::Resumed => world.execution = Execution::Runs,
            News::Wedged(_) => world.execution = Execution::Lost,
            News::Exited(_) => {
                (world.alive, world.awaiting, world.asked) = (false, false, false);
                world.execution = Execution::Runs;
            }
            News::Explained(_) => world.explaining = false,
        };
        match event {
            Event::Demand { .. } => world.waiters += 1,
            Event::Stop { .. } => world.stoppers += 1,
            Event::Release { epoch } if *epoch == self.machine.boots => world.leases -= 1,
            Event::Release { .. } => world.stale = false,
            Event::Reacquire { .. } if has_leases(&self.machine.state) => world.leases += 1,
            Event::Reacquire { .. } => {}
            Event::Pause => world.pausers += 1,
            Event::News { epoch, news } if *epoch == self.machine.boots => apply(&mut world, news),
            Event::News { .. } | Event::Tick | Event::GiveWay => {}
        }
        for effect in &effects {
            match effect {
                Effect::Boot => {
                    ensure(!world.booting && !world.alive, "two guests at once")?;
                    ensure(machine.boots == self.machine.boots + 1, "a boot without an epoch of its own")?;
                    (world.booting, world.explaining) = (true, false);
                    (world.stale, world.leases) = (world.stale || world.leases > 0, 0);
                }
                Effect::AwaitReady => {
                    ensure(world.alive && !world.awaiting, "nothing to wait for")?;
                    world.awaiting = true;
                }
                Effect::AskBuilds => {
                    ensure(world.alive && world.execution == Execution::Runs, "no guest to ask")?;
                    world.asked = true;
                }
                Effect::RequestStop => {
                    ensure(
                        world.alive && world.execution == Execution::Runs,
                        "power button of no guest, or of one that is deaf",
                    )?;
                }
                Effect::Pause => {
                    ensure(world.alive && world.execution == Execution::Runs, "a pause of what does not run")?;
                    world.execution = Execution::Pausing;
                }
                Effect::Resume => {
                    let paused = world.alive && world.execution == Execution::Paused;
                    ensure(paused, "a guest that is not paused is resumed")?;
                    world.execution = Execution::Resuming;
                }
                Effect::PauseDone => {
                    let still = matches!(world.execution, Execution::Paused);
                    ensure(still && world.pausers > 0, "a pause is confirmed that is none, or that was not requested")?;
                    world.pausers = 0;
                }
                Effect::PauseDenied(_) => {
                    ensure(world.pausers > 0, "no pause to deny")?;
                    world.pausers = 0;
                }
                Effect::Kill => ensure(world.alive || world.booting, "kill without a guest")?,
                Effect::Grant(n) => {
                    ensure(world.alive && *n == world.waiters, "a lease without a guest, or not for all waiters")?;
                    ensure(world.execution == Execution::Runs, "a lease of a paused guest")?;
                    (world.leases, world.waiters) = (world.leases + n, 0);
                }
                Effect::Deny(_) | Effect::DenyExplained(_) => {
                    ensure(world.waiters > 0, "no waiter to deny")?;
                    world.waiters = 0;
                    world.explaining |= matches!(effect, Effect::DenyExplained(_));
                }
                Effect::Rested => {
                    ensure(!world.booting && !world.alive, "a stop is answered while there is a guest")?;
                    world.stoppers = 0;
                }
                Effect::Stuck(_) => world.stoppers = 0,
            }
        }
        let next = Pair { machine, world, now };
        next.check(policy)?;
        let still = matches!(self.machine.state, State::Paused { stage: PauseStage::Paused, .. });
        let wanted =
            matches!(event, Event::Stop { .. } | Event::Demand { .. } | Event::News { news: News::Exited(_), .. });
        let stays = matches!(next.machine.state, State::Paused { stage: PauseStage::Paused, .. });
        ensure(!still || stays || wanted, "a paused guest is resumed or stopped without a reason")?;
        let stops =
            matches!((&self.machine.state, &next.machine.state), (State::Running { .. }, State::Stopping { .. }));
        match event {
            Event::News { news: News::Builds(builds), .. } => {
                ensure(!stops || *builds == 0, "a guest is stopped while it builds")?;
            }
            Event::Tick => ensure(!stops || self.world.asked, "a guest is stopped without being asked for its builds")?,
            _ => {}
        }
        if *event == Event::Tick && deadline(&next.machine.state).is_some_and(|due| due <= now) {
            return Err("a tick left its deadline in the past".into());
        }
        Ok((next, effects))
    }

    /// The properties of every reachable pair.
    fn check(&self, policy: &Policy) -> Result<(), String> {
        let Pair { machine, world, .. } = self;
        let (booting, alive) = match &machine.state {
            State::Stopped { .. } | State::Failed { .. } => (false, false),
            State::Starting { .. } | State::Stopping { what: Leaving::Boot, .. } => (true, false),
            State::Booting { .. } | State::Running { .. } | State::Paused { .. } | State::Stopping { .. } => {
                (false, true)
            }
        };
        ensure(world.alive == alive, if world.alive { "leaked guest" } else { "a guest that is none" })?;
        ensure(world.booting == booting, if world.booting { "leaked boot" } else { "a boot that is none" })?;
        let (waiters, may_be_none) = match &machine.state {
            State::Starting { waiters, .. } | State::Booting { waiters, .. } => (*waiters, false),
            State::Stopping { then: AfterStop::Restart { waiters }, .. } => (*waiters, false),
            State::Paused { waiters, stage, .. } => (*waiters, *stage != PauseStage::Paused || *waiters == 0),
            _ => (0, true),
        };
        ensure(world.waiters == waiters, "a waiter is forgotten or answered twice")?;
        ensure(may_be_none || waiters > 0, "a boot without a waiter")?;
        let stopping = matches!(machine.state, State::Stopping { .. });
        ensure(world.stoppers == 0 || stopping, "a stop is forgotten")?;
        let execution = match &machine.state {
            State::Paused { stage: PauseStage::Pausing, .. } | State::Stopping { what: Leaving::Pausing, .. } => {
                Some(Execution::Pausing)
            }
            State::Paused { stage: PauseStage::Paused, .. } => Some(Execution::Paused),
            State::Paused { stage: PauseStage::Resuming, .. } | State::Stopping { what: Leaving::Resuming, .. } => {
                Some(Execution::Resuming)
            }
            // It is being killed, whatever state it is in.
            State::Stopping { .. } => None,
            _ => Some(Execution::Runs),
        };
        let agrees = execution.is_none_or(|execution| execution == world.execution);
        ensure(agrees, "the state is wrong about whether the guest runs")?;
        let pausing = matches!(machine.state, State::Paused { stage: PauseStage::Pausing, .. });
        ensure(world.pausers == 0 || pausing, "a pause is forgotten")?;
        match &machine.state {
            State::Paused { leases, .. } => ensure(*leases == world.leases, "leases miscounted"),
            State::Running { leases, idle } => {
                ensure(*leases == world.leases, "leases miscounted")?;
                let unused = *leases == 0 && policy.idle.is_some();
                ensure(idle.is_some() == unused, "idle is not: running, without leases, with an idle time")?;
                ensure(machine.failures == 0, "a boot that succeeded left failures")
            }
            State::Failed { .. } => ensure(machine.failures > 0, "failed without a failure"),
            _ => Ok(()),
        }
    }

    /// Events that must change nothing here.
    pub(super) fn check_ignored(&self, step: Stepping, policy: &Policy) -> Result<(), String> {
        let stale = [
            News::Up,
            News::BootFailed(report("stale")),
            News::NoRoom(report("stale")),
            News::Ready,
            News::NotReady(report("stale")),
            News::Builds(0),
            News::Builds(1),
            News::Exited(Exit::PoweredOff),
            News::Explained(report("stale")),
            News::Paused,
            News::PauseRefused(report("stale")),
            News::Resumed,
            News::Wedged(report("stale")),
        ];
        let epoch = self.machine.boots.wrapping_sub(1);
        let mut ignored: Vec<_> = stale.into_iter().map(|news| (Event::News { epoch, news }, self.now)).collect();
        ignored.extend([(Event::Release { epoch }, self.now), (Event::Reacquire { epoch }, self.now)]);
        match deadline(&self.machine.state) {
            Some(due) if due > self.now => ignored.push((Event::Tick, due - Duration::from_nanos(1))),
            Some(_) => {}
            None => ignored.push((Event::Tick, self.now + Duration::from_secs(1_000_000))),
        }
        for (event, now) in ignored {
            let (next, effects) = step(self.machine.clone(), event.clone(), now, policy);
            ensure(next == self.machine && effects.is_empty(), &format!("{event:?} is not ignored"))?;
        }
        Ok(())
    }
}

fn has_leases(state: &State) -> bool {
    matches!(state, State::Running { .. } | State::Paused { .. })
}

pub(super) fn ensure(holds: bool, complaint: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(complaint.into()) }
}

pub(super) fn report(message: &str) -> Report {
    Report::new(Kind::Boot, message)
}
