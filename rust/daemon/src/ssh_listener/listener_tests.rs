//! The SSH listener under many clients: real TCP, the real supervisor, and a guest in memory that echoes.

use super::door::{Bounds, Target, serve_within};
use crate::{
    connection::Connection,
    events::Events,
    machine::{Machine, Parts},
};
use dvn_config::{BuilderConfig, LifecyclePolicy, MachineConfig};
use dvn_host::{connection_slots::SlotLimits, machine_dir::StateDir};
use dvn_hypervisor::{
    sim::{Script, Sim},
    sim_agent,
};
use dvn_types::{MachineName, Report, Service, Sizes, wire::State};
use futures_util::future::BoxFuture;
use std::{fs, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Longest wait for anything here.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Door {
    _tmp: tempfile::TempDir,
    machine: Arc<Machine>,
    pub(super) address: SocketAddr,
    pub(super) sim: Sim,
}

pub(super) async fn door(script: Script, idle_timeout: Option<Duration>) -> Door {
    bounded_door(script, idle_timeout, Bounds::default()).await
}

pub(super) async fn bounded_door(script: Script, idle_timeout: Option<Duration>, bounds: Bounds) -> Door {
    let tmp = tempfile::tempdir().unwrap();
    let name: MachineName = "builder".parse().unwrap();
    let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&name).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = MachineConfig {
        lifecycle: LifecyclePolicy { idle_timeout, ..LifecyclePolicy::sample() },
        builder: BuilderConfig { listen: address, ..BuilderConfig::sample() }.into(),
        ..MachineConfig::sample()
    };
    let sim = Sim::new(script);
    let parts = Parts::in_memory(sim.clone(), sim_agent::detached(), &dir, &config).unwrap();
    let machine = Arc::new(Machine::assemble(name, config.into(), dir, parts, Arc::new(Events::default())));
    tokio::spawn(serve_within(bounds, listener, Arc::clone(&machine) as _));
    Door { _tmp: tmp, machine, address, sim }
}

impl Target for Machine {
    fn name(&self) -> &MachineName {
        Machine::name(self)
    }

    fn is_running(&self) -> bool {
        Machine::is_running(self)
    }

    fn open(&self) -> BoxFuture<'_, Result<Connection, Report>> {
        Box::pin(Machine::open(self, Service::Ssh))
    }
}

impl Door {
    pub(super) fn leases(&self) -> u32 {
        match self.machine.status().state {
            State::Running { leases, .. } => leases,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn until_unused(&self) {
        let unused = async {
            while self.leases() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, unused).await.expect("every lease ends");
    }
}

async fn echo(address: SocketAddr, text: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(TIMEOUT, stream.read_exact(&mut back)).await.expect("an answer").unwrap();
    assert_eq!(back, text);
    // Closes with a reset, so that no socket stays in TIME_WAIT.
    stream.set_zero_linger().unwrap();
}

#[tokio::test]
async fn status_shows_the_sizes_of_the_running_guest() {
    let door = door(Script::default(), None).await;
    let shown = || {
        let status = door.machine.status();
        (status.cores, status.memory, status.disk_size)
    };
    let configured = shown();
    let larger = Sizes { cores: Some(configured.0 + 1), memory: Some(configured.1 * 2), disk_size: None };
    let asked = (configured.0 + 1, configured.1 * 2, configured.2);
    door.machine.start(larger).await.unwrap();
    assert_eq!(shown(), asked);
    // A refused start changes nothing, nor does one for the running guest.
    door.machine.start(Sizes { cores: Some(1), ..larger }).await.unwrap_err();
    door.machine.start(Sizes::default()).await.unwrap();
    assert_eq!(shown(), asked);
    door.machine.stop(false).await.unwrap();
    assert_eq!(shown(), configured);
    // The next guest boots for a connection, which requests no sizes.
    echo(door.address, b"hello").await;
    assert_eq!(shown(), configured);
}

fn descriptors() -> usize {
    fs::read_dir("/dev/fd").unwrap().count()
}

#[tokio::test]
async fn two_hundred_at_a_cold_start_share_one_boot_and_three_thousand_in_turn_leave_nothing() {
    let door = door(Script::default(), None).await;
    let mut crowd = JoinSet::new();
    for n in 0_u32..200 {
        let address = door.address;
        crowd.spawn(async move { echo(address, &n.to_be_bytes()).await });
    }
    crowd.join_all().await;
    door.until_unused().await;
    assert_eq!(door.sim.counters().boots.load(std::sync::atomic::Ordering::SeqCst), 1);

    let before = descriptors();
    for n in 0_u32..3000 {
        echo(door.address, &n.to_be_bytes()).await;
    }
    door.until_unused().await;
    // Other tests of this process have some descriptors, too; a leak would be thousands.
    assert!(descriptors() < before + 300, "{} descriptors, {before} before", descriptors());
}

#[tokio::test]
async fn after_a_failed_boot_the_client_gets_the_reason_and_is_closed() {
    let door = door(Script { boot_error: Some("no such kernel".into()), ..Script::default() }, None).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let mut said = String::new();
    timeout(TIMEOUT, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with("darwin-vz-nix: ") && said.contains("no such kernel"), "{said}");
}

#[tokio::test]
async fn the_lease_of_a_silent_connection_is_inactive_until_the_next_byte() {
    let silence = Duration::from_secs(2);
    let door = door(Script::default(), Some(silence)).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let mut say = async |text: &[u8]| {
        stream.write_all(text).await.unwrap();
        let mut back = vec![0; text.len()];
        timeout(TIMEOUT, stream.read_exact(&mut back)).await.expect("an answer").unwrap();
        assert_eq!(back, text, "it still is a connection");
    };
    say(b"hello").await;
    assert_eq!(door.leases(), 1);
    door.until_unused().await;
    say(b"again").await;
    let used = async {
        while door.leases() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(silence, used).await.expect("it counts again before its guest would be stopped");
    stream.set_zero_linger().unwrap();
    drop(stream);
    door.until_unused().await;
}

#[tokio::test]
async fn a_guest_with_only_a_silent_connection_stops() {
    let door = door(Script::default(), Some(Duration::from_millis(300))).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let mut rest = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.expect("the guest ends, and the connection with it").unwrap();
    assert!(matches!(door.machine.status().state, State::Stopping { .. } | State::Stopped { .. }));
}

#[tokio::test]
async fn without_a_free_slot_a_client_waits_until_there_is_one() {
    let bounds = Bounds::default();
    let room = SlotLimits { unauthenticated: 2, all: 2, ..bounds.room };
    let door = bounded_door(Script::default(), None, Bounds { room, ..bounds }).await;
    let mut crowd = vec![];
    for _ in 0..3 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        crowd.push(stream);
    }
    let mut last = crowd.pop().unwrap();
    for stream in &mut crowd {
        timeout(TIMEOUT, stream.read_exact(&mut [0])).await.expect("these have slots").unwrap();
    }
    assert!(timeout(Duration::from_millis(200), last.readable()).await.is_err(), "there are two slots");
    crowd.pop().unwrap().set_zero_linger().unwrap();
    timeout(TIMEOUT, last.read_exact(&mut [0])).await.expect("now there is one").unwrap();
}
