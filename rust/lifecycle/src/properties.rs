//! Random sequences of events. They go further than the model check in two ways: policies and times are arbitrary, and so is
//! the news, which may be impossible; the machine's numbers must be right all the same.

use super::{
    events::{Effect, Event, News},
    machine::{deadline, step},
    state::{AfterStop, Idle, Machine, PauseStage, Policy, STUCK_AFTER, State},
};
use dvn_hypervisor::Exit;
use dvn_types::{Kind, Report};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
enum Op {
    Demand(bool),
    /// Of the epoch so many before the present.
    Release(u64),
    /// Of the epoch so many before the present.
    Reacquire(u64),
    Stop(bool),
    Pause,
    News(u8, u64),
    /// Exactly when the deadline is due.
    OnTime,
    /// After so many milliseconds.
    Later(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<bool>().prop_map(Op::Demand),
        3 => (0..3u64).prop_map(Op::Release),
        1 => (0..2u64).prop_map(Op::Reacquire),
        1 => any::<bool>().prop_map(Op::Stop),
        2 => Just(Op::Pause),
        8 => (0..14u8, prop_oneof![9 => Just(0u64), 1 => Just(1)]).prop_map(|(news, ago)| Op::News(news, ago)),
        3 => Just(Op::OnTime),
        3 => (0..300_000u64).prop_map(Op::Later),
    ]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), (0..300_000u64).prop_map(Duration::from_millis)]
}

fn policy() -> impl Strategy<Value = Policy> {
    (proptest::option::of(time()), time(), time(), time(), time()).prop_map(
        |(idle, grace, boot_timeout, backoff, backoff_max)| Policy { idle, grace, boot_timeout, backoff, backoff_max },
    )
}

fn news(kind: u8) -> News {
    let report = || Report::new(Kind::Boot, "random");
    match kind {
        0 => News::Up,
        1 => News::BootFailed(report()),
        2 => News::Ready,
        3 => News::NotReady(report()),
        4 => News::Exited(Exit::PoweredOff),
        5 => News::Builds(0),
        6 => News::Builds(2),
        7 | 8 => News::Paused,
        9 => News::Resumed,
        10 => News::PauseRefused(report()),
        11 => News::Wedged(report()),
        12 => News::NoRoom(report()),
        _ => News::Explained(report()),
    }
}

/// The open requests and leases, counted independently by this test.
#[derive(Debug, Default)]
struct Books {
    waiters: u32,
    stoppers: u32,
    pausers: u32,
    leases: BTreeMap<u64, u32>,
}

impl Books {
    fn enter(&mut self, before: &Machine, after: &Machine, effects: &[Effect]) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Grant(n) => {
                    prop_assert_eq!(*n, self.waiters);
                    *self.leases.entry(after.boots).or_default() += n;
                    self.waiters = 0;
                }
                Effect::Deny(report) | Effect::DenyExplained(report) => {
                    prop_assert!(self.waiters > 0 && !report.message.is_empty());
                    self.waiters = 0;
                }
                Effect::Rested | Effect::Stuck(_) => self.stoppers = 0,
                Effect::PauseDone | Effect::PauseDenied(_) => {
                    prop_assert!(self.pausers > 0);
                    self.pausers = 0;
                }
                Effect::Boot | Effect::AwaitReady | Effect::AskBuilds | Effect::RequestStop | Effect::Kill => {}
                Effect::Pause | Effect::Resume => {}
            }
        }
        let boots = effects.iter().filter(|effect| **effect == Effect::Boot).count() as u64;
        prop_assert_eq!(after.boots, before.boots + boots);
        prop_assert!(boots <= 1);
        Ok(())
    }

    fn agree(&self, machine: &Machine, policy: &Policy) -> Result<(), TestCaseError> {
        let waiters = match &machine.state {
            State::Starting { waiters, .. } | State::Booting { waiters, .. } => *waiters,
            State::Stopping { then: AfterStop::Restart { waiters }, .. } | State::Paused { waiters, .. } => *waiters,
            _ => 0,
        };
        prop_assert_eq!(self.waiters, waiters);
        match &machine.state {
            State::Running { leases, idle } => {
                prop_assert_eq!(self.leases.get(&machine.boots).copied().unwrap_or(0), *leases);
                prop_assert_eq!(idle.is_some(), *leases == 0 && policy.idle.is_some());
            }
            State::Paused { leases, .. } => {
                prop_assert_eq!(self.leases.get(&machine.boots).copied().unwrap_or(0), *leases);
                prop_assert_eq!(deadline(&machine.state), None, "a timer runs during a pause");
            }
            State::Stopping { kills, .. } => prop_assert!(*kills <= STUCK_AFTER),
            _ => {}
        }
        if !matches!(machine.state, State::Stopping { .. }) {
            prop_assert_eq!(self.stoppers, 0);
        }
        if !matches!(machine.state, State::Paused { stage: PauseStage::Pausing, .. }) {
            prop_assert_eq!(self.pausers, 0);
        }
        let rests = matches!(machine.state, State::Stopped { .. } | State::Failed { .. });
        prop_assert!(!rests || deadline(&machine.state).is_none(), "a machine at rest wakes up");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_lives_keep_the_books(ops in prop::collection::vec(op(), 1..120), policy in policy()) {
        let (mut machine, mut now, mut books) = (Machine::default(), Instant::now(), Books::default());
        for op in ops {
            let event = match op {
                Op::Demand(insist) => {
                    books.waiters += 1;
                    Event::Demand { insist }
                }
                Op::Release(ago) => {
                    let epoch = machine.boots.saturating_sub(ago);
                    match books.leases.get_mut(&epoch) {
                        Some(held) if *held > 0 => *held -= 1,
                        _ => continue,
                    }
                    Event::Release { epoch }
                }
                Op::Reacquire(ago) => {
                    let epoch = machine.boots.saturating_sub(ago);
                    if ago == 0 && matches!(machine.state, State::Running { .. } | State::Paused { .. }) {
                        *books.leases.entry(epoch).or_default() += 1;
                    }
                    Event::Reacquire { epoch }
                }
                Op::Stop(force) => {
                    books.stoppers += 1;
                    Event::Stop { force }
                }
                Op::Pause => {
                    books.pausers += 1;
                    Event::Pause
                }
                Op::News(kind, ago) => Event::News { epoch: machine.boots.saturating_sub(ago), news: news(kind) },
                Op::OnTime => {
                    now = deadline(&machine.state).unwrap_or(now).max(now);
                    Event::Tick
                }
                Op::Later(ms) => {
                    now += Duration::from_millis(ms);
                    Event::Tick
                }
            };
            let (next, effects) = step(machine.clone(), event.clone(), now, &policy);
            let asked = matches!(machine.state, State::Running { idle: Some(Idle::Asked { .. }), .. });
            let by_itself = !matches!(event, Event::Stop { .. }) && effects.contains(&Effect::RequestStop);
            prop_assert!(asked || !by_itself || !matches!(machine.state, State::Running { .. }), "stopped unasked");
            books.enter(&machine, &next, &effects)?;
            books.agree(&next, &policy)?;
            if event == Event::Tick && let Some(due) = deadline(&next.state) {
                prop_assert!(due > now, "a tick left its deadline in the past: {:?}", next);
            }
            if let State::Failed { retry_at, .. } = next.state && !matches!(machine.state, State::Failed { .. }) {
                prop_assert!(retry_at.duration_since(now) <= policy.backoff_max, "back-off above its cap");
            }
            machine = next;
        }
    }
}
