//! The budget alone, and machines in memory that share a computer too small for all of them.

use super::{
    books::{gib, list},
    *,
};
use crate::{
    machine::{Machine, Parts},
    reservation::Reservation,
};
use dvn_config::{HardwareConfig, LifecyclePolicy, MachineConfig};
use dvn_host::machine_dir::StateDir;
use dvn_hypervisor::{
    GuestAgent,
    sim::{Script, Sim},
    sim_agent,
};
use dvn_lifecycle::Gate;
use dvn_protocol::messages::Answer;
use dvn_types::{
    GuestKind, Service, Sizes,
    wire::{State, What},
};
use futures_util::FutureExt;
use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::time::{Instant, sleep};

const GIB: u64 = 1 << 30;

fn name(name: &str) -> MachineName {
    name.parse().unwrap()
}

fn linux(gib: u64) -> Need {
    Need { memory: gib * GIB, kind: GuestKind::Linux }
}

fn mac(gib: u64) -> Need {
    Need { memory: gib * GIB, kind: GuestKind::MacOs }
}

fn budget(gib: u64) -> Arc<Budget> {
    Arc::new(Budget::of(gib * GIB, Arc::default()))
}

#[tokio::test]
async fn a_machine_alone_never_waits_and_others_wait_for_what_it_leaves() {
    let budget = budget(14);
    let [a, b, c, d] = ["builder-2", "builder-3", "c", "d"].map(name);
    let first = budget.admit(0, &a, linux(100)).now_or_never().unwrap().unwrap();
    let mut second = pin!(budget.admit(0, &b, linux(1)));
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(budget.waits_for(&b).unwrap(), "1 GiB of memory: builder-2 holds 100 of 14 GiB");
    assert!(*budget.wanted().borrow());
    drop(first);
    let _second = second.now_or_never().unwrap().unwrap();
    assert_eq!((budget.waits_for(&b), *budget.wanted().borrow()), (None, false));

    let first = budget.admit(0, &a, linux(11)).now_or_never().unwrap().unwrap();
    let mut large = pin!(budget.admit(0, &c, linux(4)));
    assert!(large.as_mut().now_or_never().is_none());
    assert_eq!(budget.waits_for(&c).unwrap(), "4 GiB of memory: builder-2 and builder-3 hold 12 of 14 GiB");
    // A small one does not overtake it, or the large one might wait for ever.
    let mut small = pin!(budget.admit(0, &d, linux(1)));
    assert!(small.as_mut().now_or_never().is_none());
    assert_eq!(budget.waits_for(&d).unwrap(), "1 GiB of memory, after c");
    // A further demand for a machine that has room needs no further room.
    drop(budget.admit(0, &a, linux(11)).now_or_never().unwrap().unwrap());
    assert!(large.as_mut().now_or_never().is_none());
    drop(first);
    let (_large, _small) = (large.now_or_never().unwrap().unwrap(), small.now_or_never().unwrap().unwrap());
}

#[tokio::test]
async fn a_machine_holds_its_largest_share_and_no_more_once_that_is_given_back() {
    let (budget, [a, b]) = (budget(14), ["a", "b"].map(name));
    let _guest = budget.admit(0, &a, linux(4)).await.unwrap();
    let larger = budget.admit(0, &a, linux(12)).await.unwrap();
    let mut other = pin!(budget.admit(0, &b, linux(8)));
    assert!(other.as_mut().now_or_never().is_none());
    drop(larger);
    let _other = other.now_or_never().unwrap().unwrap();
}

#[tokio::test]
async fn a_waiter_that_leaves_does_not_delay_those_behind_it() {
    let (budget, [a, b, c]) = (budget(14), ["a", "b", "c"].map(name));
    let _first = budget.admit(0, &a, linux(10)).await.unwrap();
    let mut small = Box::pin(budget.admit(0, &c, linux(4)));
    {
        let mut large = pin!(budget.admit(0, &b, linux(8)));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
    }
    let _small = small.now_or_never().unwrap().unwrap();
    assert!(budget.books().waiting.is_empty() && !*budget.wanted().borrow());
}

#[tokio::test]
async fn two_macos_guests_are_all_that_a_mac_runs_and_linux_does_not_wait_behind_a_third() {
    let (budget, c) = (budget(64), name("c"));
    let _one = budget.admit(0, &name("a"), mac(4)).await.unwrap();
    let two = budget.admit(0, &name("b"), mac(4)).await.unwrap();
    let mut three = pin!(budget.admit(0, &c, mac(4)));
    assert!(three.as_mut().now_or_never().is_none());
    let reason = budget.waits_for(&c).unwrap();
    assert_eq!(reason, "the end of a macOS guest: there can be 2 at once, and a and b have them");
    let _linux = budget.admit(0, &name("d"), linux(4)).now_or_never().unwrap().unwrap();
    drop(two);
    let _three = three.now_or_never().unwrap().unwrap();
}

#[tokio::test]
async fn a_demand_for_the_next_guest_waits_behind_those_that_came_before() {
    let (budget, [a, b]) = (budget(6), ["a", "b"].map(name));
    let guest = budget.admit(0, &a, linux(4)).await.unwrap();
    drop(budget.demand(0, &a, linux(4)).now_or_never().expect("no machine waits").unwrap());
    drop(budget.demand_now(0, &a, linux(4)).unwrap());
    let mut first = pin!(budget.demand(0, &b, linux(4)));
    let mut again = pin!(budget.demand(0, &a, linux(4)));
    assert!(first.as_mut().now_or_never().is_none() && again.as_mut().now_or_never().is_none());
    assert_eq!(budget.waits_for(&a).unwrap(), "4 GiB of memory, after b");
    let report = budget.demand_now(0, &a, linux(4)).map(drop).unwrap_err();
    assert_eq!((report.kind, report.message.as_str()), {
        (Kind::Busy, "the boot would have to wait for 4 GiB of memory, after b")
    });
    drop(guest);
    let first = first.now_or_never().unwrap().unwrap();
    assert!(again.as_mut().now_or_never().is_none());
    let third = name("c");
    let _third = budget.demand_now(0, &third, linux(1)).map(drop).unwrap_err();
    drop(first);
    let demand = again.now_or_never().unwrap().unwrap();

    // The guest that boots for this demand is there for later ones, too.
    let mut other = pin!(budget.demand(0, &b, linux(4)));
    assert!(other.as_mut().now_or_never().is_none());
    let _guest = budget.admit(0, &a, linux(4)).now_or_never().unwrap().unwrap();
    drop(budget.demand_now(0, &a, linux(4)).unwrap());
    drop(demand);
    assert!(budget.demand_now(0, &a, linux(4)).is_err());
}

#[tokio::test]
async fn a_demand_that_waited_is_admitted_with_the_guest_that_came_meanwhile() {
    let (budget, [a, b]) = (budget(6), ["a", "b"].map(name));
    let _small = budget.admit(0, &b, linux(1)).await.unwrap();
    let large = budget.admit(0, &a, linux(5)).await.unwrap();
    let mut other = pin!(budget.demand(0, &b, linux(6)));
    let mut demand = pin!(budget.demand(0, &a, linux(5)));
    assert!(other.as_mut().now_or_never().is_none() && demand.as_mut().now_or_never().is_none());
    // Its boot has no demand that holds room.
    let _next = budget.admit(0, &a, linux(5)).now_or_never().unwrap().unwrap();
    drop(demand.now_or_never().unwrap().unwrap());
    assert!(other.as_mut().now_or_never().is_none());
    drop(large);
}

#[tokio::test]
async fn a_macos_guest_comes_after_the_one_that_waits_for_a_place() {
    let (budget, [a, b, c]) = (budget(64), ["a", "b", "c"].map(name));
    let ending = budget.admit(0, &a, mac(4)).await.unwrap();
    let _stays = budget.admit(0, &b, mac(4)).await.unwrap();
    let mut first = pin!(budget.demand(0, &c, mac(4)));
    let mut again = pin!(budget.demand(0, &a, mac(4)));
    assert!(first.as_mut().now_or_never().is_none() && again.as_mut().now_or_never().is_none());
    drop(ending);
    let _first = first.now_or_never().unwrap().unwrap();
    assert!(again.as_mut().now_or_never().is_none());
}

#[tokio::test]
async fn a_refusal_ends_the_waits_of_its_account_and_those_that_come_until_it_is_over() {
    let (budget, [a, b]) = (budget(6), ["a", "b"].map(name));
    let _guest = budget.admit(0, &a, linux(6)).await.unwrap();
    let [mine, of_another] = [budget.account(), budget.account()];
    let mut waiting = pin!(budget.demand(mine, &b, linux(4)));
    let mut other = pin!(budget.demand(of_another, &b, linux(4)));
    assert!(waiting.as_mut().now_or_never().is_none() && other.as_mut().now_or_never().is_none());
    let why = Report::new(Kind::Busy, "it is being stopped");
    let refusal = budget.refuse(mine, &why);
    assert_eq!(waiting.now_or_never().unwrap().err(), Some(why.clone()));
    assert_eq!(budget.demand(mine, &b, linux(4)).now_or_never().unwrap().err(), Some(why.clone()));
    assert_eq!(budget.demand_now(mine, &a, linux(4)).err(), Some(why));
    assert!(other.as_mut().now_or_never().is_none());
    drop(refusal);
    assert!(pin!(budget.demand(mine, &b, linux(4))).now_or_never().is_none());
}

/// A demand and the end of its machine at the same time, on two threads, with all small differences in time.
#[test]
fn no_demand_waits_on_after_its_machine_was_closed() {
    let budget = budget(6);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _in = runtime.enter();
    let _guest = budget.admit(0, &name("a"), linux(6)).now_or_never().unwrap().unwrap();
    let why = Report::new(Kind::Busy, "shutting down");
    let machines: Vec<_> = (0..6000).map(|_| Reservation::new(Arc::clone(&budget), name("b"), 4 * GIB)).collect();
    let [begun, closed, wait_on] = [0; 3].map(AtomicUsize::new);
    let until = |what: &AtomicUsize, round| {
        while what.load(SeqCst) <= round {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _in = runtime.enter();
            for (round, machine) in machines.iter().enumerate() {
                let mut pass = machine.pass(Sizes::default());
                begun.store(round + 1, SeqCst);
                let before = pass.as_mut().now_or_never().is_some();
                until(&closed, round);
                wait_on.fetch_add(usize::from(!before && pass.now_or_never().is_none()), SeqCst);
            }
        });
        for (round, machine) in machines.iter().enumerate() {
            until(&begun, round);
            (0..round % 200).for_each(|_| std::hint::spin_loop());
            machine.close(&why);
            closed.store(round + 1, SeqCst);
        }
    });
    assert_eq!(wait_on.into_inner(), 0);
}

#[test]
fn sizes_and_names_are_written_as_people_do() {
    assert_eq!([0, GIB, GIB * 3 / 2, GIB * 14 - 1].map(gib), ["0", "1", "1.5", "13.9"]);
    let names = ["a", "b", "c"].map(name);
    let names: Vec<_> = names.iter().collect();
    assert_eq!([list(&[]), list(&names[..1]), list(&names[..2]), list(&names)], ["", "a", "a and b", "a, b and c"]);
}

/// A computer of 6 GiB with machines of 4 GiB each.
struct Lab {
    _tmp: tempfile::TempDir,
    machines: Vec<Arc<Machine>>,
    events: Arc<Events>,
    sim: Sim,
}

fn lab(idle_timeout: Option<Duration>, agent: Arc<dyn GuestAgent>) -> Lab {
    let tmp = tempfile::tempdir().unwrap();
    let state = StateDir::open(&tmp.path().join("s")).unwrap();
    let events = Arc::new(Events::default());
    let budget = Arc::new(Budget::of(6 * GIB, Arc::clone(&events)));
    let boot_timeout = Duration::from_secs(30);
    let config = Arc::new(MachineConfig {
        hardware: HardwareConfig { memory: 4 * GIB, ..HardwareConfig::sample() },
        lifecycle: LifecyclePolicy { idle_timeout, boot_timeout, ..LifecyclePolicy::sample() },
        ..MachineConfig::sample()
    });
    let sim = Sim::new(Script { boot: Duration::from_secs(20), ..Script::default() });
    let machines = ["a", "b", "c"].map(|machine| {
        let dir = state.make_machine(&name(machine)).unwrap();
        let parts = Parts::in_memory(sim.clone(), Arc::clone(&agent), &dir, &config).unwrap();
        let parts = Parts { budget: Arc::clone(&budget), ..parts };
        Arc::new(Machine::assemble(name(machine), Arc::clone(&config), dir, parts, Arc::clone(&events)))
    });
    Lab { _tmp: tmp, machines: machines.into(), events, sim }
}

fn builds(running: u32) -> Arc<dyn GuestAgent> {
    sim_agent::that_says(move |_| Answer::Builds { running })
}

fn starts(machine: &Arc<Machine>) -> tokio::task::JoinHandle<Result<(), Report>> {
    let machine = Arc::clone(machine);
    tokio::spawn(async move { machine.start(Sizes::default()).await })
}

fn waits(machine: &Machine) -> Option<String> {
    machine.status().waits_for
}

const REASON: &str = "4 GiB of memory: a holds 4 of 6 GiB";

#[tokio::test(start_paused = true)]
async fn a_boot_waits_for_the_end_of_another_guest_says_so_and_has_its_whole_timeout_then() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    a.start(Sizes::default()).await.unwrap();
    let mut seen = lab.events.subscribe();
    let waiting = starts(b);
    // Longer than a boot may take.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(b.status().state, State::Stopped { last_exit: None });
    assert_eq!(waits(b).as_deref(), Some(REASON));
    let waits_event = What::Waits { reason: Some(REASON.to_owned()) };
    assert!(
        std::iter::from_fn(|| seen.try_recv().ok())
            .any(|event| event.machine == *b.name() && event.what == waits_event)
    );
    a.stop(false).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(waits(b), None);
    let waits_event = What::Waits { reason: None };
    assert!(
        std::iter::from_fn(|| seen.try_recv().ok())
            .any(|event| event.machine == *b.name() && event.what == waits_event)
    );
    // A connection to a guest that runs passes at once, also while another waits.
    let _waiting = starts(a);
    sleep(Duration::from_secs(1)).await;
    drop(b.open(Service::Nix).await.unwrap());
    assert_eq!(lab.sim.counters().max_alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_guest_that_is_there_do_not_wait_and_what_would_be_refused_is_refused_at_once() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    // Less than its settings say, so that both fit.
    a.start(Sizes { memory: Some(GIB), ..Sizes::default() }).await.unwrap();
    b.start(Sizes::default()).await.unwrap();
    let at_once = Duration::from_secs(60);
    drop(timeout(at_once, a.open(Service::Nix)).await.expect("no wait").unwrap());
    let other = a.start(Sizes { memory: Some(5 * GIB), ..Sizes::default() });
    let report = timeout(at_once, other).await.expect("no wait").unwrap_err();
    assert!(report.kind == Kind::Busy && !report.message.contains("waited"), "{report}");
    assert!(matches!(a.status().state, State::Running { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_stop_and_a_client_that_leaves_end_the_wait() {
    let lab = lab(None, builds(0));
    let [a, b, c] = &lab.machines[..] else { panic!() };
    a.start(Sizes::default()).await.unwrap();
    let (stopped, left) = (starts(b), starts(c));
    sleep(Duration::from_secs(1)).await;
    assert!(waits(b).is_some() && waits(c).is_some());
    b.stop(false).await.unwrap();
    let report = stopped.await.unwrap().unwrap_err();
    assert!(report.kind == Kind::Busy && report.message.contains("being stopped"), "{report}");
    left.abort();
    let _ = left.await;
    assert_eq!((waits(b), waits(c)), (None, None));
    a.stop(false).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.sim.counters().boots.load(SeqCst), 1, "there is no further demand");
    // The clients of a machine that is removed do not keep waiting for room.
    a.start(Sizes::default()).await.unwrap();
    let waiting = starts(b);
    sleep(Duration::from_secs(1)).await;
    b.end().await;
    assert!(waiting.await.unwrap().unwrap_err().message.contains("shutting down"));
    assert!(b.start(Sizes::default()).now_or_never().unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_unused_guest_gives_way_and_its_memory_comes_with_its_end() {
    let lab = lab(Some(Duration::from_secs(3 * 3600)), builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    a.start(Sizes::default()).await.unwrap();
    let used = a.open(Service::Nix).await.unwrap();
    let waiting = starts(b);
    sleep(Duration::from_secs(600)).await;
    assert!(waits(b).is_some(), "the guest is used");
    drop(used);
    let begun = Instant::now();
    waiting.await.unwrap().unwrap();
    assert!((10..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(lab.sim.counters().max_alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_builds_or_is_never_idle_is_kept_and_the_wait_ends_with_the_reason() {
    for (idle, agent) in [(Some(Duration::from_secs(3600)), builds(1)), (None, builds(0))] {
        let lab = lab(idle, agent);
        let [a, b, _] = &lab.machines[..] else { panic!() };
        a.start(Sizes::default()).await.unwrap();
        let begun = Instant::now();
        let report = b.start(Sizes::default()).await.unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), WAIT_TIMEOUT.as_secs());
        assert_eq!(report.kind, Kind::Busy);
        assert_eq!(report.message, format!("the boot has waited 30 minutes for {REASON}"));
        assert!(report.hints[0].contains("stop"), "{report:?}");
        assert!(matches!(a.status().state, State::Running { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_fails_and_a_guest_that_crashes_leave_their_memory_to_others() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    lab.sim.rescript(|script| script.boot_error = Some("no".to_owned()));
    a.start(Sizes::default()).await.unwrap_err();
    lab.sim.rescript(|script| (script.boot_error, script.crash_after) = (None, Some(Duration::from_secs(50))));
    b.start(Sizes::default()).await.unwrap();
    lab.sim.rescript(|script| script.crash_after = None);
    a.start(Sizes::default()).await.unwrap();
    assert_eq!(lab.sim.counters().max_alive.load(SeqCst), 1);
}

/// The guest gives way, and its client returns before it is off.
#[tokio::test(start_paused = true)]
async fn a_machine_that_waits_comes_before_clients_of_the_guest_that_gave_way() {
    let lab = lab(Some(Duration::from_secs(3 * 3600)), builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    lab.sim.rescript(|script| script.power_off = Duration::from_secs(20));
    a.start(Sizes::default()).await.unwrap();
    let waiting = starts(b);
    while !matches!(a.status().state, State::Stopping { .. }) {
        sleep(Duration::from_secs(1)).await;
    }
    let back = starts(a);
    waiting.await.unwrap().unwrap();
    assert_eq!(waits(a).as_deref(), Some("4 GiB of memory: b holds 4 of 6 GiB"));
    b.stop(false).await.unwrap();
    back.await.unwrap().unwrap();
    assert_eq!(lab.sim.counters().max_alive.load(SeqCst), 1);
}

/// The demand saw a guest that runs, and its lifecycle one that is being stopped.
#[tokio::test(start_paused = true)]
async fn a_demand_that_misses_its_guest_waits_for_room_and_no_boot_fails_for_lack_of_it() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    lab.sim.rescript(|script| script.power_off = Duration::from_secs(20));
    a.start(Sizes::default()).await.unwrap();
    let waiting = starts(b);
    sleep(Duration::from_secs(1)).await;
    let again = Arc::clone(a);
    let both = tokio::spawn(async move { tokio::join!(again.stop(false), again.start(Sizes::default())) });
    waiting.await.unwrap().unwrap();
    // Longer than a boot may take.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(a.status().state, State::Stopped { last_exit: Some("powered-off".to_owned()) });
    assert_eq!(waits(a).as_deref(), Some("4 GiB of memory: b holds 4 of 6 GiB"));
    b.stop(false).await.unwrap();
    let (stopped, started) = both.await.unwrap();
    stopped.and(started).unwrap();
}

/// Its lifecycle boots for a client that has left, and another machine has the room by then.
#[tokio::test(start_paused = true)]
async fn a_boot_without_clients_and_room_is_not_begun_and_is_no_failure() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    lab.sim.rescript(|script| script.power_off = Duration::from_secs(20));
    a.start(Sizes::default()).await.unwrap();
    let stopping = Arc::clone(a);
    let stopping = tokio::spawn(async move { stopping.stop(false).await });
    sleep(Duration::from_secs(1)).await;
    let client = starts(a);
    sleep(Duration::from_secs(1)).await;
    let waiting = starts(b);
    client.abort();
    stopping.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(a.status().state, State::Stopped { last_exit: None });
    assert_eq!(lab.sim.counters().boots.load(SeqCst), 2);
    let next = starts(a);
    sleep(Duration::from_secs(1)).await;
    assert!(waits(a).is_some());
    b.stop(false).await.unwrap();
    next.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_guest_of_a_cancelled_boot_holds_its_room_until_it_is_gone() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    lab.sim.rescript(|script| script.cancel = Duration::from_secs(25));
    let booting = starts(a);
    sleep(Duration::from_secs(5)).await;
    a.stop(true).await.unwrap();
    assert!(booting.await.unwrap().is_err());
    lab.sim.rescript(|script| script.cancel = Duration::from_secs(5));
    let begun = Instant::now();
    let waiting = starts(b);
    sleep(Duration::from_secs(24)).await;
    assert_eq!(waits(b).as_deref(), Some(REASON));
    waiting.await.unwrap().unwrap();
    assert_eq!(begun.elapsed().as_secs(), 25 + 20, "the end of that guest, and a boot");
    b.stop(false).await.unwrap();

    // Its own next guest waits for that end as well: both would use the same disk.
    let booting = starts(a);
    sleep(Duration::from_secs(5)).await;
    a.stop(true).await.unwrap();
    assert!(booting.await.unwrap().is_err());
    let begun = Instant::now();
    a.start(Sizes::default()).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 5 + 20);
}

/// A deletion does not wait for a client that waits for memory.
#[tokio::test(start_paused = true)]
async fn a_machine_whose_client_waits_can_be_deleted_at_once() {
    let lab = lab(None, builds(0));
    let [a, b, _] = &lab.machines[..] else { panic!() };
    a.start(Sizes::default()).await.unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| starts(b)).collect();
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let (state, again) = (StateDir::open(&lab._tmp.path().join("s")).unwrap(), Arc::clone(b));
    let destroying = tokio::spawn(async move { again.destroy(&state, dvn_types::Keep::default()).await });
    // These arrive during the deletion.
    for _ in 0..20 {
        tokio::task::yield_now().await;
        clients.push(starts(b));
    }
    destroying.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    for client in clients {
        client.abort();
    }
}
