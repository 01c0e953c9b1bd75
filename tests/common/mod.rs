//! The API, served over a real Unix socket, with a fake daemon behind it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]
#![allow(dead_code, reason = "each test program uses a part")]

mod library;

#[allow(unused_imports, reason = "each test program uses a part")]
pub use library::vm;

use dvn_config::{GIB, HostFacts};
use dvn_host::api_token::TokenFile;
use dvn_http::{
    control::{Change, Control, Tunnel},
    server,
};
use dvn_hypervisor::GuestStream;
use dvn_types::{
    Arch, Kind, MachineName, Report, Service,
    wire::{
        BackendView, BootList, BootOutcome, BootRecord, BootTimeline, ConfigView, Connection, Connections,
        DaemonStatus, DestroyRequest, Event, GenerationList, GenerationStatus, GenerationsStatus, MachineStatus,
        SOCKET_NAME, SettingView, StartRequest, State, Stopped, StoreStatus, TimelinePhase, Trimmed, Verdict, Vm, What,
    },
};
use futures_util::future::BoxFuture;
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{broadcast, watch},
};
use tokio_util::sync::CancellationToken;

/// The computer on which the fake daemon runs.
pub const HOST: HostFacts = HostFacts { cores: 8, memory: 16 * GIB, arch: None, rosetta: false, nix: false };

/// A daemon with the machines `builder` and `stuck`, whose boots never end.
pub struct Fake {
    dir: PathBuf,
    state: Mutex<(State, Option<BootTimeline>)>,
    generation: watch::Sender<u64>,
    /// For tests to send.
    pub events: broadcast::Sender<Event>,
    /// The calls, in order.
    pub calls: Mutex<Vec<String>>,
    /// Pending boots of `stuck`.
    pub waiting: Arc<AtomicUsize>,
    /// Holding it delays the stop of guests.
    pub brake: tokio::sync::Mutex<()>,
    /// Completed calls that stop all guests, or delete state.
    pub finished: AtomicUsize,
    /// The error of the next start or connection.
    pub fault: Mutex<Option<Report>>,
    /// The machines of its library.
    pub library: Mutex<Vec<Vm>>,
}

/// The server, until dropped.
pub struct Server {
    /// The daemon behind it.
    pub fake: Arc<Fake>,
    /// Its state directory.
    pub dir: tempfile::TempDir,
    /// Its TCP address, if any.
    pub tcp: Option<SocketAddr>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<(), Report>>>,
}

impl Server {
    /// Serves in a new thread, with a new state directory.
    pub fn new() -> Server {
        Server::at(crate::common::private_dir())
    }

    /// Serves in that state directory.
    pub fn at(dir: tempfile::TempDir) -> Server {
        Server::with(dir, None)
    }

    /// Serves on TCP, too, with the token in its state directory.
    pub fn on_tcp(address: &str) -> Server {
        Server::with(crate::common::private_dir(), Some(address))
    }

    fn with(dir: tempfile::TempDir, tcp: Option<&str>) -> Server {
        let fake = Arc::new(Fake::new(dir.path()));
        let stop = CancellationToken::new();
        let (ready, served) = std::sync::mpsc::channel();
        let (control, token, socket) = (fake.clone(), stop.clone(), dir.path().join(SOCKET_NAME));
        let tcp = tcp.map(|address| std::net::TcpListener::bind(address).unwrap());
        let tcp_address = tcp.as_ref().map(|listener| listener.local_addr().unwrap());
        let secret = tcp.is_some().then(|| TokenFile::at(dir.path().join("api-token")).unwrap());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = server::bind(&socket).unwrap();
                if let (Some(listener), Some(secret)) = (tcp, secret) {
                    listener.set_nonblocking(true).unwrap();
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    tokio::spawn(server::serve_tcp(listener, secret, control.clone(), HOST, token.clone()));
                }
                ready.send(()).unwrap();
                server::serve(listener, control, HOST, token).await
            })
        });
        served.recv().unwrap();
        Server { fake, dir, tcp: tcp_address, stop, thread: Some(thread) }
    }

    /// The state directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until it is shut down from elsewhere.
    pub fn join(mut self) -> Result<(), Report> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.fake.calls.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Fake {
    /// With its logs in that directory.
    pub fn new(dir: &Path) -> Fake {
        Fake {
            dir: dir.to_owned(),
            state: Mutex::new((State::Stopped { last_exit: None }, None)),
            generation: watch::Sender::new(1),
            events: broadcast::Sender::new(4),
            calls: Mutex::default(),
            waiting: Arc::default(),
            brake: tokio::sync::Mutex::default(),
            finished: AtomicUsize::new(0),
            fault: Mutex::default(),
            library: Mutex::default(),
        }
    }

    /// Moves to another state, as the lifecycle would.
    pub fn moved(&self, state: State) {
        self.state.lock().unwrap().0 = state;
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn called(&self, what: String) -> Result<(), Report> {
        self.calls.lock().unwrap().push(what);
        self.fault.lock().unwrap().take().map_or(Ok(()), Err)
    }

    async fn finish(&self) {
        let _let_go = self.brake.lock().await;
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    fn known(&self, machine: &MachineName) -> Result<(), Report> {
        match machine.as_str() {
            "builder" | "stuck" => Ok(()),
            other => {
                Err(Report::new(Kind::NotFound, format!("there is no machine {other}"))
                    .hint("there are: builder, stuck"))
            }
        }
    }
}

/// The timeline of every fake boot.
pub fn timeline() -> BootTimeline {
    let phase = |name: &str, at_ms| TimelinePhase { name: name.to_owned(), at_ms };
    BootTimeline {
        demand_unix_ms: 1_700_000_000_000,
        phases: vec![phase("prepared", 12), phase("guest: kernel", 900), phase("ssh banner", 2345)],
        data_disk: "kept".to_owned(),
        kernel: "6.1.0".to_owned(),
    }
}

/// A successful boot that has ended, and a failed one before it.
pub fn boots() -> Vec<BootRecord> {
    let good = BootRecord {
        number: 8,
        begun_unix_ms: 1_700_000_060_000,
        ready_unix_ms: Some(1_700_000_062_345),
        ended_unix_ms: Some(1_700_000_120_000),
        outcome: BootOutcome::Ended { exit: "powered-off".to_owned() },
        bundle: Some("/bundle".into()),
        cores: 4,
        memory: 8 * GIB,
        console_bytes: Some(1000),
    };
    let why = Report::new(Kind::Boot, "the kernel panicked; the console says why: VFS").hint("see the console");
    let failed = BootRecord {
        number: 7,
        begun_unix_ms: 1_700_000_000_000,
        ready_unix_ms: None,
        outcome: BootOutcome::Failed { why },
        ..good.clone()
    };
    vec![good, failed]
}

/// An event with that number.
pub fn event(id: u64) -> Event {
    Event { id, unix_ms: 7, machine: "builder".parse().unwrap(), what: What::State { state: State::Starting } }
}

/// Two generations: the configured bundle and one built from a recipe.
pub fn generations() -> GenerationList {
    let floor = GenerationStatus {
        number: 0,
        bundle: Some("/bundle".into()),
        recipe: None,
        output: None,
        built_unix_ms: None,
        verdict: Verdict::Good,
    };
    let why = Report::new(Kind::Boot, "the kernel panicked");
    let bad = GenerationStatus {
        number: 1,
        recipe: Some("/nix/store/r.drv".into()),
        verdict: Verdict::Bad { why },
        ..floor.clone()
    };
    GenerationList {
        status: GenerationsStatus { current: 0, running: Some(0), prospect: None },
        recipe: None,
        held: false,
        generations: vec![floor, bad],
    }
}

impl Control for Fake {
    fn status(&self) -> DaemonStatus {
        let (state, last_boot) = self.state.lock().unwrap().clone();
        DaemonStatus {
            generation: *self.generation.borrow(),
            version: "0.1.0".to_owned(),
            pid: 1,
            machines: vec![MachineStatus {
                name: "builder".parse().unwrap(),
                backend: "fake".to_owned(),
                accelerator: "none".to_owned(),
                state,
                waits_for: None,
                since_unix_ms: 1_700_000_000_000,
                boots: 1,
                listen: vec!["127.0.0.1:31122".to_owned()],
                cores: 4,
                memory: 8 * GIB,
                disk_size: 100 * GIB,
                last_boot,
                generations: None,
                store: StoreStatus::default(),
            }],
        }
    }

    fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn connections(&self) -> Connections {
        let machine = "builder".parse().unwrap();
        let since_unix_ms = 1_700_000_000_000;
        let open = Connection { connection: 3, machine, door: "nix".to_owned(), since_unix_ms, sent: 5, received: 7 };
        Connections { connections: vec![open] }
    }

    fn config(&self) -> ConfigView {
        let setting = SettingView { value: "info".to_owned(), origin: "default".to_owned() };
        ConfigView { daemon: [("log-level".to_owned(), setting)].into(), ..ConfigView::default() }
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, Report>> {
        Box::pin(async { Ok("# EOF\n".to_owned()) })
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    fn console_log(&self, machine: &MachineName, boot: i64) -> Result<PathBuf, Report> {
        if self.has_vm(machine) {
            return Ok(self.dir.join(format!("console of {machine}.log")));
        }
        self.known(machine)?;
        Ok(self.dir.join(if boot == 0 { "console.log".to_owned() } else { format!("console{boot}.log") }))
    }

    fn boots(&self, machine: &MachineName) -> Result<BootList, Report> {
        self.known(machine)?;
        Ok(BootList { boots: boots() })
    }

    fn capabilities(&self, machine: &MachineName) -> Result<BackendView, Report> {
        self.known(machine)?;
        Ok(BackendView {
            backend: "fake".to_owned(),
            accelerator: "none".to_owned(),
            guests: vec![Arch::X86_64],
            features: vec![],
            search_path: "/fake/bin".to_owned(),
        })
    }

    fn build_log(&self, machine: &MachineName) -> Result<PathBuf, Report> {
        self.known(machine)?;
        Ok(self.dir.join("build.log"))
    }

    fn generations(&self, machine: &MachineName) -> Result<GenerationList, Report> {
        self.known(machine)?;
        Ok(generations())
    }

    fn change_generations(&self, machine: &MachineName, change: Change) -> Result<(), Report> {
        self.known(machine)?;
        self.called(format!("{machine} {change:?}"))
    }

    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            let running = State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 };
            if self.vm_moved(machine, running).is_ok() {
                return self.called(format!("start {machine} {request:?}"));
            }
            self.known(machine)?;
            self.called(format!("start {machine} {request:?}"))?;
            self.moved(State::Starting);
            // Long enough for a client to see it, also on a busy computer.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            self.state.lock().unwrap().1 = Some(timeline());
            self.moved(State::Running { leases: 0, idle_stop_in_ms: Some(90 * 60 * 1000), builds: 0 });
            Ok(())
        })
    }

    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> BoxFuture<'a, Result<Stopped, Report>> {
        Box::pin(async move {
            if self.has_vm(machine) {
                self.called(format!("stop {machine} force={force}"))?;
                return self.stop_vm(machine, force);
            }
            self.known(machine)?;
            self.called(format!("stop {machine} force={force}"))?;
            self.moved(State::Stopped { last_exit: Some("powered-off".to_owned()) });
            Ok(Stopped { exit: Some("powered-off".to_owned()), discarded: false })
        })
    }

    fn pause<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            if self.vm_moved(machine, State::Paused { leases: 0, resuming: false }).is_ok() {
                return self.called(format!("pause {machine}"));
            }
            self.known(machine)?;
            self.called(format!("pause {machine}"))?;
            self.moved(State::Paused { leases: 1, resuming: false });
            Ok(())
        })
    }

    fn resume<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            if self.vm_moved(machine, State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 }).is_ok() {
                return self.called(format!("resume {machine}"));
            }
            self.known(machine)?;
            self.called(format!("resume {machine}"))?;
            self.moved(State::Running { leases: 1, idle_stop_in_ms: None, builds: 0 });
            Ok(())
        })
    }

    fn trim<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Trimmed, Report>> {
        Box::pin(async move {
            self.known(machine)?;
            self.called(format!("trim {machine}"))?;
            Ok(Trimmed { bytes: 7 << 20 })
        })
    }

    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            if self.forget_vm(machine) {
                return self.called(format!("delete {machine}"));
            }
            self.known(machine)?;
            let (keys, generations) = (keep.keep_keys, keep.keep_generations);
            self.called(format!("destroy {machine} keep_keys={keys} keep_generations={generations}"))?;
            self.finish().await;
            Ok(())
        })
    }

    fn open<'a>(
        &'a self,
        machine: &'a MachineName,
        service: Service,
    ) -> BoxFuture<'a, Result<Box<dyn Tunnel>, Report>> {
        Box::pin(async move {
            self.known(machine)?;
            self.called(format!("open {machine} {service:?}"))?;
            if machine.as_str() == "stuck" {
                let _waiting = Waiting::new(&self.waiting);
                std::future::pending::<()>().await;
            }
            Ok(Box::new(Guest(service)) as Box<dyn Tunnel>)
        })
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            drop(self.called("shut down".to_owned()));
            self.finish().await;
        })
    }
}

struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Waiting {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Its sshd sends a banner, then echoes every byte. Its nix-daemon reads to the end, then sends the number of bytes, so
/// that it answers only a client which can close one half.
struct Guest(Service);

impl Tunnel for Guest {
    fn carry(self: Box<Self>, mut client: GuestStream) -> BoxFuture<'static, io::Result<(u64, u64)>> {
        Box::pin(async move {
            match self.0 {
                Service::Ssh => {
                    client.write_all(b"SSH-2.0-fake\r\n").await?;
                    let (mut from, mut to) = tokio::io::split(client);
                    let bytes = tokio::io::copy(&mut from, &mut to).await?;
                    to.shutdown().await?;
                    Ok((bytes, bytes))
                }
                Service::Nix => {
                    let mut buffer = vec![0; 256 * 1024];
                    let mut bytes = 0;
                    loop {
                        match client.read(&mut buffer).await? {
                            0 => break,
                            n => bytes += n as u64,
                        }
                    }
                    client.write_all(format!("read {bytes}\n").as_bytes()).await?;
                    client.shutdown().await?;
                    Ok((bytes, 0))
                }
            }
        })
    }
}

/// A directory for keys: a state directory that others could read is refused.
pub fn private_dir() -> tempfile::TempDir {
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(closed).tempdir().unwrap()
}
