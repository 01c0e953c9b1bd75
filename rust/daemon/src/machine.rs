//! One machine of the daemon: its directory, its supervisor, and the connections to its guest.

mod activity;
mod asked;
mod clock;
mod entry;
mod hang;
mod host_awake;
mod monitor;
pub(crate) mod observe;
mod parts;
mod provision;
mod reach;
mod store_hold;
#[cfg(test)]
mod watched;

use super::{
    budget::Budget,
    events::Events,
    metrics::{Load, Sample},
    options::RunOptions,
    reservation::{Budgeted, Reservation},
};
use crate::views;
use activity::{Activities, Activity, Uses};
use asked::Overheard;
use clock::GuestClock;
use dvn_config::MachineConfig;
use dvn_generations::{Files, Generations, Nix, Reconciler};
use dvn_guest::{
    boots::{self, Boots},
    builder::WarmConnection,
    disk,
    sharing::Sharing,
};
use dvn_host::{
    blocking,
    machine_dir::{MachineDir, StateDir},
};
use dvn_hypervisor::{Capabilities, Exit};
use dvn_lifecycle::{Handle, Phase, Policy, Snapshot};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{
    Keep, Kind, MachineName, Report, Sizes,
    wire::{BackendView, BootList, GenerationList, GenerationsStatus, MachineStatus, StoreStatus, Trimmed},
};
use monitor::Monitor;
pub use parts::Parts;
use reach::Reach;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// A machine that the daemon manages.
pub struct Machine {
    name: MachineName,
    config: Arc<MachineConfig>,
    dir: MachineDir,
    capabilities: Capabilities,
    handle: Handle,
    activities: Activities,
    clock: Arc<GuestClock>,
    reach: Reach,
    warm: WarmConnection,
    reservation: Arc<Reservation>,
    events: Arc<Events>,
    connect_program: Vec<u8>,
    sharing: Option<Arc<Sharing>>,
    /// Locked for writing while the machine's files or its guest are replaced, and for reading by every call that may boot.
    files: Arc<Files>,
    generations: Arc<Generations>,
    boots: Boots,
    nix: Nix,
    reconciler: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Locked while its files are deleted and created again.
    destroying: tokio::sync::Mutex<()>,
    watchers: Mutex<JoinSet<()>>,
}

/// How long a guest may take to answer with its load: clients that gather metrics have short timeouts, too.
const LOAD_TIMEOUT: Duration = Duration::from_secs(2);

impl Machine {
    /// Creates what is missing in the machine's directory, and starts its tasks. Does not boot.
    pub fn new(
        name: MachineName,
        config: Arc<MachineConfig>,
        state: &StateDir,
        options: &RunOptions,
        events: Arc<Events>,
        budget: Arc<Budget>,
    ) -> Result<Machine, Report> {
        let (dir, parts) = Parts::make(&name, &config, state, options, budget)?;
        Ok(Machine::assemble(name, config, dir, parts, events))
    }

    /// A machine of these parts; creates no files.
    pub fn assemble(
        name: MachineName,
        config: Arc<MachineConfig>,
        dir: MachineDir,
        parts: Parts,
        events: Arc<Events>,
    ) -> Machine {
        let capabilities = parts.hypervisor.capabilities().clone();
        let activity = Arc::new(watch::Sender::<Activity>::default());
        let activities = activity.subscribe();
        let reservation = Arc::new(Reservation::new(parts.budget, name.clone(), config.hardware.memory));
        let lifecycle = config.lifecycle;
        let handle = dvn_lifecycle::spawn_gated(
            Some(Arc::clone(&reservation) as _),
            name.clone(),
            Arc::new(Budgeted { hypervisor: parts.hypervisor, reservation: Arc::clone(&reservation) }),
            Arc::new(Overheard::new(parts.provider, Arc::clone(&activity))),
            Policy::new(lifecycle.idle_timeout, lifecycle.stop_grace, lifecycle.boot_timeout),
        );
        let clock = Arc::new(GuestClock::new(name.clone()));
        let hang_timeout = lifecycle.hang_timeout;
        let uses = || Uses::of(activities.clone());
        let (of, to) = (|| name.clone(), || Arc::clone(&events));
        let mut watchers = JoinSet::new();
        watchers.spawn(Monitor { name: of(), handle: handle.clone(), activity, hang_timeout }.run());
        watchers.spawn(hang::watch(of(), handle.clone(), activities.clone(), hang_timeout));
        watchers.spawn(host_awake::during(of(), uses(), parts.assertion));
        watchers.spawn(clock::during(Arc::clone(&clock), handle.clone(), uses()));
        if let Some(sharing) = parts.sharing.clone() {
            let rest = move |unused: &dyn Fn() -> bool| sharing.rest_if(unused);
            watchers.spawn(store_hold::let_go(handle.clone(), activities.clone(), rest));
        }
        let builds = {
            let activities = activities.clone();
            move || activities.borrow().builds_alone()
        };
        watchers.spawn(Arc::clone(&reservation).give_way(handle.clone(), builds));
        watchers.spawn(observe::lifecycle(of(), handle.clone(), to()));
        watchers.spawn(observe::builds(of(), activities.clone(), to()));
        watchers.spawn(observe::generations(of(), Arc::clone(&parts.generations), to()));
        Machine {
            name,
            config,
            dir,
            capabilities,
            handle,
            activities,
            clock,
            reach: Reach::default(),
            warm: parts.warm,
            reservation,
            events,
            connect_program: parts.connect_program,
            sharing: parts.sharing,
            files: Arc::default(),
            generations: parts.generations,
            boots: parts.boots,
            nix: parts.nix,
            reconciler: Mutex::default(),
            destroying: tokio::sync::Mutex::default(),
            watchers: Mutex::new(watchers),
        }
    }

    /// Its name.
    pub fn name(&self) -> &MachineName {
        &self.name
    }

    /// Whether its guest runs now.
    pub fn is_running(&self) -> bool {
        matches!(self.handle.snapshot().phase, Phase::Running { .. })
    }

    /// How its last guest ended.
    pub fn last_exit(&self) -> Option<Exit> {
        self.handle.snapshot().phase.last_exit()
    }

    /// Its status, for the API.
    pub fn status(&self) -> MachineStatus {
        let snapshot = self.handle.snapshot();
        let sizes = snapshot.sizes;
        MachineStatus {
            name: self.name.clone(),
            backend: self.capabilities.backend.to_owned(),
            accelerator: self.capabilities.accelerator.to_owned(),
            state: views::state(&snapshot, self.activities.borrow().builds_alone(), Instant::now()),
            waits_for: self.reservation.waits_for(),
            since_unix_ms: snapshot.since_unix_ms,
            boots: snapshot.boots,
            listen: vec![self.config.builder.listen.to_string()],
            cores: sizes.cores.unwrap_or(self.config.hardware.cores),
            memory: sizes.memory.unwrap_or(self.config.hardware.memory),
            disk_size: sizes.disk_size.unwrap_or_else(|| self.disk_size()),
            generations: self.generations.status().map(|status| as_it_runs(status, &snapshot)),
            last_boot: snapshot.last_boot.map(Into::into),
            store: self.store_status(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let copied_bytes = self.events.traffic(&self.name).values().map(|door| door.sent).sum();
        match &self.sharing {
            Some(sharing) => sharing.status(copied_bytes),
            None => StoreStatus { copied_bytes, ..StoreStatus::default() },
        }
    }

    /// The guest systems that it can boot.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// A list of them, for the API.
    pub fn generation_list(&self) -> GenerationList {
        let list = self.generations.list();
        GenerationList { status: as_it_runs(list.status, &self.handle.snapshot()), ..list }
    }

    /// The log of the last build of its recipe.
    pub fn build_log(&self) -> PathBuf {
        self.dir.build_log()
    }

    /// Starts to build the recipe and to change to its guest. The API must be served: the host's `nix` connects through it.
    pub fn keep_generations(&self) {
        let reconciler = Reconciler {
            name: self.name.clone(),
            handle: self.handle.clone(),
            files: Arc::clone(&self.files),
            generations: Arc::clone(&self.generations),
            builder: Arc::new(self.nix.clone()),
            console: self.dir.console_log(),
        };
        *self.reconciler() = Some(AbortOnDropHandle::new(tokio::spawn(reconciler.run())));
    }

    fn reconciler(&self) -> MutexGuard<'_, Option<AbortOnDropHandle<()>>> {
        self.reconciler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its data for the metrics.
    pub async fn sample(&self) -> Sample {
        let snapshot = self.handle.snapshot();
        let load = match snapshot.phase {
            Phase::Running { leases: 1.., .. } => self.load().await,
            _ => None,
        };
        Sample { name: self.name.clone(), snapshot, builds: self.events.builds_of(&self.name), load }
    }

    async fn load(&self) -> Option<Load> {
        match timeout(LOAD_TIMEOUT, self.handle.agent()?.ask(Ask::Figures)).await {
            Ok(Ok(Answer::Figures { memory_total, memory_available, disk_total, disk_available, .. })) => {
                Some(Load { memory_total, memory_available, disk_total, disk_available })
            }
            other => {
                tracing::debug!(machine = %self.name, "the guest did not report its load: {other:?}");
                None
            }
        }
    }

    /// Boots it, even within the back-off after a failure; resolves when it runs.
    pub async fn start(&self, sizes: Sizes) -> Result<(), Report> {
        let _files = self.files.read().await;
        // The supervisor does not know the disk's present size. A request for exactly that size is no request.
        let sizes = Sizes { disk_size: sizes.disk_size.filter(|size| *size != self.disk_size()), ..sizes };
        self.handle.start(sizes).await
    }

    /// The size of the data disk unless a start requests another one, in bytes.
    fn disk_size(&self) -> u64 {
        let configured = self.config.builder.disk_size;
        match self.config.builder.ephemeral {
            true => configured,
            false => disk::size(&self.dir.data_disk(), configured),
        }
    }

    /// Stops it; resolves when it is off.
    pub async fn stop(&self, force: bool) -> Result<(), Report> {
        self.handle.stop(force).await
    }

    /// Pauses its guest; resolves when it is paused.
    pub async fn pause(&self) -> Result<(), Report> {
        if !self.capabilities.pause {
            let report = Report::new(Kind::Host, format!("{} cannot pause a guest here", self.capabilities.backend));
            return Err(report.hint("stop it instead: `darwin-vz-nix stop`"));
        }
        self.handle.pause().await
    }

    /// Resumes its paused guest; resolves when it runs.
    pub async fn resume(&self) -> Result<(), Report> {
        self.handle.resume().await
    }

    /// Stops it and refuses to start it again.
    pub async fn shut_down(&self) {
        self.handle.shut_down().await;
    }

    /// Stops it, refuses to start it again, and ends its tasks.
    pub async fn end(&self) {
        self.handle.shut_down().await;
        let reconciler = self.reconciler().take();
        if let Some(reconciler) = reconciler {
            reconciler.abort();
            // It may write files until it has ended. The error only says that it was aborted.
            let _ = reconciler.await;
        }
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// The file of its serial console: of the present or last boot (0), of an earlier one (-1, …), or of the boot of a number.
    pub fn console_log(&self, boot: i64) -> Result<PathBuf, Report> {
        blocking(|| boots::console(&self.dir, boot))
    }

    /// The records of its last boots.
    pub fn boots(&self) -> BootList {
        BootList { boots: blocking(|| self.boots.list()) }
    }

    /// The capabilities of its backend. Programs are looked for now; the guests that it boots were determined at the daemon's
    /// start.
    pub fn backend(&self) -> BackendView {
        let (hardware, path) = (&self.config.hardware, &self.nix.search_path);
        let accelerator = hardware.accelerator.as_deref();
        let now = blocking(|| dvn_hypervisor::for_this_host(hardware.backend, path, accelerator));
        let features =
            now.map_or_else(|_| self.capabilities.features.clone(), |now| now.capabilities().features.clone());
        views::backend_view(&self.capabilities, &features, path.to_string_lossy().into_owned())
    }

    /// Starts the guest if necessary, and returns unused blocks of its data disk to the host.
    pub async fn trim(&self) -> Result<Trimmed, Report> {
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await?
        };
        match lease.needs_agent()?.ask(Ask::Trim).await? {
            Answer::Trimmed { bytes } => Ok(Trimmed { bytes }),
            other => Err(Report::new(Kind::Guest, format!("the guest's agent answered {other:?} to a trim"))),
        }
    }

    /// Stops it, deletes its files, and creates the initial ones again. The future must not be dropped before its end:
    /// otherwise the reconciler would not run again.
    pub async fn destroy(&self, state: &StateDir, keep: Keep) -> Result<(), Report> {
        let _alone = self.destroying.lock().await;
        let reconciler = self.reconciler().take();
        let was_running = reconciler.is_some();
        if let Some(reconciler) = reconciler {
            reconciler.abort();
            // The error only says that it was aborted.
            let _ = reconciler.await;
            // A client that connects before the files are new, or if that fails, gets a guest that works.
            self.generations.work_aborted();
        }
        let destroyed = self.replace_files(state, keep).await;
        if was_running {
            self.keep_generations();
        }
        destroyed
    }

    async fn replace_files(&self, state: &StateDir, keep: Keep) -> Result<(), Report> {
        // Once `files` is locked for writing, no boot can begin until the files are new.
        let _files = {
            // Demands that wait for a boot, or are about to, hold it for reading.
            let _refused = self.handle.refuse_demands();
            self.handle.stop(true).await?;
            self.files.write().await
        };
        self.handle.stop(true).await?;
        blocking(|| {
            self.dir.destroy(keep)?;
            provision::provision(&state.make_machine(&self.name)?, &self.name, &self.connect_program)?;
            self.generations.reset()?;
            match &self.sharing {
                Some(sharing) => sharing.begin_anew(&self.config.builder, &self.dir),
                None => Ok(()),
            }
        })?;
        self.events.changed();
        Ok(())
    }
}

fn as_it_runs(status: GenerationsStatus, snapshot: &Snapshot) -> GenerationsStatus {
    let at_rest = snapshot.phase.is_at_rest();
    GenerationsStatus { running: status.running.filter(|_| !at_rest), ..status }
}
