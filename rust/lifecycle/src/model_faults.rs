//! Checks the model check: faults are planted in `step`, and it must find each of them.

use super::{
    events::{Effect, Event, News},
    machine::step,
    model_check::{POLICY, explore},
    model_world::Stepping,
    state::{AfterStop, Idle, Leaving, Machine, PauseStage, State},
};
use std::time::Duration;

/// Plausible faults, and a part of the check's complaint about each.
const FAULTS: &[(&str, Stepping, &str)] = &[
    (
        "a boot that failed while being stopped is forgotten",
        |m, e, now, p| match (&m.state, &e) {
            (State::Stopping { what: Leaving::Boot, .. }, Event::News { news: News::BootFailed(_), .. }) => (m, vec![]),
            _ => step(m, e, now, p),
        },
        "a boot that is none",
    ),
    (
        "a guest that came up while being stopped is not killed, only called gone",
        |m, e, now, p| match (&m.state, &e) {
            (State::Stopping { what: Leaving::Boot, .. }, Event::News { news: News::Up, .. }) => {
                (Machine { state: State::Stopped { last: None }, ..m }, vec![Effect::Rested])
            }
            _ => step(m, e, now, p),
        },
        "a stop is answered while there is a guest",
    ),
    (
        "a guest that is being stopped is never killed again",
        |m, e, now, p| {
            let (mut m, mut fx) = step(m, e, now, p);
            if let State::Stopping { kill_at, kills: 1.., .. } = &mut m.state {
                *kill_at = now + Duration::from_secs(1);
                fx.retain(|fx| !matches!(fx, Effect::Kill));
            }
            (m, fx)
        },
        "no answer and no rest after Stop",
    ),
    (
        "leases of an earlier guest are counted against the present one",
        |m, e, now, p| match e {
            Event::Release { .. } => step(m.clone(), Event::Release { epoch: m.boots }, now, p),
            e => step(m, e, now, p),
        },
        "is not ignored",
    ),
    (
        "a demand while stopping boots at once",
        |m, e, now, p| match (&m.state, &e) {
            (State::Stopping { .. }, Event::Demand { .. }) => {
                step(Machine { state: State::Stopped { last: None }, ..m }, e, now, p)
            }
            _ => step(m, e, now, p),
        },
        "two guests at once",
    ),
    (
        "a stop forgets those who wait for a restart",
        |m, e, now, p| {
            let stop = matches!((&m.state, &e), (State::Stopping { .. }, Event::Stop { .. }));
            let (m, mut fx) = step(m, e, now, p);
            fx.retain(|fx| !(stop && matches!(fx, Effect::Deny(_))));
            (m, fx)
        },
        "a waiter is forgotten or answered twice",
    ),
    (
        "a crash is not noticed",
        |m, e, now, p| match (&m.state, &e) {
            (State::Running { .. }, Event::News { news: News::Exited(_), .. }) => (m, vec![]),
            _ => step(m, e, now, p),
        },
        "a guest that is none",
    ),
    (
        "a demand does not stop the idle clock",
        |m, e, now, p| {
            let demand = matches!(e, Event::Demand { .. });
            let (mut m, fx) = step(m, e, now, p);
            if let (State::Running { idle, .. }, true) = (&mut m.state, demand) {
                *idle = p.idle.map(|time| Idle::Until { at: now + time });
            }
            (m, fx)
        },
        "idle is not",
    ),
    (
        "a guest without leases is stopped although it builds",
        |m, e, now, p| match e {
            Event::News { epoch, news: News::Builds(_) } => {
                step(m, Event::News { epoch, news: News::Builds(0) }, now, p)
            }
            e => step(m, e, now, p),
        },
        "a guest is stopped while it builds",
    ),
    (
        "a lease that becomes active again is not counted",
        |m, e, now, p| match e {
            Event::Reacquire { .. } => (m, vec![]),
            e => step(m, e, now, p),
        },
        "leases miscounted",
    ),
    (
        "an explicit start waits for the back-off",
        |m, e, now, p| match e {
            Event::Demand { .. } => step(m, Event::Demand { insist: false }, now, p),
            e => step(m, e, now, p),
        },
        "an insisting demand was refused",
    ),
    (
        "a demand is granted although the guest is paused",
        |m, e, now, p| match (&m.state, &e) {
            (State::Paused { leases, waiters: 0, stage: PauseStage::Paused }, Event::Demand { .. }) => {
                let state = State::Running { leases: leases + 1, idle: None };
                (Machine { state, ..m }, vec![Effect::Grant(1)])
            }
            _ => step(m, e, now, p),
        },
        "a lease of a paused guest",
    ),
    (
        "a stop presses the power button of a paused guest",
        |m, e, now, p| match (&m.state, &e) {
            (State::Paused { stage: PauseStage::Paused, .. }, Event::Stop { .. }) => {
                let kill_at = now + p.grace;
                let (what, then) = (Leaving::Guest, AfterStop::Rest);
                let state = State::Stopping { what, ask_at: Some(now + p.grace), kill_at, kills: 0, then };
                (Machine { state, ..m }, vec![Effect::RequestStop])
            }
            _ => step(m, e, now, p),
        },
        "one that is deaf",
    ),
    (
        "a demand resumes while the pause is under way",
        |m, e, now, p| {
            let early =
                matches!((&m.state, &e), (State::Paused { stage: PauseStage::Pausing, .. }, Event::Demand { .. }));
            let (mut m, mut fx) = step(m, e, now, p);
            if let (true, State::Paused { stage, .. }) = (early, &mut m.state) {
                *stage = PauseStage::Resuming;
                fx.push(Effect::Resume);
            }
            (m, fx)
        },
        "a guest that is not paused is resumed",
    ),
    (
        "a guest that cannot be resumed is kept",
        |m, e, now, p| match (&m.state, &e) {
            (State::Paused { .. }, Event::News { news: News::Wedged(_), .. }) => (m, vec![]),
            _ => step(m, e, now, p),
        },
        "wrong about whether the guest runs",
    ),
    (
        "a pause request is not answered when a stop interrupts it",
        |m, e, now, p| {
            let (m, mut fx) = step(m, e, now, p);
            if matches!(m.state, State::Stopping { .. }) {
                fx.retain(|fx| !matches!(fx, Effect::PauseDenied(_)));
            }
            (m, fx)
        },
        "a pause is forgotten",
    ),
    (
        "leases are lost by a pause",
        |m, e, now, p| {
            let (mut m, fx) = step(m, e, now, p);
            if let State::Paused { leases, .. } = &mut m.state {
                *leases = 0;
            }
            (m, fx)
        },
        "leases miscounted",
    ),
];

#[test]
fn planted_faults_are_found() {
    for (fault, stepping, expected) in FAULTS {
        match explore(*stepping, &POLICY) {
            Ok(_) => panic!("not found: {fault}"),
            Err(complaint) => {
                println!("{fault}:\n    {complaint}");
                assert!(complaint.contains(expected), "{fault}: found as {complaint:?}, expected {expected:?}");
            }
        }
    }
}
