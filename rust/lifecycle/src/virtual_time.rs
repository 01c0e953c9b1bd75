//! The whole supervisor over the hypervisor in memory, under a paused clock: hours pass in milliseconds.
//!
//! This file tests demands, leases and idleness; `virtual_trouble` tests failures.

use super::{BootEvent, GuestProvider, Handle, Phase, Policy, Ready, spawn};
use dvn_hypervisor::{
    Exit, Guest,
    sim::{Script, Sim},
    sim_agent,
    spec::MachineSpec,
};
use dvn_types::{Kind, Report, Sizes, TimelinePhase};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) const POLICY: Policy = Policy {
    idle: Some(Duration::from_secs(180 * 60)),
    grace: Duration::from_secs(30),
    boot_timeout: Duration::from_secs(120),
    backoff: Duration::from_secs(10),
    backoff_max: Duration::from_secs(60),
};

/// How the guest's preparation behaves.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) prepare: Duration,
    pub(super) prepare_error: Option<String>,
    pub(super) prepare_panics: bool,
    /// `None`: the guest never becomes ready.
    pub(super) ready: Option<Duration>,
    pub(super) ready_error: Option<String>,
    pub(super) explain_wedged: bool,
}

impl Default for Way {
    fn default() -> Self {
        Way {
            prepare: Duration::from_millis(100),
            prepare_error: None,
            prepare_panics: false,
            ready: Some(Duration::from_millis(600)),
            ready_error: None,
            explain_wedged: false,
        }
    }
}

/// A provider in memory that counts its calls.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) way: Mutex<Way>,
    pub(super) under_way: AtomicUsize,
    pub(super) most_under_way: AtomicUsize,
    pub(super) prepares: AtomicUsize,
    pub(super) finished: AtomicUsize,
    pub(super) explained: AtomicUsize,
    pub(super) boot_events: Mutex<Vec<BootEvent>>,
}

impl Prepared {
    fn way(&self) -> Way {
        self.way.lock().unwrap().clone()
    }
}

impl GuestProvider for Prepared {
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        let way = self.way();
        assert!(!way.prepare_panics, "the preparation panicked");
        Box::pin(async move {
            self.prepares.fetch_add(1, SeqCst);
            self.most_under_way.fetch_max(self.under_way.fetch_add(1, SeqCst) + 1, SeqCst);
            sleep(way.prepare).await;
            self.under_way.fetch_sub(1, SeqCst);
            self.finished.fetch_add(1, SeqCst);
            match way.prepare_error {
                Some(why) => Err(Report::new(Kind::Bundle, why)),
                None => Ok(spec(sizes)),
            }
        })
    }

    fn await_ready(&self, _guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        let way = self.way();
        Box::pin(async move {
            match way.ready {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
            match way.ready_error {
                Some(why) => Err(Report::new(Kind::Boot, why)),
                None => Ok(Ready {
                    phases: vec![
                        TimelinePhase { name: "guest: sshd".into(), at_ms: 550 },
                        TimelinePhase { name: "guest: kernel".into(), at_ms: 200 },
                    ],
                    kernel: "6.1.0".into(),
                    data_disk: "kept".into(),
                    agent: Some(sim_agent::detached()),
                }),
            }
        })
    }

    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        let wedged = self.way().explain_wedged;
        Box::pin(async move {
            self.explained.fetch_add(1, SeqCst);
            if wedged {
                std::future::pending::<()>().await;
            }
            cause.hint("the console's last line: no init found")
        })
    }

    fn on_boot_event(&self, event: BootEvent) {
        self.boot_events.lock().unwrap().push(event);
    }
}

fn spec(sizes: Sizes) -> MachineSpec {
    MachineSpec { cores: sizes.cores.unwrap_or(4), memory: sizes.memory.unwrap_or(8 << 30), ..MachineSpec::sample() }
}

/// A supervisor with its surroundings.
pub(super) struct Rig {
    pub(super) sim: Sim,
    pub(super) prepared: Arc<Prepared>,
    pub(super) machine: Handle,
}

impl Rig {
    pub(super) fn new(script: Script, way: Way, policy: Policy) -> Rig {
        let sim = Sim::new(script);
        let prepared = Arc::new(Prepared { way: Mutex::new(way), ..Prepared::default() });
        let machine = spawn("builder".parse().unwrap(), Arc::new(sim.clone()), prepared.clone(), policy);
        Rig { sim, prepared, machine }
    }

    pub(super) fn healthy() -> Rig {
        Rig::new(Script::default(), Way::default(), POLICY)
    }

    pub(super) async fn until(&self, what: impl Fn(&Phase) -> bool) {
        let mut watch = self.machine.watch();
        let reached = timeout(1000 * MINUTE, watch.wait_for(|snapshot| what(&snapshot.phase))).await;
        reached.unwrap_or_else(|_| panic!("still {:?}", self.machine.snapshot())).unwrap();
    }

    pub(super) fn phase(&self) -> Phase {
        self.machine.snapshot().phase
    }

    pub(super) fn leases(&self) -> u32 {
        match self.phase() {
            Phase::Running { leases, .. } => leases,
            other => panic!("not running but {other:?}"),
        }
    }

    pub(super) fn boots(&self) -> usize {
        self.sim.counters().boots.load(SeqCst)
    }

    pub(super) fn kills(&self) -> usize {
        self.sim.counters().kills.load(SeqCst)
    }

    /// The machine is at rest, no guest is left, and there was never more than one at once.
    pub(super) fn assert_nothing_left(&self) {
        assert!(self.phase().is_at_rest(), "{:?}", self.phase());
        assert_eq!(self.sim.counters().alive.load(SeqCst), 0);
        assert!(self.sim.counters().max_alive.load(SeqCst) <= 1);
        assert!(self.prepared.most_under_way.load(SeqCst) <= 1);
    }
}

/// Lets the other tasks run until they wait for time.
pub(super) async fn breathe() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_guest_stops_after_three_hours_and_not_before() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    breathe().await;
    sleep(180 * MINUTE - Duration::from_secs(1)).await;
    assert!(rig.phase().is_running());
    rig.until(Phase::is_at_rest).await;
    assert_eq!(rig.phase(), Phase::Stopped { last: Some(Exit::PoweredOff) });
    assert_eq!((rig.boots(), rig.kills()), (1, 0));
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_long_lease_is_not_idle_and_the_clock_begins_when_it_ends() {
    let rig = Rig::healthy();
    let lease = rig.machine.acquire().await.unwrap();
    sleep(24 * 60 * MINUTE).await;
    assert_eq!(rig.phase(), Phase::Running { leases: 1, idle_at: None, asked: false });
    let end = Instant::now();
    drop(lease);
    rig.until(|phase| matches!(phase, Phase::Stopping { .. })).await;
    assert_eq!(end.elapsed().as_secs(), 180 * 60);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_time_the_guest_stays() {
    let rig = Rig::new(Script::default(), Way::default(), Policy { idle: None, ..POLICY });
    drop(rig.machine.acquire().await.unwrap());
    sleep(10_000 * MINUTE).await;
    assert_eq!(rig.phase(), Phase::Running { leases: 0, idle_at: None, asked: false });
}

#[tokio::test(start_paused = true)]
async fn a_hundred_demands_share_one_boot() {
    let rig = Rig::healthy();
    let tasks: Vec<_> = (0..100u64)
        .map(|i| {
            let machine = rig.machine.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(i * 20)).await;
                machine.acquire().await.unwrap()
            })
        })
        .collect();
    let mut leases = vec![];
    for task in tasks {
        leases.push(task.await.unwrap());
    }
    assert_eq!((rig.boots(), rig.leases()), (1, 100));
    drop(leases);
    breathe().await;
    assert_eq!(rig.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_leaves_no_lease() {
    let rig = Rig::healthy();
    assert!(timeout(Duration::from_millis(200), rig.machine.acquire()).await.is_err());
    let unread = tokio::spawn({
        let machine = rig.machine.clone();
        async move { machine.acquire().await }
    });
    rig.until(Phase::is_running).await;
    // Granted, and dropped with the task's result instead of being used.
    unread.abort();
    drop(unread);
    breathe().await;
    assert_eq!(rig.leases(), 0);
    rig.until(Phase::is_at_rest).await;
}

#[tokio::test(start_paused = true)]
async fn demand_while_stopping_restarts() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    let stop = tokio::spawn({
        let machine = rig.machine.clone();
        async move { machine.stop(false).await }
    });
    rig.until(|phase| matches!(phase, Phase::Stopping { .. })).await;
    let lease = rig.machine.acquire().await.unwrap();
    assert_eq!(rig.boots(), 2);
    stop.await.unwrap().unwrap();
    assert!(lease.guest().connect(22).await.is_ok());
    let phases = rig.machine.snapshot().last_boot.unwrap().phases;
    assert_eq!(phases[0].name, "stopped", "the demand had to wait for the earlier guest: {phases:?}");
    assert_eq!(rig.sim.counters().max_alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_just_before_the_idle_stop_prevents_it() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    breathe().await;
    let Phase::Running { idle_at: Some(at), .. } = rig.phase() else { panic!("not idle") };
    let machine = rig.machine.clone();
    let demand = tokio::spawn(async move {
        tokio::time::sleep_until(at - Duration::from_millis(1)).await;
        machine.acquire().await.unwrap()
    });
    let _lease = demand.await.unwrap();
    sleep(MINUTE).await;
    assert_eq!((rig.boots(), rig.leases()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_reaches_the_guest() {
    let rig = Rig::healthy();
    let lease = rig.machine.acquire().await.unwrap();
    let mut stream = lease.guest().connect(22).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = String::new();
    stream.read_to_string(&mut echo).await.unwrap();
    assert_eq!(echo, "hello");
    let mut incoming = lease.guest().listen(1024).unwrap();
    let mut dialled = rig.sim.guest().unwrap().dial(1024).await.unwrap();
    dialled.write_all(b"!").await.unwrap();
    assert_eq!(incoming.accept().await.unwrap().read_u8().await.unwrap(), b'!');
}

#[tokio::test(start_paused = true)]
async fn the_timeline_counts_from_the_demand() {
    let rig = Rig::healthy();
    rig.machine.start(Sizes::default()).await.unwrap();
    let timeline = rig.machine.snapshot().last_boot.unwrap();
    let phases: Vec<_> = timeline.phases.iter().map(|phase| (phase.name.as_str(), phase.at_ms)).collect();
    let expected =
        [("prepared", 100), ("hypervisor", 400), ("guest: kernel", 600), ("guest: sshd", 950), ("ready", 1000)];
    // A sleep under the paused clock may be a millisecond late each.
    for (got, want) in phases.iter().zip(expected) {
        assert!(got.0 == want.0 && got.1.abs_diff(want.1) <= 4, "{phases:?}");
    }
    assert_eq!(phases.len(), expected.len());
    assert_eq!((timeline.kernel.as_str(), timeline.data_disk.as_str()), ("6.1.0", "kept"));
    assert!(dvn_types::unix_ms().abs_diff(timeline.demand_unix_ms) < 60_000);
}

#[tokio::test(start_paused = true)]
async fn the_generation_grows_with_every_change_and_only_then() {
    let rig = Rig::healthy();
    let mut watch = rig.machine.watch();
    let first = watch.borrow_and_update().clone();
    assert_eq!((first.boots, first.phase), (0, Phase::Stopped { last: None }));
    let seen = tokio::spawn(async move {
        let mut seen = vec![];
        while watch.changed().await.is_ok() {
            seen.push(watch.borrow_and_update().clone());
        }
        seen
    });
    let lease = rig.machine.acquire().await.unwrap();
    sleep(30 * MINUTE).await;
    drop(lease);
    breathe().await;
    rig.machine.stop(true).await.unwrap();
    let last = rig.machine.snapshot();
    drop(rig.machine);
    let seen = seen.await.unwrap();
    let generations: Vec<_> = seen.iter().map(|snapshot| snapshot.generation).collect();
    let kinds: Vec<_> = seen.iter().map(|snapshot| snapshot.phase.clone()).collect();
    assert_eq!(generations, [2, 3, 4, 5, 6], "{kinds:?}");
    assert!(matches!(
        kinds[..],
        [
            Phase::Starting,
            Phase::Running { leases: 1, .. },
            Phase::Running { leases: 0, .. },
            Phase::Stopping { restart: false },
            Phase::Stopped { last: Some(Exit::Killed) }
        ]
    ));
    assert_eq!(seen[1].since_unix_ms, seen[2].since_unix_ms, "a lease less is no new phase");
    assert_eq!((last.boots, last.phase), (1, Phase::Stopped { last: Some(Exit::Killed) }));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_has_a_deadline_and_does_not_age() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    breathe().await;
    let before = rig.machine.snapshot();
    let Phase::Running { leases: 0, idle_at: Some(idle_at), .. } = before.phase else { panic!("{before:?}") };
    assert!(POLICY.idle.unwrap() - (idle_at - Instant::now()) < Duration::from_secs(1));
    sleep(MINUTE).await;
    assert_eq!(rig.machine.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn sizes_hold_for_one_boot_and_contradictions_are_refused() {
    let rig = Rig::healthy();
    let cores = |n| Sizes { cores: Some(n), ..Sizes::default() };
    rig.machine.start(cores(8)).await.unwrap();
    rig.machine.start(cores(8)).await.unwrap();
    rig.machine.start(Sizes::default()).await.unwrap();
    let refusal = rig.machine.start(cores(2)).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.hints.is_empty()), (Kind::Busy, false));
    rig.machine.stop(false).await.unwrap();
    rig.machine.start(Sizes::default()).await.unwrap();
    // The configured number, from the preparation.
    rig.machine.start(cores(4)).await.unwrap();
    assert_eq!(rig.machine.start(cores(8)).await.unwrap_err().kind, Kind::Busy);
    assert_eq!(rig.boots(), 2);
    // While it stops, the sizes for the next boot are merged.
    let (stopped, plain, eight, two) = tokio::join!(
        rig.machine.stop(false),
        rig.machine.acquire(),
        rig.machine.start(cores(8)),
        rig.machine.start(cores(2)),
    );
    stopped.unwrap();
    plain.unwrap();
    eight.unwrap();
    assert_eq!(two.unwrap_err().kind, Kind::Busy);
    rig.machine.start(cores(8)).await.unwrap();
    // A crash ends them too.
    rig.sim.guest().unwrap().end(Exit::Crashed("oops".into()));
    rig.until(Phase::is_at_rest).await;
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.start(cores(4)).await.unwrap();
}

/// How often the runtime's only thread parks while the machine is idle for so long.
async fn wake_ups(wait: Duration) -> u64 {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    sleep(wait).await;
    metrics.worker_park_count(0) - before
}

#[tokio::test(start_paused = true)]
async fn nothing_wakes_up_at_rest() {
    let rig = Rig::healthy();
    breathe().await;
    let stopped = wake_ups(100 * MINUTE).await;
    drop(rig.machine.acquire().await.unwrap());
    breathe().await;
    let running = wake_ups(100 * MINUTE).await;
    // tokio's timer wheel takes a few turns for the sleep of this test itself; a timer once a minute would show as 100.
    assert!(stopped <= 10 && running <= 10, "{stopped} stopped, {running} running");
}

// Real threads and a real clock, because this tests an order of events; no step takes time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_an_answer_finds_it_in_the_snapshot() {
    let script = Script { boot: Duration::ZERO, ..Script::default() };
    let way = Way { prepare: Duration::ZERO, ready: Some(Duration::ZERO), ..Way::default() };
    let rig = Rig::new(script, way, POLICY);
    for round in 0..200 {
        rig.machine.start(Sizes::default()).await.unwrap();
        assert!(rig.phase().is_running(), "round {round}: {:?}", rig.phase());
        rig.machine.stop(true).await.unwrap();
        assert!(rig.phase().is_at_rest(), "round {round}: {:?}", rig.phase());
    }
}
