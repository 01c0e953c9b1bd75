//! Explicit-state model check: every reachable pair of a machine and the world around it.
//!
//! [`World`] is what is true outside, kept by this file alone from the effects it sees: whether a boot is under way and
//! a guest alive, and how many demands, stops and leases are open. From each pair every event is tried which the world
//! allows, among them stale releases and late news; a lost power button, a boot that never answers and a guest that ignores
//! being killed are the paths on which only time goes on. At every pair the run is also continued by fair but nasty
//! worlds ([`Temper`]), which shows that what is asked is answered in the end. `model_faults` shows that the check
//! finds what is wrong.

use super::{
    events::{Effect, Event, News},
    machine::{Going, Idle, Machine, Policy, STUCK_AFTER, State, Then, deadline, step},
};
use crate::{
    error::{Kind, Report},
    hypervisor::Exit,
};
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};
use tokio::time::Instant;

pub(super) const POLICY: Policy = Policy {
    idle: Some(Duration::from_secs(600)),
    grace: Duration::from_secs(3),
    boot_timeout: Duration::from_secs(120),
    backoff: Duration::from_secs(10),
    backoff_max: Duration::from_secs(40),
};

/// How many demands may be open, and leases held, at once: more of them would show nothing new.
const MOST: u32 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct World {
    booting: bool,
    alive: bool,
    awaiting: bool,
    explaining: bool,
    /// The guest was asked for its builds.
    asked: bool,
    waiters: u32,
    stoppers: u32,
    /// Leases of the present epoch, and whether there are some of epochs before.
    leases: u32,
    stale: bool,
}

/// One reachable situation.
#[derive(Clone, Debug)]
struct Pair {
    machine: Machine,
    world: World,
    now: Instant,
}

impl Pair {
    /// Equal for situations that cannot be told apart: times count from now, epochs not at all.
    fn key(&self) -> String {
        let away = |t: Instant| t.saturating_duration_since(self.now).as_millis();
        let state = match &self.machine.state {
            State::Stopped { last } => format!("Stopped {last:?}"),
            State::Starting { waiters, deadline } => format!("Starting {waiters} {}", away(*deadline)),
            State::Booting { waiters, deadline } => format!("Booting {waiters} {}", away(*deadline)),
            State::Running { leases, idle: None } => format!("Running {leases}"),
            State::Running { idle: Some(Idle::Until { at, builds }), .. } => format!("Idle {} {builds}", away(*at)),
            State::Running { idle: Some(Idle::Asked { until, builds }), .. } => {
                format!("Asked {} {builds}", away(*until))
            }
            State::Stopping { what, ask_at, kill_at, kills, then } => {
                format!("Stopping {what:?} {:?} {} {kills} {then:?}", ask_at.map(away), away(*kill_at))
            }
            State::Failed { cause, retry_at } => format!("Failed {cause:?} {}", away(*retry_at)),
        };
        // Four failures reach the longest back-off.
        format!("{state} {} {} {:?}", self.machine.failures.min(4), self.machine.boots.min(1), self.world)
    }

    /// Every event that this world allows now, and when.
    fn choices(&self) -> Vec<(Event, Instant)> {
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
        // Whoever released the last one may have it again.
        if matches!(machine.state, State::Running { .. }) && world.leases < MOST {
            at_once.push(Event::Retake { epoch });
        }
        if world.asked {
            at_once.extend([news(News::Builds(0)), news(News::Builds(1))]);
        }
        if world.stale {
            at_once.push(Event::Release { epoch: epoch - 1 });
        }
        if world.booting {
            at_once.extend([news(News::Up), news(News::BootFailed(report("no boot")))]);
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
    fn take(
        &self,
        step: Stepping,
        event: &Event,
        now: Instant,
        policy: &Policy,
    ) -> Result<(Pair, Vec<Effect>), String> {
        let (machine, effects) = step(self.machine.clone(), event.clone(), now, policy);
        let mut world = self.world.clone();
        let heard = |world: &mut World, news: &News| match news {
            News::Up => (world.booting, world.alive) = (false, true),
            News::BootFailed(_) => world.booting = false,
            News::Ready | News::NotReady(_) => world.awaiting = false,
            News::Builds(_) => world.asked = false,
            News::Exited(_) => (world.alive, world.awaiting, world.asked) = (false, false, false),
            News::Explained(_) => world.explaining = false,
        };
        match event {
            Event::Demand { .. } => world.waiters += 1,
            Event::Stop { .. } => world.stoppers += 1,
            Event::Release { epoch } if *epoch == self.machine.boots => world.leases -= 1,
            Event::Release { .. } => world.stale = false,
            Event::Retake { .. } if matches!(self.machine.state, State::Running { .. }) => world.leases += 1,
            Event::Retake { .. } => {}
            Event::News { epoch, news } if *epoch == self.machine.boots => heard(&mut world, news),
            Event::News { .. } | Event::Tick => {}
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
                    ensure(world.alive, "no guest to ask")?;
                    world.asked = true;
                }
                Effect::RequestStop => ensure(world.alive, "power button of no guest")?,
                Effect::Kill => ensure(world.alive || world.booting, "kill without a guest")?,
                Effect::Grant(n) => {
                    ensure(world.alive && *n == world.waiters, "a lease without a guest, or not for everybody")?;
                    (world.leases, world.waiters) = (world.leases + n, 0);
                }
                Effect::Deny(_) | Effect::DenyExplained(_) => {
                    ensure(world.waiters > 0, "nobody to deny")?;
                    world.waiters = 0;
                    world.explaining |= matches!(effect, Effect::DenyExplained(_));
                }
                Effect::Rested => {
                    ensure(!world.booting && !world.alive, "rest is told while a guest is there")?;
                    world.stoppers = 0;
                }
                Effect::Stuck(_) => world.stoppers = 0,
            }
        }
        let next = Pair { machine, world, now };
        next.check(policy)?;
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

    /// What holds of every reachable pair.
    fn check(&self, policy: &Policy) -> Result<(), String> {
        let Pair { machine, world, .. } = self;
        let (booting, alive) = match &machine.state {
            State::Stopped { .. } | State::Failed { .. } => (false, false),
            State::Starting { .. } | State::Stopping { what: Going::Boot, .. } => (true, false),
            State::Booting { .. } | State::Running { .. } | State::Stopping { what: Going::Guest, .. } => (false, true),
        };
        ensure(world.alive == alive, if world.alive { "leaked guest" } else { "a guest that is none" })?;
        ensure(world.booting == booting, if world.booting { "leaked boot" } else { "a boot that is none" })?;
        let (waiters, may_be_nobody) = match &machine.state {
            State::Starting { waiters, .. } | State::Booting { waiters, .. } => (*waiters, false),
            State::Stopping { then: Then::Restart { waiters }, .. } => (*waiters, false),
            _ => (0, true),
        };
        ensure(world.waiters == waiters, "a waiter is forgotten or answered twice")?;
        ensure(may_be_nobody || waiters > 0, "a boot for nobody")?;
        let stopping = matches!(machine.state, State::Stopping { .. });
        ensure(world.stoppers == 0 || stopping, "a stop is forgotten")?;
        match &machine.state {
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
    fn check_ignored(&self, step: Stepping, policy: &Policy) -> Result<(), String> {
        let stale = [
            News::Up,
            News::BootFailed(report("stale")),
            News::Ready,
            News::NotReady(report("stale")),
            News::Builds(0),
            News::Builds(1),
            News::Exited(Exit::PoweredOff),
            News::Explained(report("stale")),
        ];
        let epoch = self.machine.boots.wrapping_sub(1);
        let mut ignored: Vec<_> = stale.into_iter().map(|news| (Event::News { epoch, news }, self.now)).collect();
        ignored.extend([(Event::Release { epoch }, self.now), (Event::Retake { epoch }, self.now)]);
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

/// A world that is fair, for it answers in the end, but not kind.
#[derive(Clone, Copy, Debug)]
struct Temper {
    /// The guest hears the power button.
    hears: bool,
    /// Kills that the guest ignores.
    ignores: u32,
    boot: Boot,
    ready: Readiness,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Boot {
    Comes,
    Fails,
    HangsUntilKilled,
    ComesThoughKilled,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Readiness {
    Comes,
    Fails,
    Never,
}

const KIND: Temper = Temper { hears: true, ignores: 0, boot: Boot::Comes, ready: Readiness::Comes };

fn tempers() -> Vec<Temper> {
    let mut all = vec![];
    for hears in [true, false] {
        for ignores in [0, 1, STUCK_AFTER + 2] {
            for boot in [Boot::Comes, Boot::Fails, Boot::HangsUntilKilled, Boot::ComesThoughKilled] {
                for ready in [Readiness::Comes, Readiness::Fails, Readiness::Never] {
                    all.push(Temper { hears, ignores, boot, ready });
                }
            }
        }
    }
    all
}

/// Whether a demand made here was granted, once it and every other open question was answered.
fn play(start: &Pair, step: Stepping, first: Event, temper: Temper, policy: &Policy) -> Result<bool, String> {
    let (mut pair, mut event, mut now) = (start.clone(), first.clone(), start.now);
    // What this world has heard before counts too.
    let (mut kills, mut pressed) = match &start.machine.state {
        State::Stopping { ask_at: None, .. } => (1, false),
        State::Stopping { .. } => (0, true),
        _ => (0, false),
    };
    let mut granted = false;
    for _ in 0..60 {
        let (next, effects) =
            pair.take(step, &event, now, policy).map_err(|e| format!("{e} (then {event:?}, {temper:?})"))?;
        pair = next;
        for effect in &effects {
            match effect {
                Effect::Boot => (kills, pressed) = (0, false),
                Effect::Kill => kills += 1,
                Effect::RequestStop => pressed = true,
                Effect::Grant(_) => granted = true,
                _ => {}
            }
        }
        let answered = pair.world.waiters == 0 && pair.world.stoppers == 0;
        let at_rest = matches!(pair.machine.state, State::Stopped { .. } | State::Failed { .. });
        if answered && (at_rest || !matches!(first, Event::Stop { .. })) {
            return Ok(granted);
        }
        let epoch = pair.machine.boots;
        let news = |news| Event::News { epoch, news };
        let World { booting, alive, awaiting, .. } = pair.world;
        let gone = alive && (kills > temper.ignores || (pressed && temper.hears));
        let happens = match (temper.boot, temper.ready) {
            _ if gone => Some(news(News::Exited(Exit::Killed))),
            (Boot::Comes, _) if booting => Some(news(News::Up)),
            (Boot::Fails, _) if booting => Some(news(News::BootFailed(report("no boot")))),
            (Boot::HangsUntilKilled, _) if booting && kills > 0 => Some(news(News::BootFailed(report("cancelled")))),
            (Boot::ComesThoughKilled, _) if booting && kills > 0 => Some(news(News::Up)),
            (_, Readiness::Comes) if awaiting => Some(news(News::Ready)),
            (_, Readiness::Fails) if awaiting => Some(news(News::NotReady(report("not ready")))),
            _ => None,
        };
        event = happens.unwrap_or(Event::Tick);
        if event == Event::Tick {
            let due = deadline(&pair.machine.state).ok_or(format!("stuck for ever after {first:?} ({temper:?})"))?;
            now = due.max(now);
        }
    }
    Err(format!("no answer and no rest after {first:?} ({temper:?})"))
}

fn check_answers(pair: &Pair, step: Stepping, policy: &Policy) -> Result<(), String> {
    for temper in tempers() {
        for force in [false, true] {
            play(pair, step, Event::Stop { force }, temper, policy)?;
        }
        for insist in [false, true] {
            play(pair, step, Event::Demand { insist }, temper, policy)?;
        }
    }
    let granted = play(pair, step, Event::Demand { insist: true }, KIND, policy)?;
    ensure(granted, "an insisting demand was refused by a kind world")?;
    let within = match pair.machine.state {
        State::Failed { retry_at, .. } => retry_at > pair.now,
        State::Stopping { then: Then::Fail(_), .. } => pair.machine.failures > 1,
        _ => false,
    };
    let granted = play(pair, step, Event::Demand { insist: false }, KIND, policy)?;
    ensure(granted != within, "a demand is refused exactly within a back-off")
}

pub(super) type Stepping = fn(Machine, Event, Instant, &Policy) -> (Machine, Vec<Effect>);

pub(super) struct Explored {
    pairs: usize,
    edges: usize,
}

/// Walks through every reachable pair, nearest first, so that a complaint comes with the shortest way to it.
pub(super) fn explore(step: Stepping, policy: &Policy) -> Result<Explored, String> {
    let start = Pair { machine: Machine::default(), world: World::default(), now: Instant::now() };
    let mut seen: HashMap<String, (Option<String>, String)> = HashMap::from([(start.key(), (None, "start".into()))]);
    let mut todo = VecDeque::from([start]);
    let mut edges = 0;
    while let Some(pair) = todo.pop_front() {
        let here = pair.key();
        let trail = |seen: &HashMap<String, (Option<String>, String)>, complaint: String, last: String| {
            let mut way = vec![last];
            let mut at = Some(here.clone());
            while let Some((before, event)) = at.and_then(|key| seen.get(&key).cloned()) {
                way.push(event);
                at = before;
            }
            way.reverse();
            format!("{complaint}; way: {}", way.join(" → "))
        };
        pair.check_ignored(step, policy).map_err(|e| trail(&seen, e, "here".into()))?;
        check_answers(&pair, step, policy).map_err(|e| trail(&seen, e, "here".into()))?;
        for (event, now) in pair.choices() {
            edges += 1;
            let name = format!("{event:?}");
            let (next, _) = pair.take(step, &event, now, policy).map_err(|e| trail(&seen, e, name.clone()))?;
            let key = next.key();
            if let Entry::Vacant(vacant) = seen.entry(key) {
                vacant.insert((Some(here.clone()), name));
                todo.push_back(next);
            }
        }
        if seen.len() > 100_000 {
            return Err(trail(&seen, "the model has no end".into(), "here".into()));
        }
    }
    Ok(Explored { pairs: seen.len(), edges })
}

fn ensure(holds: bool, complaint: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(complaint.into()) }
}

fn report(message: &str) -> Report {
    Report::new(Kind::Boot, message)
}

/// Whatever is reachable under this policy is sound, and answers in the end.
fn prove(policy: Policy) {
    match explore(step, &policy) {
        Ok(Explored { pairs, edges }) => {
            println!("idle {:?}, grace {:?}: {pairs} states, {edges} edges", policy.idle, policy.grace);
            assert!(pairs > 2000, "the model has shrunk to {pairs} states: some event is no longer tried");
        }
        Err(complaint) => panic!("{complaint}"),
    }
}

#[test]
fn every_reachable_pair_is_sound_and_answers_in_the_end() {
    prove(POLICY);
}

#[test]
fn so_it_is_without_an_idle_time() {
    prove(Policy { idle: None, ..POLICY });
}

#[test]
fn so_it_is_without_a_grace_period() {
    prove(Policy { grace: Duration::ZERO, ..POLICY });
}
