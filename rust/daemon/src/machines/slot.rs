//! One machine's slot in the list: the machine, or the reason why it is broken, and its SSH port.
//!
//! ```text
//!            bind its port, open it                    DELETE, where no configuration declares it
//!   Broken ─────────────────────────▶ Works ────────────────────────────────────────────▶ Gone
//!     │  ▲                                                                                  ▲
//!     │  └─ a start; a connection or the next minute, but not within a second of the last   │
//!     └─────────────────────────────────────────────────────────────────────────────────────┤
//!                                                  its files cannot be deleted: Undeleted ◀─┘
//! ```
//!
//! An undeleted machine is listed as broken. Only another DELETE tries again; the machine is not opened any more.
//!
//! The rule: a slot owns everything that belongs to its machine, so nothing of the machine is left when the slot is dropped. The
//! port is bound before the machine is opened and stays bound while the machine is broken: a client that connects gets the
//! reason.

use crate::{
    connection::Connection,
    events::Events,
    machine::Machine,
    ssh_listener::{self, Target},
};
use dvn_config::MachineConfig;
use dvn_host::{activation::Inherited, blocking, machine_dir::StateDir};
use dvn_hypervisor::BACKENDS;
use dvn_types::{
    Keep, Kind, MachineName, Report, Service, unix_ms,
    wire::{MachineStatus, State, StoreStatus},
};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// How often the daemon tries to open a broken machine.
const AGAIN: Duration = Duration::from_secs(60);

/// For this long after a failed attempt, connections get its reason without another attempt.
const QUIET: Duration = Duration::from_secs(1);

/// Opens a machine with this name and configuration. Blocks.
pub type Opener = dyn Fn(&MachineName, &Arc<MachineConfig>) -> Result<Machine, Report> + Send + Sync;

/// Opens the machines; shared by all slots.
pub struct MachineFactory {
    /// Has the files of the machines.
    pub state: StateDir,
    /// Publishes their changes.
    pub events: Arc<Events>,
    /// Opens a machine.
    pub open: Box<Opener>,
    /// Sockets that a service manager handed over, until their machines take them.
    pub inherited: Mutex<Inherited>,
    /// The API has its socket: clients are admitted, and generations are reconciled.
    pub serving: AtomicBool,
}

/// A machine's slot.
pub struct Slot {
    me: Weak<Slot>,
    name: MachineName,
    config: Arc<MachineConfig>,
    /// A configuration declares the machine, so it is created again when it is deleted.
    declared: bool,
    factory: Arc<MachineFactory>,
    entry: Mutex<Entry>,
    /// Locked while the machine is opened, deleted or removed.
    alone: tokio::sync::Mutex<()>,
}

struct Entry {
    standing: Standing,
    port: Port,
    retry: Option<AbortOnDropHandle<()>>,
}

#[derive(Clone)]
enum Standing {
    /// Not tried yet.
    New,
    Works(Arc<Machine>),
    Broken {
        report: Report,
        since_unix_ms: u64,
        /// When the last attempt began, and when it ended.
        tried: (Instant, Instant),
    },
    /// Removed, but its files are still there.
    Undeleted {
        report: Report,
        since_unix_ms: u64,
    },
    Gone,
}

enum Port {
    Unbound,
    Bound(TcpListener),
    Served(AbortOnDropHandle<()>),
}

impl Slot {
    /// A slot for this machine, which is not opened yet.
    pub fn new(name: MachineName, config: MachineConfig, declared: bool, factory: Arc<MachineFactory>) -> Arc<Slot> {
        Arc::new_cyclic(|me| Slot {
            me: me.clone(),
            name,
            config: Arc::new(config),
            declared,
            factory,
            entry: Mutex::new(Entry { standing: Standing::New, port: Port::Unbound, retry: None }),
            alone: tokio::sync::Mutex::default(),
        })
    }

    /// Whether a configuration declares the machine.
    pub fn is_declared(&self) -> bool {
        self.declared
    }

    /// The machine, or why it is broken.
    pub fn machine(&self) -> Result<Arc<Machine>, Report> {
        match self.standing() {
            Standing::Works(machine) => Ok(machine),
            Standing::Broken { report, .. } | Standing::Undeleted { report, .. } => Err(report),
            Standing::New | Standing::Gone => Err(self.is_gone()),
        }
    }

    /// The machine's status, for the API.
    pub fn status(&self) -> Option<MachineStatus> {
        match self.standing() {
            Standing::Works(machine) => Some(machine.status()),
            Standing::Broken { report, since_unix_ms, .. } | Standing::Undeleted { report, since_unix_ms } => {
                Some(self.status_of_broken(report, since_unix_ms))
            }
            Standing::New | Standing::Gone => None,
        }
    }

    fn status_of_broken(&self, cause: Report, since_unix_ms: u64) -> MachineStatus {
        let (hardware, builder) = (&self.config.hardware, &self.config.builder);
        let listens = !matches!(self.entry().port, Port::Unbound);
        MachineStatus {
            name: self.name.clone(),
            backend: hardware.backend.map_or(BACKENDS.first().copied().unwrap_or("none"), |it| it.as_str()).to_owned(),
            accelerator: hardware.accelerator.clone().unwrap_or_else(|| "unknown".to_owned()),
            state: State::Broken { cause },
            waits_for: None,
            since_unix_ms,
            boots: 0,
            listen: listens.then(|| builder.listen.to_string()).into_iter().collect(),
            cores: hardware.cores,
            memory: hardware.memory,
            disk_size: builder.disk_size,
            last_boot: None,
            generations: None,
            store: StoreStatus::default(),
        }
    }

    /// The machine, opened first if it is broken. Unless the caller insists, an attempt that failed within the last second is not
    /// repeated.
    pub async fn ready(&self, insist: bool) -> Result<Arc<Machine>, Report> {
        if let Standing::Works(machine) = self.standing() {
            return Ok(machine);
        }
        let (asked, me) = (Instant::now(), self.me.upgrade().ok_or_else(|| self.is_gone())?);
        // In a separate task: a client that disconnects does not interrupt the attempt.
        let attempt = tokio::spawn(async move {
            let _alone = me.alone.lock().await;
            match me.standing() {
                Standing::Works(machine) => Ok(machine),
                Standing::Gone => Err(me.is_gone()),
                Standing::Undeleted { report, .. } => Err(report),
                Standing::Broken { report, tried: (began, ended), .. }
                    if began >= asked || !insist && ended.elapsed() < QUIET =>
                {
                    Err(report)
                }
                Standing::New | Standing::Broken { .. } => me.open().await,
            }
        });
        attempt.await.unwrap_or_else(|error| Err(self.lost(&error)))
    }

    /// Binds the port if it is not bound, and opens the machine. The caller holds `alone`.
    async fn open(&self) -> Result<Arc<Machine>, Report> {
        let began = Instant::now();
        let opened = match self.bind() {
            Ok(()) => {
                let (factory, name, config) = (Arc::clone(&self.factory), self.name.clone(), Arc::clone(&self.config));
                let opening = spawn_blocking(move || (factory.open)(&name, &config)).await;
                opening.unwrap_or_else(|error| Err(self.lost(&error))).map(Arc::new)
            }
            Err(report) => Err(report),
        };
        let opened = opened.map_err(|report| {
            report.hint("the machine is tried again by `darwin-vz-nix start`, by a connection, and once a minute")
        });
        match &opened {
            Ok(machine) => self.works(machine),
            Err(report) => self.is_broken(report.clone(), began),
        }
        self.serve();
        opened
    }

    fn bind(&self) -> Result<(), Report> {
        if !matches!(self.entry().port, Port::Unbound) {
            return Ok(());
        }
        let address = self.config.builder.listen;
        let listener = self.factory.inherited.lock().unwrap_or_else(PoisonError::into_inner).listen(address)?;
        self.entry().port = Port::Bound(pollable(listener)?);
        Ok(())
    }

    fn works(&self, machine: &Arc<Machine>) {
        let before = std::mem::replace(&mut self.entry().standing, Standing::Works(Arc::clone(machine)));
        if self.factory.serving.load(SeqCst) {
            machine.keep_generations();
        }
        if matches!(before, Standing::Broken { .. }) {
            tracing::info!(machine = %self.name, "the machine works again");
            self.factory.events.moved(&self.name, machine.status().state);
        }
        self.factory.events.changed();
    }

    fn is_broken(&self, report: Report, began: Instant) {
        let tried = (began, Instant::now());
        let mut entry = self.entry();
        if let Standing::Broken { report: before, tried: last, .. } = &mut entry.standing
            && *before == report
        {
            *last = tried;
            return;
        }
        entry.standing = Standing::Broken { report: report.clone(), since_unix_ms: unix_ms(), tried };
        if entry.retry.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            entry.retry = Some(AbortOnDropHandle::new(tokio::spawn(try_again(self.me.clone()))));
        }
        drop(entry);
        tracing::error!(machine = %self.name, "the machine is broken: {report}");
        self.factory.events.moved(&self.name, State::Broken { cause: report });
        self.factory.events.changed();
    }

    /// Starts to admit clients once the daemon serves.
    pub fn serve(&self) {
        if !self.factory.serving.load(SeqCst) {
            return;
        }
        let mut entry = self.entry();
        match std::mem::replace(&mut entry.port, Port::Unbound) {
            Port::Bound(listener) => {
                tracing::info!(machine = %self.name, address = %self.config.builder.listen, "waiting for connections");
                let target = SlotTarget { name: self.name.clone(), slot: self.me.clone() };
                let served = ssh_listener::serve_ssh(listener, Arc::new(target));
                entry.port = Port::Served(AbortOnDropHandle::new(tokio::spawn(served)));
            }
            other => entry.port = other,
        }
    }

    /// Stops the machine, deletes its files, and creates again what the next boot needs. The future must not be dropped before
    /// its end.
    pub async fn make_anew(&self, keep: Keep) -> Result<(), Report> {
        if let Standing::Works(machine) = self.standing() {
            return machine.destroy(&self.factory.state, keep).await;
        }
        let _alone = self.alone.lock().await;
        match self.standing() {
            Standing::Works(machine) => machine.destroy(&self.factory.state, keep).await,
            Standing::New | Standing::Gone => Err(self.is_gone()),
            Standing::Undeleted { report, .. } => Err(report),
            Standing::Broken { .. } => {
                blocking(|| self.factory.state.machine(&self.name).destroy(keep))?;
                // The request was to delete the files. Whether the machine works now is in its status.
                let _ = self.open().await;
                Ok(())
            }
        }
    }

    /// Stops the machine, ends its tasks, and deletes its files. The future must not be dropped before its end.
    pub async fn remove(&self) -> Result<(), Report> {
        let _alone = self.alone.lock().await;
        match self.standing() {
            Standing::New | Standing::Gone => return Err(self.is_gone()),
            Standing::Broken { .. } | Standing::Undeleted { .. } => {}
            // The only step that may fail comes first: a machine whose guest does not end stays unchanged.
            Standing::Works(machine) => machine.stop(true).await?,
        }
        let (standing, port, retry) = {
            let mut entry = self.entry();
            let standing = std::mem::replace(&mut entry.standing, Standing::Gone);
            (standing, std::mem::replace(&mut entry.port, Port::Unbound), entry.retry.take())
        };
        drop(retry);
        if let Port::Served(served) = port {
            served.abort();
            // Its connections end with it. The error only says that it was aborted.
            let _ = served.await;
        }
        if let Standing::Works(machine) = standing {
            machine.end().await;
        }
        let deleted = blocking(|| self.factory.state.machine(&self.name).destroy(Keep::default()));
        self.factory.events.forget(&self.name);
        let deleted = deleted.map_err(|why| self.is_undeleted(why));
        self.factory.events.changed();
        deleted
    }

    fn is_undeleted(&self, why: Report) -> Report {
        let message = format!("the machine {} could not be deleted: {}", self.name, why.message);
        let report = Report { message, ..why }
            .hint(format!("delete it again once that is mended: `darwin-vz-nix --machine {} destroy`", self.name));
        self.entry().standing = Standing::Undeleted { report: report.clone(), since_unix_ms: unix_ms() };
        tracing::error!(machine = %self.name, "{report}");
        self.factory.events.moved(&self.name, State::Broken { cause: report.clone() });
        report
    }

    fn is_gone(&self) -> Report {
        Report::new(Kind::NotFound, format!("the machine {} was removed", self.name))
    }

    fn lost(&self, error: &JoinError) -> Report {
        Report::new(Kind::Internal, format!("the machine {} could not be opened: {error}", self.name))
            .hint("the log says more: `darwin-vz-nix logs`")
    }

    fn standing(&self) -> Standing {
        self.entry().standing.clone()
    }

    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registers a listening socket with the runtime.
pub fn pollable(listener: std::net::TcpListener) -> Result<TcpListener, Report> {
    TcpListener::from_std(listener).map_err(|e| Report::new(Kind::Internal, format!("cannot poll a socket: {e}")))
}

/// Tries to open a broken machine until it works or is removed.
async fn try_again(slot: Weak<Slot>) {
    loop {
        sleep(AGAIN).await;
        let Some(slot) = slot.upgrade() else { return };
        let opened = slot.ready(false).await;
        if opened.is_ok() || matches!(slot.standing(), Standing::Gone) {
            return;
        }
    }
}

/// The machine behind an SSH port.
struct SlotTarget {
    name: MachineName,
    slot: Weak<Slot>,
}

impl Target for SlotTarget {
    fn name(&self) -> &MachineName {
        &self.name
    }

    fn is_running(&self) -> bool {
        self.slot.upgrade().and_then(|slot| slot.machine().ok()).is_some_and(|machine| machine.is_running())
    }

    fn open(&self) -> BoxFuture<'_, Result<Connection, Report>> {
        let slot = self.slot.upgrade();
        Box::pin(async move {
            let gone = || Report::new(Kind::NotFound, format!("the machine {} was removed", self.name));
            slot.ok_or_else(gone)?.ready(false).await?.open(Service::Ssh).await
        })
    }
}
