//! Machines in memory that are inserted, break, are repaired and are removed.

use super::{MachineFactory, Machines};
use crate::{
    events::Events,
    machine::{Machine, Parts},
};
use dvn_config::{BuilderConfig, MachineConfig};
use dvn_host::{activation::Inherited, machine_dir::StateDir};
use dvn_hypervisor::{
    sim::{Script, Sim},
    sim_agent,
};
use dvn_types::{
    Keep, Kind, MachineName, Report, Service, Sizes,
    wire::{State, What},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

/// Longest wait for anything here.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Lab {
    _tmp: tempfile::TempDir,
    state: StateDir,
    machines: Arc<Machines>,
    events: Arc<Events>,
    sim: Sim,
    /// Why a machine of this name cannot be opened.
    faults: Arc<Mutex<BTreeMap<MachineName, Report>>>,
}

impl Lab {
    fn new(script: Script) -> Lab {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let events = Arc::new(Events::default());
        let (sim, faults) = (Sim::new(script), Arc::<Mutex<BTreeMap<MachineName, Report>>>::default());
        let (its_state, its_events) = (state.clone(), Arc::clone(&events));
        let (its_sim, its_faults) = (sim.clone(), Arc::clone(&faults));
        let machines = Machines::new(MachineFactory {
            state: state.clone(),
            events: Arc::clone(&events),
            open: Box::new(move |name, config| {
                if let Some(fault) = its_faults.lock().unwrap().get(name) {
                    return Err(fault.clone());
                }
                let dir = its_state.make_machine(name)?;
                let parts = Parts::in_memory(its_sim.clone(), sim_agent::detached(), &dir, config)?;
                Ok(Machine::assemble(name.clone(), Arc::clone(config), dir, parts, Arc::clone(&its_events)))
            }),
            inherited: Mutex::new(Inherited::default()),
            serving: AtomicBool::new(false),
        });
        machines.serve();
        Lab { _tmp: tmp, state, machines: Arc::new(machines), events, sim, faults }
    }

    fn breaks(&self, name: &MachineName) {
        let fault = Report::new(Kind::State, "its keys are damaged").hint("make new ones");
        self.faults.lock().unwrap().insert(name.clone(), fault);
    }

    fn is_mended(&self) {
        self.faults.lock().unwrap().clear();
    }

    fn state_of(&self, name: &MachineName) -> Option<State> {
        self.machines.status().into_iter().find(|status| status.name == *name).map(|status| status.state)
    }
}

fn name(name: &str) -> MachineName {
    name.parse().unwrap()
}

fn config(listen: SocketAddr) -> MachineConfig {
    MachineConfig { builder: BuilderConfig { listen, ..BuilderConfig::sample() }.into(), ..MachineConfig::sample() }
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An address that is free now, and its listener, which has it until it is dropped.
fn taken() -> (SocketAddr, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind(anywhere()).unwrap();
    (listener.local_addr().unwrap(), listener)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < TIMEOUT, "{what}");
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_broken_machine_is_listed_with_its_reason_and_stops_no_other() {
    let lab = Lab::new(Script::default());
    let [good, damaged, shut] = ["a", "b", "c"].map(name);
    let (address, other_program) = taken();
    lab.breaks(&damaged);
    let mut seen = lab.events.subscribe();
    lab.machines.declare(good.clone(), config(anywhere())).await.unwrap();
    lab.machines.declare(damaged.clone(), config(anywhere())).await.map(drop).unwrap_err();
    let report = lab.machines.declare(shut.clone(), config(address)).await.map(drop).unwrap_err();
    assert_eq!(report.kind, Kind::Busy);
    assert!(report.message.contains(&address.to_string()) && report.hints[0].contains("ss -ltnp"), "{report:?}");

    lab.machines.get(&good).unwrap().start(Sizes::default()).await.unwrap();
    assert!(matches!(lab.state_of(&good), Some(State::Running { .. })));
    let seen: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    for (broken, kind) in [(&damaged, Kind::State), (&shut, Kind::Busy)] {
        let report = lab.machines.get(broken).map(drop).unwrap_err();
        assert!(report.kind == kind && report.hints.iter().any(|hint| hint.contains("`darwin-vz-nix start`")));
        assert_eq!(lab.state_of(broken), Some(State::Broken { cause: report.clone() }));
        assert_eq!(lab.machines.ready(broken, true).await.map(drop).unwrap_err(), report, "tried, and still so");
        let what = What::State { state: State::Broken { cause: report } };
        assert_eq!(seen.iter().filter(|event| event.machine == *broken && event.what == what).count(), 1);
    }
    let listens = |name: &MachineName| {
        let status = lab.machines.status().into_iter().find(|status| status.name == *name).unwrap();
        status.listen.len()
    };
    assert_eq!((listens(&damaged), listens(&shut)), (1, 0), "another program has the port");
    assert_eq!(lab.machines.broken(), [damaged.clone(), shut.clone()]);

    drop(other_program);
    lab.machines.ready(&shut, true).await.unwrap();
    lab.is_mended();
    lab.machines.ready(&damaged, true).await.unwrap();
    assert!(lab.machines.broken().is_empty());
    assert_eq!(lab.state_of(&shut), Some(State::Stopped { last_exit: None }));
}

#[tokio::test(start_paused = true)]
async fn a_broken_machine_is_tried_again_each_minute_and_by_connections_not_in_a_row() {
    let lab = Lab::new(Script::default());
    let broken = name("a");
    lab.breaks(&broken);
    lab.machines.declare(broken.clone(), config(anywhere())).await.map(drop).unwrap_err();
    lab.is_mended();
    lab.machines.ready(&broken, false).await.map(drop).unwrap_err();
    sleep(Duration::from_secs(2)).await;
    lab.breaks(&broken);
    lab.machines.ready(&broken, false).await.map(drop).unwrap_err();
    lab.is_mended();
    assert!(lab.machines.get(&broken).is_err());
    sleep(Duration::from_secs(61)).await;
    lab.machines.get(&broken).unwrap();
}

#[tokio::test]
async fn a_client_of_a_broken_machine_gets_the_reason_and_once_it_is_repaired_the_guest() {
    let lab = Lab::new(Script::default());
    let broken = name("a");
    lab.breaks(&broken);
    let (address, free) = taken();
    drop(free);
    lab.machines.declare(broken.clone(), config(address)).await.map(drop).unwrap_err();
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut said = String::new();
    timeout(TIMEOUT, client.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "darwin-vz-nix: its keys are damaged\r\n");
    lab.is_mended();
    sleep(Duration::from_secs(1)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    timeout(TIMEOUT, client.read_exact(&mut [0])).await.unwrap().unwrap();
    assert!(lab.machines.broken().is_empty());
}

#[tokio::test]
async fn nothing_is_left_of_a_hundred_removed_machines() {
    let lab = Lab::new(Script::default());
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let (before, strong) = (tasks(), Arc::strong_count(&lab.events));
    let names: Vec<_> = (0..100).map(|n| name(&format!("m{n}"))).collect();
    for (n, name) in names.iter().enumerate() {
        if n % 10 == 9 {
            lab.breaks(name);
        }
        let opened = lab.machines.insert(name.clone(), config(anywhere())).await;
        assert_eq!(opened.is_err(), n % 10 == 9);
        if let (true, Ok(machine)) = (n % 10 == 0, opened) {
            machine.start(Sizes::default()).await.unwrap();
        }
    }
    assert!(tasks() > before + 100);
    assert_eq!(lab.machines.insert(names[0].clone(), config(anywhere())).await.map(drop).unwrap_err().kind, Kind::Busy);
    assert_eq!(lab.sim.counters().alive.load(SeqCst), 10);
    for name in &names {
        lab.machines.remove(name).await.unwrap();
        assert!(!lab.state.machine(name).root().exists());
    }
    assert_eq!(lab.machines.status(), []);
    assert_eq!(lab.sim.counters().alive.load(SeqCst), 0);
    assert_eq!(lab.machines.remove(&names[0]).await.unwrap_err().kind, Kind::NotFound);
    until("their tasks end", || tasks() == before).await;
    // Each watcher and connection holds one.
    assert_eq!(Arc::strong_count(&lab.events), strong);
}

#[tokio::test]
async fn a_removal_ends_connections_and_frees_the_port() {
    let lab = Lab::new(Script::default());
    let (address, free) = taken();
    drop(free);
    let removed = name("a");
    let machine = lab.machines.insert(removed.clone(), config(address)).await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    timeout(TIMEOUT, client.read_exact(&mut [0])).await.unwrap().unwrap();
    let direct = machine.open(Service::Nix).await.unwrap();
    let (mut ours, theirs) = tokio::io::duplex(64);
    let carried = tokio::spawn(direct.carry(theirs));
    ours.write_all(b"x").await.unwrap();
    assert_eq!(lab.events.connections().len(), 2);

    lab.machines.remove(&removed).await.unwrap();
    // With unread bytes a close may come as an error.
    let _ = timeout(TIMEOUT, client.read(&mut [0; 9])).await.expect("the connection ends");
    let _ = timeout(TIMEOUT, carried).await.expect("the direct one, too").unwrap();
    assert!(lab.events.connections().is_empty() && lab.events.traffic(&removed).is_empty());
    assert_eq!(machine.start(Sizes::default()).await.unwrap_err().kind, Kind::Busy, "a late request boots nothing");
    assert_eq!(lab.sim.counters().alive.load(SeqCst), 0);
    let weak = Arc::downgrade(&machine);
    drop(machine);
    until("nothing holds the machine", || weak.strong_count() == 0).await;
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_machine_can_be_removed_while_it_boots_and_waiters_are_refused() {
    let lab = Lab::new(Script { boot: Duration::from_secs(30), ..Script::default() });
    let removed = name("a");
    let machine = lab.machines.insert(removed.clone(), config(anywhere())).await.unwrap();
    let starting = tokio::spawn(async move { machine.start(Sizes::default()).await });
    while lab.sim.counters().boots.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    lab.machines.remove(&removed).await.unwrap();
    assert_eq!(starting.await.unwrap().unwrap_err().kind, Kind::Busy);
    let counters = lab.sim.counters();
    assert_eq!((counters.cancelled.load(SeqCst), counters.alive.load(SeqCst)), (1, 0));
    lab.machines.insert(removed.clone(), config(anywhere())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_files_cannot_be_deleted_stays_broken_until_they_can() {
    let lab = Lab::new(Script::default());
    let removed = name("a");
    lab.machines.insert(removed.clone(), config(anywhere())).await.unwrap();
    // A file in place of the directory of all machines: what is below it cannot be looked at.
    let (machines, aside) =
        (lab.state.machine(&removed).root().parent().unwrap().to_owned(), lab._tmp.path().join("aside"));
    std::fs::rename(&machines, &aside).unwrap();
    std::fs::write(&machines, "").unwrap();
    let report = lab.machines.remove(&removed).await.unwrap_err();
    assert!(report.message.starts_with("the machine a could not be deleted: "), "{report:?}");
    assert!(report.hints.last().unwrap().contains("`darwin-vz-nix --machine a destroy`"), "{report:?}");
    std::fs::remove_file(&machines).unwrap();
    std::fs::rename(&aside, &machines).unwrap();

    // The minute after which a broken machine is tried again, and a start.
    sleep(Duration::from_secs(200)).await;
    let broken = State::Broken { cause: report.clone() };
    assert_eq!(lab.state_of(&removed), Some(broken.clone()));
    assert_eq!(lab.machines.ready(&removed, true).await.map(drop).unwrap_err(), report);
    assert_eq!(lab.machines.insert(removed.clone(), config(anywhere())).await.map(drop).unwrap_err().kind, Kind::Busy);
    assert_eq!(lab.state_of(&removed), Some(broken));
    lab.machines.delete(&removed, Keep::default()).await.unwrap();
    assert!(lab.machines.status().is_empty() && !lab.state.machine(&removed).root().exists());
}

#[tokio::test]
async fn a_deletion_creates_a_declared_machine_again_and_removes_any_other() {
    let lab = Lab::new(Script::default());
    let [declared, other, damaged] = ["a", "b", "c"].map(name);
    lab.machines.declare(declared.clone(), config(anywhere())).await.unwrap();
    lab.machines.insert(other.clone(), config(anywhere())).await.unwrap();
    let disk = lab.state.machine(&declared).data_disk();
    std::fs::write(&disk, "x").unwrap();
    lab.machines.delete(&declared, Keep::default()).await.unwrap();
    assert!(!disk.exists());
    lab.machines.get(&declared).unwrap().start(Sizes::default()).await.unwrap();

    let in_part = Keep { keys: true, generations: false };
    assert_eq!(lab.machines.delete(&other, in_part).await.unwrap_err().kind, Kind::Config);
    lab.machines.delete(&other, Keep::default()).await.unwrap();
    assert!(!lab.state.machine(&other).root().exists());
    assert_eq!(lab.machines.get(&other).map(drop).unwrap_err().kind, Kind::NotFound);

    // The deletion of its files repairs a machine.
    lab.breaks(&damaged);
    lab.machines.declare(damaged.clone(), config(anywhere())).await.map(drop).unwrap_err();
    lab.is_mended();
    lab.machines.delete(&damaged, Keep::default()).await.unwrap();
    lab.machines.get(&damaged).unwrap();
}
