//! One machine of the daemon: its directory, its supervisor, and the ways into its guest.

mod activity;
mod asked;
mod clock;
mod entry;
mod furnish;
mod hang;
mod host_awake;
mod monitor;
mod reach;
mod record;
mod store_hold;
#[cfg(test)]
mod watched;

use super::{
    budget::Budget,
    chronicle::Chronicle,
    metrics::{Load, Sample},
    options::RunOptions,
    seat::{Budgeted, Seat},
};
use crate::views;
use activity::{Activities, Activity, Uses};
use asked::Overheard;
use clock::GuestClock;
use dvn_config::MachineSettings;
use dvn_generations::{Generations, Nix, Reconciler, TimeLimits};
use dvn_guest::{
    boots::{self, Boots},
    disk,
    launch::{Launch, WarmConnection},
    sharing::Sharing,
};
use dvn_host::{
    blocking,
    machine_dir::{MachineDir, StateDir},
};
use dvn_hypervisor::{Capabilities, Hypervisor};
use dvn_lifecycle::{GuestProvider, Handle, Phase, Policy, Snapshot};
use dvn_protocol::messages::{Answer, Ask};
use dvn_types::{
    Keep, Kind, MachineName, Report, Sizes,
    wire::{BackendView, BootList, GenerationList, GenerationsStatus, MachineStatus, StoreStatus, Trimmed},
};
use host_awake::PowerAssertion;
use monitor::Monitor;
use reach::Reach;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{RwLock, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// A machine that the daemon looks after.
pub struct Machine {
    name: MachineName,
    settings: MachineSettings,
    dir: MachineDir,
    capabilities: Capabilities,
    handle: Handle,
    activities: Activities,
    clock: Arc<GuestClock>,
    reach: Reach,
    warm: WarmConnection,
    seat: Arc<Seat>,
    chronicle: Arc<Chronicle>,
    connect_program: Vec<u8>,
    sharing: Option<Arc<Sharing>>,
    /// Held for writing while the machine's files or its guest are replaced, for reading by whoever may cause a boot.
    files: Arc<RwLock<()>>,
    generations: Arc<Generations>,
    boots: Boots,
    nix: Nix,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Held while its files are deleted and made.
    destroying: tokio::sync::Mutex<()>,
    watchers: Mutex<JoinSet<()>>,
}

/// How long a guest may take to tell its load: whoever gathers metrics does not wait long, either.
const LOAD_WITHIN: Duration = Duration::from_secs(2);

/// What a machine is put together from.
pub struct Parts {
    /// Runs its guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes them ready.
    pub preparation: Arc<dyn GuestProvider>,
    /// Where the preparation leaves the connection that confirmed a boot.
    pub warm: WarmConnection,
    /// The text of the direct door's program.
    pub connect_program: Vec<u8>,
    /// What keeps the host awake while the guest is in use, if there is something.
    pub assertion: Option<PowerAssertion>,
    /// What can boot beside the configured bundle.
    pub generations: Arc<Generations>,
    /// What is kept of its boots.
    pub boots: Boots,
    /// The host's `nix`.
    pub nix: Nix,
    /// The host's store in its guests, if it is shared.
    pub sharing: Option<Arc<Sharing>>,
    /// What there is for all machines together.
    pub budget: Arc<Budget>,
}

#[cfg(test)]
impl Parts {
    /// Those of a machine whose guest is in memory, with this agent.
    pub fn in_memory(
        sim: dvn_hypervisor::sim::Sim,
        agent: Arc<dyn dvn_hypervisor::GuestAgent>,
        dir: &MachineDir,
        settings: &MachineSettings,
    ) -> Result<Parts, Report> {
        Ok(Parts {
            hypervisor: Arc::new(sim),
            preparation: Arc::new(dvn_lifecycle::InMemory::with(agent)),
            warm: WarmConnection::default(),
            connect_program: Vec::new(),
            assertion: None,
            generations: Arc::new(Generations::open(dir, settings, &[])?),
            boots: Boots::of(dir),
            nix: Nix {
                programs: None,
                search_path: "".into(),
                environment: vec![],
                address: dir.direct_address(),
                log: dir.build_log(),
                time_limits: TimeLimits::default(),
            },
            sharing: None,
            budget: Arc::new(Budget::of(u64::MAX, Arc::default())),
        })
    }
}

impl Machine {
    /// Makes what is missing of the machine's directory, and starts to look after it. Boots nothing.
    pub fn new(
        name: MachineName,
        settings: MachineSettings,
        state: &StateDir,
        options: &RunOptions,
        chronicle: Arc<Chronicle>,
        budget: Arc<Budget>,
    ) -> Result<Machine, Report> {
        let accelerator = settings.accelerator.as_deref();
        let hypervisor = dvn_hypervisor::for_this_host(settings.backend, &options.search_path, accelerator)?;
        let dir = state.make_machine(&name)?;
        let connect_program = furnish::connect_program(options, &name)?;
        furnish::furnish(&dir, &name, &connect_program)?;
        let sharing = Sharing::new(&name, &settings, &dir)?;
        let capabilities = hypervisor.capabilities().clone();
        let generations = Arc::new(Generations::open(&dir, &settings, &capabilities.archs)?);
        let launch = Launch::new(
            name.clone(),
            settings.clone(),
            dir.clone(),
            capabilities,
            Arc::clone(&generations) as _,
            sharing.clone(),
        );
        let (warm, boots) = (launch.warm(), launch.boots());
        let nix = Nix {
            programs: settings.nix.clone(),
            search_path: options.search_path.clone(),
            environment: options.nix_environment.clone(),
            address: dir.direct_address(),
            log: dir.build_log(),
            time_limits: TimeLimits::default(),
        };
        let assertion = PowerAssertion::find(&options.search_path);
        let parts = Parts {
            hypervisor,
            preparation: Arc::new(launch),
            warm,
            connect_program,
            assertion,
            generations,
            boots,
            nix,
            sharing,
            budget,
        };
        Ok(Machine::assemble(name, settings, dir, parts, chronicle))
    }

    /// A machine of these parts; nothing is made on disk.
    pub fn assemble(
        name: MachineName,
        settings: MachineSettings,
        dir: MachineDir,
        parts: Parts,
        chronicle: Arc<Chronicle>,
    ) -> Machine {
        let capabilities = parts.hypervisor.capabilities().clone();
        let activity = Arc::new(watch::Sender::<Activity>::default());
        let activities = activity.subscribe();
        let seat = Arc::new(Seat::new(parts.budget, name.clone(), settings.memory));
        let handle = dvn_lifecycle::spawn(
            name.clone(),
            Arc::new(Budgeted { hypervisor: parts.hypervisor, seat: Arc::clone(&seat) }),
            Arc::new(Overheard::new(parts.preparation, Arc::clone(&activity))),
            Policy::new(settings.idle_timeout, settings.stop_grace, settings.boot_timeout),
        )
        .gated(Arc::clone(&seat) as _);
        let clock = Arc::new(GuestClock::new(name.clone()));
        let hang_timeout = settings.hang_timeout;
        let uses = || Uses::of(activities.clone());
        let (of, to) = (|| name.clone(), || Arc::clone(&chronicle));
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
        watchers.spawn(Arc::clone(&seat).give_way(handle.clone(), builds));
        watchers.spawn(record::lifecycle(of(), handle.clone(), to()));
        watchers.spawn(record::builds(of(), activities.clone(), to()));
        watchers.spawn(record::generations(of(), Arc::clone(&parts.generations), to()));
        Machine {
            name,
            settings,
            dir,
            capabilities,
            handle,
            activities,
            clock,
            reach: Reach::default(),
            warm: parts.warm,
            seat,
            chronicle,
            connect_program: parts.connect_program,
            sharing: parts.sharing,
            files: Arc::default(),
            generations: parts.generations,
            boots: parts.boots,
            nix: parts.nix,
            keeper: Mutex::default(),
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

    /// Its settings, as configured.
    pub fn settings(&self) -> &MachineSettings {
        &self.settings
    }

    /// What the outside sees of it.
    pub fn status(&self) -> MachineStatus {
        let snapshot = self.handle.snapshot();
        let sizes = snapshot.sizes;
        MachineStatus {
            name: self.name.clone(),
            backend: self.capabilities.backend.to_owned(),
            accelerator: self.capabilities.accelerator.to_owned(),
            state: views::state(&snapshot, self.activities.borrow().builds_alone(), Instant::now()),
            waits_for: self.seat.waits_for(),
            since_unix_ms: snapshot.since_unix_ms,
            boots: snapshot.boots,
            listen: vec![self.settings.listen.to_string()],
            cores: sizes.cores.unwrap_or(self.settings.cores),
            memory: sizes.memory.unwrap_or(self.settings.memory),
            disk_size: sizes.disk_size.unwrap_or_else(|| self.disk_size()),
            generations: self.generations.status().map(|status| as_it_runs(status, &snapshot)),
            last_boot: snapshot.last_boot.map(Into::into),
            store: self.store_status(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let copied_bytes = self.chronicle.traffic(&self.name).values().map(|door| door.sent).sum();
        match &self.sharing {
            Some(sharing) => sharing.status(copied_bytes),
            None => StoreStatus { copied_bytes, ..StoreStatus::default() },
        }
    }

    /// The guest systems it can boot.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// All of them, for people.
    pub fn generation_list(&self) -> GenerationList {
        let list = self.generations.list();
        GenerationList { status: as_it_runs(list.status, &self.handle.snapshot()), ..list }
    }

    /// What was said when its recipe was built last.
    pub fn build_log(&self) -> PathBuf {
        self.dir.build_log()
    }

    /// Builds what the recipe wants and changes to it, from now on. The API must be there: the host's `nix` comes through it.
    pub fn keep_generations(&self) {
        let keeper = Reconciler {
            name: self.name.clone(),
            handle: self.handle.clone(),
            files: Arc::clone(&self.files),
            generations: Arc::clone(&self.generations),
            builder: Arc::new(self.nix.clone()),
            console: self.dir.console_log(),
        };
        *self.keeper() = Some(AbortOnDropHandle::new(tokio::spawn(keeper.run())));
    }

    fn keeper(&self) -> MutexGuard<'_, Option<AbortOnDropHandle<()>>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the metrics tell of it.
    pub async fn sample(&self) -> Sample {
        let snapshot = self.handle.snapshot();
        let load = match snapshot.phase {
            Phase::Running { leases: 1.., .. } => self.load().await,
            _ => None,
        };
        Sample { name: self.name.clone(), snapshot, builds: self.chronicle.builds_of(&self.name), load }
    }

    async fn load(&self) -> Option<Load> {
        match timeout(LOAD_WITHIN, self.handle.agent()?.ask(Ask::Figures)).await {
            Ok(Ok(Answer::Figures { memory_total, memory_available, disk_total, disk_available, .. })) => {
                Some(Load { memory_total, memory_available, disk_total, disk_available })
            }
            other => {
                tracing::debug!(machine = %self.name, "the guest did not tell its load: {other:?}");
                None
            }
        }
    }

    /// Boots it, even after a failure just now; resolves when it runs.
    pub async fn start(&self, sizes: Sizes) -> Result<(), Report> {
        let _files = self.files.read().await;
        // The supervisor does not know the disk's size, and to ask for just that is to ask for nothing.
        let sizes = Sizes { disk_size: sizes.disk_size.filter(|size| *size != self.disk_size()), ..sizes };
        self.handle.start(sizes).await
    }

    /// The size that a data disk has without one being asked for, in bytes.
    fn disk_size(&self) -> u64 {
        match self.settings.ephemeral {
            true => self.settings.disk_size,
            false => disk::size(&self.dir.data_disk(), self.settings.disk_size),
        }
    }

    /// Stops it; resolves when it is off.
    pub async fn stop(&self, force: bool) -> Result<(), Report> {
        self.handle.stop(force).await
    }

    /// Has its guest stand still; resolves when it does.
    pub async fn pause(&self) -> Result<(), Report> {
        if !self.capabilities.pause {
            let report = Report::new(Kind::Host, format!("{} cannot pause a guest here", self.capabilities.backend));
            return Err(report.hint("stop it instead: `darwin-vz-nix stop`"));
        }
        self.handle.pause().await
    }

    /// Has its paused guest go on; resolves when it answers.
    pub async fn resume(&self) -> Result<(), Report> {
        self.handle.resume().await
    }

    /// Stops it and refuses to start it again.
    pub async fn shut_down(&self) {
        self.handle.shut_down().await;
    }

    /// Stops it, refuses to start it again, and ends all that looks after it.
    pub async fn end(&self) {
        self.handle.shut_down().await;
        let keeper = self.keeper().take();
        if let Some(keeper) = keeper {
            keeper.abort();
            // Until then it may write. An error says that it was aborted, as it was.
            let _ = keeper.await;
        }
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// The file of its serial console: of the present or last boot (0), of one before (-1, …), or of the boot of a number.
    pub fn console_log(&self, boot: i64) -> Result<PathBuf, Report> {
        blocking(|| boots::console(&self.dir, boot))
    }

    /// What is known of its last boots.
    pub fn boots(&self) -> BootList {
        BootList { boots: blocking(|| self.boots.list()) }
    }

    /// What its backend can do. Programs are looked for now; which guests it boots was found out when the daemon began.
    pub fn backend(&self) -> BackendView {
        let (settings, path) = (&self.settings, &self.nix.search_path);
        let accelerator = settings.accelerator.as_deref();
        let now = blocking(|| dvn_hypervisor::for_this_host(settings.backend, path, accelerator));
        let features =
            now.map_or_else(|_| self.capabilities.features.clone(), |now| now.capabilities().features.clone());
        views::backend_view(&self.capabilities, &features, path.to_string_lossy().into_owned())
    }

    /// Starts the guest where needed, and has it give back what its disk does not use.
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

    /// Stops it, deletes its files, and furnishes it as new. Not to be dropped before its end: then nobody would keep the
    /// generations any more.
    pub async fn destroy(&self, state: &StateDir, keep: Keep) -> Result<(), Report> {
        let _alone = self.destroying.lock().await;
        let keeper = self.keeper().take();
        let was_kept = keeper.is_some();
        if let Some(keeper) = keeper {
            keeper.abort();
            // An error says that it was aborted, as it was.
            let _ = keeper.await;
            // Whoever connects before the files are new, or in vain waits for that, gets a guest that works.
            self.generations.work_aborted();
        }
        let destroyed = self.replace_files(state, keep).await;
        if was_kept {
            self.keep_generations();
        }
        destroyed
    }

    async fn replace_files(&self, state: &StateDir, keep: Keep) -> Result<(), Report> {
        // Whoever waits for a boot gives way; then nobody can begin one until the files are new.
        self.handle.stop(true).await?;
        // Those who came in between may wait for memory, and are turned away when nobody else can come any more.
        let (_files, stopped) = tokio::join!(self.files.write(), self.handle.stop(true));
        stopped?;
        self.handle.stop(true).await?;
        blocking(|| {
            self.dir.destroy(keep)?;
            furnish::furnish(&state.make_machine(&self.name)?, &self.name, &self.connect_program)?;
            self.generations.reset()?;
            match &self.sharing {
                Some(sharing) => sharing.begin_anew(&self.settings, &self.dir),
                None => Ok(()),
            }
        })?;
        self.chronicle.changed();
        Ok(())
    }
}

fn as_it_runs(status: GenerationsStatus, snapshot: &Snapshot) -> GenerationsStatus {
    let at_rest = snapshot.phase.is_at_rest();
    GenerationsStatus { running: status.running.filter(|_| !at_rest), ..status }
}
