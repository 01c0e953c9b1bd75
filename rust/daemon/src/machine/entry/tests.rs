use super::*;
use crate::{events::Events, machine::Parts};
use dvn_config::{LifecyclePolicy, MachineConfig};
use dvn_host::machine_dir::StateDir;
use dvn_hypervisor::{
    GuestAgent,
    sim::{Script, Sim},
    sim_agent,
};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::wire::State;
use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};
use tokio::time::{Instant, advance};

/// A machine whose guests are in memory.
struct Rig {
    machine: Machine,
    sim: Sim,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(agent: Arc<dyn GuestAgent>, set: impl FnOnce(&mut LifecyclePolicy)) -> Rig {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&"builder".parse().unwrap()).unwrap();
        let mut config = MachineConfig::sample();
        set(&mut config.lifecycle);
        let sim = Sim::new(Script::default());
        let parts = Parts::in_memory(sim.clone(), agent, &dir, &config).unwrap();
        let events = Arc::<Events>::default();
        let machine = Machine::assemble("builder".parse().unwrap(), config.into(), dir, parts, events);
        Rig { machine, sim, _dir: tmp }
    }

    /// A machine whose running guest refuses connections after this time; its agent reports this number of builds, or does not
    /// answer.
    async fn unreachable(after: Duration, builds: Option<u32>, set: impl FnOnce(&mut LifecyclePolicy)) -> Rig {
        let agent = sim_agent::that_may_say(move |ask| match ask {
            Ask::Builds => builds.map(|running| Answer::Builds { running }),
            _ => Some(Answer::Done),
        });
        let rig = Rig::new(agent, set);
        drop(rig.machine.open(Service::Nix).await.unwrap());
        rig.sim.guest().unwrap().refuse_after(after);
        rig
    }

    async fn refusal(&self) -> Report {
        self.machine.open(Service::Nix).await.map(drop).unwrap_err()
    }

    fn boots(&self) -> usize {
        self.sim.counters().boots.load(SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_connection_after_connection_is_stopped_and_the_next_one_serves() {
    let rig = Rig::unreachable(Duration::ZERO, Some(0), |_| {}).await;
    for row in 1..reach::ENOUGH {
        let report = rig.refusal().await;
        assert!(report.message.contains(&format!("{row} in a row")), "{report}");
    }
    let connection = rig.machine.open(Service::Nix).await.expect("the next guest accepts it");
    assert_eq!((connection.lease.epoch(), rig.boots()), (2, 2));
    assert_eq!(rig.sim.counters().kills.load(SeqCst), 0, "it is asked to power off");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_is_refused_at_once_ends_no_guest() {
    let rig = Rig::unreachable(Duration::ZERO, Some(0), |_| {}).await;
    let refusals = futures_util::future::join_all((0..300).map(|_| rig.refusal())).await;
    assert!(refusals.iter().all(|report| report.message.contains("1 in a row")), "{:?}", refusals.last());
    assert_eq!(rig.boots(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_no_connection_and_does_not_answer_is_killed_at_once() {
    let rig = Rig::unreachable(Duration::from_secs(10), None, |_| {}).await;
    let began = Instant::now();
    let crowd = futures_util::future::join_all((0..20).map(|_| rig.machine.open(Service::Nix))).await;
    assert!(crowd.iter().all(|entered| entered.as_ref().is_ok_and(|connection| connection.lease.epoch() == 2)));
    assert_eq!(rig.boots(), 2, "one guest takes its place, however many clients noticed");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(rig.sim.counters().kills.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn builds_keep_a_guest_that_accepts_no_connections_and_the_error_says_so() {
    let rig = Rig::unreachable(Duration::ZERO, Some(2), |_| {}).await;
    for _ in 0..3 * reach::ENOUGH {
        let report = rig.refusal().await;
        assert!(report.message.contains("builds that run in the guest: 2") && !report.hints.is_empty(), "{report:?}");
    }
    assert_eq!(rig.boots(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_hang_timeout_a_silent_guest_stays() {
    let rig = Rig::unreachable(Duration::from_secs(10), None, |lifecycle| lifecycle.hang_timeout = None).await;
    let report = rig.refusal().await;
    assert!(report.message.contains("did not answer") && report.hints[0].contains("stop --force"), "{report:?}");
    assert_eq!(rig.boots(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_stopping_is_not_killed_for_refusing() {
    let rig = Rig::unreachable(Duration::from_secs(10), None, |_| {}).await;
    rig.sim.guest().unwrap().refuse_after(Duration::from_secs(1));
    let machine = &rig.machine;
    let (entered, stopped) = tokio::join!(machine.open(Service::Nix), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        machine.stop(false).await
    });
    stopped.unwrap();
    assert_eq!(entered.expect("the next guest accepts it").lease.epoch(), 2);
    assert_eq!(rig.sim.counters().kills.load(SeqCst), 0);
}

/// Under the paused clock the wall clock moves on by itself, so that `advance` is a jump, as a sleep of the host is.
#[tokio::test(start_paused = true)]
async fn a_connection_after_a_sleep_opens_once_the_clock_is_right_and_not_before() {
    let (asked, busy) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
    let theirs = (Arc::clone(&asked), Arc::clone(&busy));
    let agent = sim_agent::that_may_say(move |ask| match ask {
        Ask::SetClock { .. } if theirs.1.load(Relaxed) => None,
        Ask::SetClock { .. } => {
            theirs.0.fetch_add(1, Relaxed);
            Some(Answer::Done)
        }
        _ => Some(Answer::Builds { running: 0 }),
    });
    let Rig { machine, .. } = Rig::new(agent, |_| {});
    drop(machine.open(Service::Nix).await.unwrap());
    assert_eq!(asked.load(Relaxed), 1);
    advance(Duration::from_millis(1)).await;
    drop(machine.open(Service::Nix).await.unwrap());
    assert_eq!(asked.load(Relaxed), 2, "the guest may have changed it");
    // Until the use of the guest has ended.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = asked.load(Relaxed);
    advance(Duration::from_secs(3600)).await;
    drop(machine.open(Service::Nix).await.unwrap());
    assert_eq!(asked.load(Relaxed), before + 1);

    tokio::time::sleep(Duration::from_secs(60)).await;
    busy.store(true, Relaxed);
    let begun = Instant::now();
    drop(machine.open(Service::Nix).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(5), "it waits for the clock: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_build_without_a_connection_is_in_the_status_before_the_idle_time_is_over() {
    let builds = Arc::<AtomicU32>::default();
    let theirs = Arc::clone(&builds);
    let agent = sim_agent::that_says(move |ask| match ask {
        Ask::Builds => Answer::Builds { running: theirs.load(Relaxed) },
        _ => Answer::Done,
    });
    let Rig { machine, .. } = Rig::new(agent, |_| {});
    let shown = || match machine.status().state {
        State::Running { leases, builds, .. } => (leases, builds),
        other => panic!("{other:?}"),
    };
    let connection = machine.open(Service::Nix).await.unwrap();
    builds.store(2, Relaxed);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shown(), (1, 0), "the connection keeps it");
    let mut revision = machine.events.generation();
    drop(connection);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(), (0, 2));
    builds.store(1, Relaxed);
    revision.mark_unchanged();
    revision.changed().await.unwrap();
    assert_eq!(shown(), (0, 1), "and those who wait for a change of the status are notified");
}
