//! The daemon as a whole: starts all of it, keeps it, and ends it.

use crate::{
    chronicle::Chronicle,
    home::{Home, Loss},
    machine::Machine,
    metrics,
    options::RunOptions,
    ssh_listener,
};
use dvn_config::{HostFacts, Settings};
use dvn_host::{activation::Inherited, api_token::TokenFile, machine_dir::StateDir, signals::StopSignals};
use dvn_http::server;
use dvn_types::{
    Keep, Kind, MachineName, Report,
    wire::{ConfigView, Connections, DaemonStatus, Event},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The daemon, as the API sees it.
pub struct Daemon {
    state: StateDir,
    machines: BTreeMap<MachineName, Arc<Machine>>,
    chronicle: Arc<Chronicle>,
    shown: ConfigView,
}

impl Daemon {
    /// Runs until a signal or the API ends it. When it returns, no guest is left.
    pub async fn run(settings: Settings, options: RunOptions) -> Result<(), Report> {
        // First: one that comes while the daemon is put together ends it once it is.
        let stop_signals = StopSignals::watch(options.hangs_up)?;
        let state = StateDir::open(&settings.state_dir)?;
        let _lock = state.lock()?;
        let chronicle = Arc::new(Chronicle::default());
        let mut machines = BTreeMap::new();
        let mut doors = Vec::new();
        let mut inherited = Inherited::take()?;
        for (name, settings) in settings.machines {
            let listen = settings.listen;
            let machine = Arc::new(Machine::new(name.clone(), settings, &state, &options, Arc::clone(&chronicle))?);
            doors.push((pollable(inherited.listen(listen)?)?, Arc::clone(&machine)));
            machines.insert(name, machine);
        }
        let tcp = match settings.api_listen {
            Some(address) => Some((pollable(inherited.listen(address)?)?, TokenFile::at(state.api_token())?)),
            None => None,
        };
        for address in inherited.left_over() {
            tracing::warn!("the service manager handed over a socket for {address}, and no machine listens there");
        }
        let api = server::bind(&state.api_socket())?;
        let home = Home::of(&state, &chronicle)?;
        let daemon = Arc::new(Daemon { state, machines, chronicle, shown: options.shown });
        for (listener, machine) in doors {
            // Not before the API has its socket, through which the host's `nix` comes to the guest.
            machine.keep_generations();
            tracing::info!(machine = %machine.name(), address = %machine.settings().listen, "waiting for connections");
            tokio::spawn(ssh_listener::serve_ssh(listener, machine));
        }
        let stop = CancellationToken::new();
        if let Some((listener, token)) = tcp {
            tracing::info!(address = ?listener.local_addr().ok(), "the API answers on TCP, to whoever has the token");
            let served = server::serve_tcp(listener, token, Arc::clone(&daemon) as _, options.host, stop.clone());
            tokio::spawn(async move {
                if let Err(report) = served.await {
                    tracing::error!("{report}");
                }
            });
        }
        let signals = tokio::spawn(end_on_signal(stop_signals, Arc::clone(&daemon), stop.clone()));
        // Fails where no service manager waits for it.
        let _ = sd_notify::notify(true, &[sd_notify::NotifyState::Ready]);

        let served = Arc::clone(&daemon).serve(api, home, options.host, stop).await;
        signals.abort();
        daemon.shut_down().await;
        served
    }

    /// Answers until `stop`, for as long as the state directory is there; then no socket is left that looks alive.
    async fn serve(
        self: Arc<Self>,
        api: UnixListener,
        mut home: Home,
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
                loss = home.lost() => loss,
            };
            match loss {
                Loss::Socket => {
                    let api = server::bind(&self.state.api_socket())?;
                    home.has_new_socket()
                        .map_err(|e| Report::new(Kind::State, format!("the API's socket is gone: {e}")))?;
                    tracing::warn!("the API's socket was deleted or replaced, and is made anew");
                    // Who is connected already goes on.
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
        home.remove_socket();
        served
    }

    /// Everything, now.
    pub fn status(&self) -> DaemonStatus {
        DaemonStatus {
            generation: *self.chronicle.generation().borrow(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            machines: self.machines.values().map(|machine| machine.status()).collect(),
        }
    }

    /// Changes with every change of the status.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.chronicle.generation()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.chronicle.events()
    }

    /// What goes through the doors now.
    pub fn connections(&self) -> Connections {
        Connections { connections: self.chronicle.connections() }
    }

    /// The settings that it goes by.
    pub fn config(&self) -> ConfigView {
        self.shown.clone()
    }

    /// What it counts, in the text format of OpenMetrics.
    pub async fn metrics(&self) -> Result<String, Report> {
        let samples = futures_util::future::join_all(self.machines.values().map(|machine| machine.sample())).await;
        metrics::render(&samples, &self.chronicle)
    }

    /// The machine of this name.
    pub fn machine(&self, name: &MachineName) -> Result<Arc<Machine>, Report> {
        self.machines.get(name).cloned().ok_or_else(|| {
            let names = self.machines.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", ");
            Report::new(Kind::NotFound, format!("there is no machine {name}")).hint(format!("there is: {names}"))
        })
    }

    /// The daemon's own log.
    pub fn log_file(&self) -> PathBuf {
        self.state.daemon_log()
    }

    /// Stops a machine and deletes its state; what the next start needs is made again.
    pub async fn destroy(&self, name: &MachineName, keep: Keep) -> Result<(), Report> {
        self.machine(name)?.destroy(&self.state, keep).await
    }

    /// Stops every guest, at the same time.
    pub async fn shut_down(&self) {
        futures_util::future::join_all(self.machines.values().map(|machine| machine.shut_down())).await;
    }
}

fn pollable(listener: std::net::TcpListener) -> Result<TcpListener, Report> {
    TcpListener::from_std(listener).map_err(|e| Report::new(Kind::Internal, format!("cannot poll a socket: {e}")))
}

/// The first signal stops the guests as `stop` does; a second one pulls their plugs.
async fn end_on_signal(mut stop_signals: StopSignals, daemon: Arc<Daemon>, stop: CancellationToken) {
    stop_signals.next().await;
    tracing::info!("stopping, as a signal asked");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    tokio::select! {
        () = daemon.shut_down() => {}
        () = stop_signals.next() => {
            tracing::warn!("a second signal: the guests are killed");
            let machines = daemon.machines.values();
            futures_util::future::join_all(machines.map(|machine| machine.stop(true))).await;
        }
    }
    stop.cancel();
}
