//! Explicit-state model check: every reachable pair of a machine and the world around it.
//!
//! [`World`](super::model_world::World) has the facts outside of the machine, derived only from its effects: whether a boot is
//! under way and a guest alive, and how many demands, stops and leases are open. From each pair the check tries every event
//! that the world allows, among them stale releases and late news. A lost press of the power button, a boot that never
//! answers and a guest that survives a kill are the paths on which only time passes. From every pair, fair but adverse
//! worlds ([`Temper`]) also continue the run, which shows that every request is answered in the end. `model_faults` shows
//! that the check finds faults.

use super::{
    events::{Effect, Event, News},
    machine::{deadline, step},
    model_world::{Execution, Pair, Stepping, World, ensure, report},
    state::{AfterStop, Leaving, Machine, Policy, STUCK_AFTER, State},
};
use dvn_hypervisor::Exit;
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

/// A world that answers in the end, but may be adverse.
#[derive(Clone, Copy, Debug)]
struct Temper {
    /// The guest reacts to the power button.
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

/// How a guest becomes ready, and how its pauses end: after `Never` it is unknown whether it runs.
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
    // Requests before the start count too.
    let (mut kills, mut pressed) = match &start.machine.state {
        State::Stopping { what: Leaving::Pausing | Leaving::Resuming, .. } => (0, false),
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
        let answered = pair.world.waiters == 0 && pair.world.stoppers == 0 && pair.world.pausers == 0;
        let at_rest = matches!(pair.machine.state, State::Stopped { .. } | State::Failed { .. });
        if answered && (at_rest || !matches!(first, Event::Stop { .. })) {
            return Ok(granted);
        }
        let epoch = pair.machine.boots;
        let news = |news| Event::News { epoch, news };
        let World { booting, alive, awaiting, execution, .. } = pair.world;
        let gone = alive && (kills > temper.ignores || (pressed && temper.hears));
        let happens = match (temper.boot, temper.ready) {
            _ if gone => Some(news(News::Exited(Exit::Killed))),
            (Boot::Comes, _) if booting => Some(news(News::Up)),
            (Boot::Fails, _) if booting => Some(news(News::BootFailed(report("no boot")))),
            (Boot::HangsUntilKilled, _) if booting && kills > 0 => Some(news(News::BootFailed(report("cancelled")))),
            (Boot::ComesThoughKilled, _) if booting && kills > 0 => Some(news(News::Up)),
            (_, Readiness::Never) if matches!(execution, Execution::Pausing | Execution::Resuming) => {
                Some(news(News::Wedged(report("wedged"))))
            }
            (_, Readiness::Fails) if execution == Execution::Pausing => {
                Some(news(News::PauseRefused(report("no pause"))))
            }
            _ if execution == Execution::Pausing => Some(news(News::Paused)),
            _ if execution == Execution::Resuming => Some(news(News::Resumed)),
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
        play(pair, step, Event::Pause, temper, policy)?;
        for insist in [false, true] {
            play(pair, step, Event::Demand { insist }, temper, policy)?;
        }
    }
    let granted = play(pair, step, Event::Demand { insist: true }, KIND, policy)?;
    ensure(granted, "an insisting demand was refused by a kind world")?;
    let within = match pair.machine.state {
        State::Failed { retry_at, .. } => retry_at > pair.now,
        State::Stopping { then: AfterStop::Fail(_), .. } => pair.machine.failures > 1,
        _ => false,
    };
    let granted = play(pair, step, Event::Demand { insist: false }, KIND, policy)?;
    ensure(granted != within, "a demand is refused exactly within a back-off")
}

pub(super) struct Explored {
    pairs: usize,
    edges: usize,
}

/// Visits every reachable pair, breadth first, so that a complaint comes with the shortest path to it.
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

/// Checks every pair that is reachable under this policy.
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
