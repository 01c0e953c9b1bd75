//! The whole daemon: starts its parts, runs them, and ends them.

use crate::{
    budget::Budget,
    events::Events,
    machine::Machine,
    machines::{MachineFactory, Machines, pollable},
    metrics,
    options::RunOptions,
    state_dir_watch::{Loss, StateDirWatch},
    vms::{Backend, Vms},
};
use dvn_config::{HostFacts, MachineConfig, Settings};
use dvn_host::{activation::Inherited, api_token::TokenFile, machine_dir::StateDir, signals::StopSignals};
use dvn_http::server;
use dvn_types::{
    Keep, Kind, MachineName, Report,
    wire::{ConfigView, Connections, DaemonStatus, Event},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
};
use tokio::{
    net::UnixListener,
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The daemon, as the API sees it.
pub struct Daemon {
    state: StateDir,
    machines: Machines,
    /// The machines of the library.
    pub(crate) vms: Vms,
    events: Arc<Events>,
    shown: ConfigView,
}

impl Daemon {
    /// Runs until a signal or the API ends it. When this returns, no guest is left.
    pub async fn run(settings: Settings, options: RunOptions) -> Result<(), Report> {
        // First of all: a signal that arrives during the start ends the daemon once it has started.
        let stop_signals = StopSignals::watch(options.hangs_up)?;
        let state = StateDir::open(&settings.state_dir)?;
        state.demand_fit_path()?;
        let _lock = state.lock()?;
        let events = Arc::new(Events::default());
        let inherited = Inherited::take();
        // A daemon that a service manager or `start` began reports a broken machine over the API and at its sockets.
        let is_watched = !options.detached && inherited.is_empty();
        let budget = Arc::new(Budget::of(options.host.memory, Arc::clone(&events)));
        let machines = Machines::new(factory(&state, &options, &events, inherited, &budget));
        let declared = settings.machines.keys().cloned().collect();
        let backend = backend(&settings, &options);
        let vms = Vms::open(&state, declared, backend, Arc::clone(&events), budget)?;
        let broken = open(&machines, settings.machines).await;
        if let (true, Some(report)) = (is_watched && machines.working().is_empty(), broken) {
            return Err(report);
        }
        let tcp = match settings.api_listen {
            Some(address) => Some((pollable(machines.listen(address)?)?, TokenFile::at(state.api_token())?)),
            None => None,
        };
        for address in machines.left_over() {
            tracing::warn!("the service manager handed over a socket for {address}, and no machine listens there");
        }
        let api = server::bind(&state.api_socket())?;
        let state_dir = StateDirWatch::of(&state, &events)?;
        let daemon = Arc::new(Daemon { state, machines, vms, events, shown: options.shown });
        daemon.machines.serve();
        let stop = CancellationToken::new();
        if let Some((listener, token)) = tcp {
            tracing::info!(address = ?listener.local_addr().ok(), "the API answers on TCP, to clients with the token");
            let served = server::serve_tcp(listener, token, Arc::clone(&daemon) as _, options.host, stop.clone());
            tokio::spawn(async move {
                if let Err(report) = served.await {
                    tracing::error!("{report}");
                }
            });
        }
        let signals = tokio::spawn(end_on_signal(stop_signals, Arc::clone(&daemon), stop.clone()));
        // Fails if no service manager waits for it.
        let _ = sd_notify::notify(true, &[sd_notify::NotifyState::Ready]);

        let served = Arc::clone(&daemon).serve(api, state_dir, options.host, stop).await;
        signals.abort();
        daemon.shut_down().await;
        served
    }

    /// Serves the API until `stop`, or until the state directory is gone. Removes the socket at the end.
    async fn serve(
        self: Arc<Self>,
        api: UnixListener,
        mut state_dir: StateDirWatch,
        host: HostFacts,
        stop: CancellationToken,
    ) -> Result<(), Report> {
        let mut servers = JoinSet::new();
        servers.spawn(server::serve(api, Arc::clone(&self) as _, host, stop.clone()));
        let served = loop {
            let loss = tokio::select! {
                Some(served) = servers.join_next() => {
                    break served.unwrap_or_else(|e| Err(Report::new(Kind::Internal, format!("the API's server was lost: {e}"))));
                }
                loss = state_dir.lost() => loss,
            };
            match loss {
                Loss::Socket => {
                    let api = server::bind(&self.state.api_socket())?;
                    state_dir
                        .has_new_socket()
                        .map_err(|e| Report::new(Kind::State, format!("the API's socket is gone: {e}")))?;
                    tracing::warn!("the API's socket was deleted or replaced, and is created again");
                    // Existing connections stay.
                    servers.spawn(server::serve(api, Arc::clone(&self) as _, host, stop.clone()));
                }
                Loss::Directory(report) => {
                    tracing::error!("{report}");
                    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
                    self.shut_down().await;
                    stop.cancel();
                    break Err(report);
                }
            }
        };
        state_dir.remove_socket();
        served
    }

    /// The current status of the daemon and its machines.
    pub fn status(&self) -> DaemonStatus {
        DaemonStatus {
            generation: *self.events.generation().borrow(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            machines: self.machines.status(),
        }
    }

    /// Changes with every change of the status.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.events.generation()
    }

    /// The events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The open connections.
    pub fn connections(&self) -> Connections {
        Connections { connections: self.events.connections() }
    }

    /// The settings in effect.
    pub fn config(&self) -> ConfigView {
        self.shown.clone()
    }

    /// The metrics, in the text format of OpenMetrics.
    pub async fn metrics(&self) -> Result<String, Report> {
        let (machines, broken) = (self.machines.working(), self.machines.broken());
        let samples = futures_util::future::join_all(machines.iter().map(|machine| machine.sample())).await;
        metrics::render(&samples, &broken, &self.events)
    }

    /// The machine of this name, as it is.
    pub fn machine(&self, name: &MachineName) -> Result<Arc<Machine>, Report> {
        self.machines.get(name)
    }

    /// The machine of this name, opened first if it is broken.
    pub async fn ready(&self, name: &MachineName, insist: bool) -> Result<Arc<Machine>, Report> {
        self.machines.ready(name, insist).await
    }

    /// The daemon's own log.
    pub fn log_file(&self) -> PathBuf {
        self.state.daemon_log()
    }

    /// Stops a machine and deletes its state. A machine that the configuration declares is created again, any other removed.
    pub async fn destroy(&self, name: &MachineName, keep: Keep) -> Result<(), Report> {
        self.machines.delete(name, keep).await
    }

    /// Stops every guest, at the same time.
    pub async fn shut_down(&self) {
        tokio::join!(self.machines.shut_down(), self.vms.shut_down());
    }
}

/// The backend of the library's machines: that of the configuration's first machine.
fn backend(settings: &Settings, options: &RunOptions) -> Box<Backend> {
    let search_path = options.search_path.clone();
    let first = settings.machines.values().next();
    let (name, accelerator) = first.map_or((None, None), |it| (it.hardware.backend, it.hardware.accelerator.clone()));
    Box::new(move || dvn_hypervisor::for_this_host(name, &search_path, accelerator.as_deref()))
}

fn factory(
    state: &StateDir,
    options: &RunOptions,
    events: &Arc<Events>,
    inherited: Inherited,
    budget: &Arc<Budget>,
) -> MachineFactory {
    let (its_state, its_options, its_events) = (state.clone(), options.clone(), Arc::clone(events));
    let budget = Arc::clone(budget);
    MachineFactory {
        state: state.clone(),
        events: Arc::clone(events),
        open: Box::new(move |name, config| {
            let (name, config) = (name.clone(), Arc::clone(config));
            Machine::new(name, config, &its_state, &its_options, Arc::clone(&its_events), Arc::clone(&budget))
        }),
        inherited: Mutex::new(inherited),
        serving: AtomicBool::new(false),
    }
}

/// Opens the configured machines. Returns the reason of the first one that is broken, if one is.
async fn open(machines: &Machines, configured: BTreeMap<MachineName, MachineConfig>) -> Option<Report> {
    let mut broken = None;
    for (name, config) in configured {
        if let Err(report) = machines.declare(name, config).await {
            broken.get_or_insert(report);
        }
    }
    if machines.working().is_empty() {
        tracing::error!("no machine works; `darwin-vz-nix status` says why");
    }
    broken
}

/// The first signal stops the guests as `stop` does; a second one kills them.
async fn end_on_signal(mut stop_signals: StopSignals, daemon: Arc<Daemon>, stop: CancellationToken) {
    stop_signals.next().await;
    tracing::info!("stopping, as a signal asked");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    tokio::select! {
        () = daemon.shut_down() => {}
        () = stop_signals.next() => {
            tracing::warn!("a second signal: the guests are killed");
            let machines = daemon.machines.working();
            let builders = futures_util::future::join_all(machines.iter().map(|machine| machine.stop(true)));
            tokio::join!(builders, daemon.vms.kill());
        }
    }
    stop.cancel();
}
