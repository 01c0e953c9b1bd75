//! Checks the model check: faults are planted in `step`, and it must find each of them.

use super::{
    events::{Effect, Event, News},
    machine::{Going, Idle, Machine, State, step},
    model_check::{POLICY, Stepping, explore},
};
use std::time::Duration;

/// Faults that somebody could make, and what the check must say to each.
const FAULTS: &[(&str, Stepping, &str)] = &[
    (
        "a boot that failed while being stopped is forgotten",
        |m, e, now, p| match (&m.state, &e) {
            (State::Stopping { what: Going::Boot, .. }, Event::News { news: News::BootFailed(_), .. }) => (m, vec![]),
            _ => step(m, e, now, p),
        },
        "a boot that is none",
    ),
    (
        "a guest that came up while being stopped is not killed, only called gone",
        |m, e, now, p| match (&m.state, &e) {
            (State::Stopping { what: Going::Boot, .. }, Event::News { news: News::Up, .. }) => {
                (Machine { state: State::Stopped { last: None }, ..m }, vec![Effect::Rested])
            }
            _ => step(m, e, now, p),
        },
        "rest is told while a guest is there",
    ),
    (
        "a guest under way out is never killed again",
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
        "leases of a guest before are counted against the present one",
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
                *idle = p.idle.map(|time| Idle::Until { at: now + time, builds: 0 });
            }
            (m, fx)
        },
        "idle is not",
    ),
    (
        "a guest without leases is stopped whatever it builds",
        |m, e, now, p| match e {
            Event::News { epoch, news: News::Builds(_) } => {
                step(m, Event::News { epoch, news: News::Builds(0) }, now, p)
            }
            e => step(m, e, now, p),
        },
        "a guest is stopped while it builds",
    ),
    (
        "a connection that wakes up is not counted",
        |m, e, now, p| match e {
            Event::Retake { .. } => (m, vec![]),
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
