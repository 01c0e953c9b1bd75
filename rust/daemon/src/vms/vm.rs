//! A machine of the library that was started: its lifecycle, and its guest while there is one.
//!
//! ```text
//!  demand ▸ Reservation (memory) ▸ lifecycle ▸ EfiGuest (lock, spec) ▸ Continuing: restore what is suspended, else boot
//! ```

use crate::{
    budget::Budget,
    events::Events,
    machine::observe,
    reservation::{Budgeted, Reservation},
    views,
};
use dvn_guest::{
    efi::{EfiGuest, Extras},
    service,
};
use dvn_host::blocking;
use dvn_hypervisor::{
    Capabilities, Display, Exit, Guest, GuestStream, Hold, Hypervisor,
    disks::SystemDisk,
    spec::{Forward, MachineSpec, Share},
};
use dvn_library::{Library, Machine, State};
use dvn_lifecycle::{Handle, Phase, Policy};
use dvn_types::{
    Kind, MachineName, Report, Sizes,
    wire::{self, Addresses, RunRequest, Stopped},
};
use futures_util::future::BoxFuture;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// How long a guest may take to power off before it is killed.
const GRACE: Duration = Duration::from_secs(60);

/// How long a boot may take; to read gigabytes of saved memory takes a while.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// A machine that was started.
pub struct Vm {
    name: MachineName,
    files: dvn_library::Files,
    handle: Handle,
    provider: Arc<EfiGuest>,
    guests: Arc<Continuing>,
    reservation: Arc<Reservation>,
    /// Starts that are not answered yet: they may wait for memory.
    pending: Mutex<u32>,
    _tasks: JoinSet<()>,
}

impl Vm {
    /// A machine whose lifecycle begins now, stopped.
    pub fn new(
        machine: &Machine,
        library: Library,
        hypervisor: Arc<dyn Hypervisor>,
        runtime_dir: PathBuf,
        budget: Arc<Budget>,
        events: Arc<Events>,
    ) -> Vm {
        let name = machine.name.clone();
        let capabilities = hypervisor.capabilities().clone();
        let provider = Arc::new(EfiGuest::new(library, name.clone(), capabilities, runtime_dir));
        let guests = Arc::new(Continuing { hypervisor, provider: Arc::clone(&provider), current: Mutex::default() });
        let reservation = Arc::new(Reservation::new(budget, name.clone(), machine.config.memory_size));
        let budgeted = Budgeted { hypervisor: Arc::clone(&guests) as _, reservation: Arc::clone(&reservation) };
        let policy = Policy::new(None, GRACE, BOOT_TIMEOUT);
        let gate = Some(Arc::clone(&reservation) as _);
        let handle =
            dvn_lifecycle::spawn_gated(gate, name.clone(), Arc::new(budgeted), Arc::clone(&provider) as _, policy);
        let mut tasks = JoinSet::new();
        tasks.spawn(observe::lifecycle(name.clone(), handle.clone(), events));
        Vm {
            name,
            files: machine.files.clone(),
            handle,
            provider,
            guests,
            reservation,
            pending: Mutex::default(),
            _tasks: tasks,
        }
    }

    /// Whether it has a guest, is getting one, or waits for memory to get one.
    pub fn is_active(&self) -> bool {
        *self.pending() > 0 || !self.handle.snapshot().phase.is_at_rest()
    }

    fn pending(&self) -> MutexGuard<'_, u32> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of its lifecycle, unless it rests; a failed boot counts as such.
    pub fn state(&self) -> Option<wire::State> {
        let snapshot = self.handle.snapshot();
        let rests = matches!(snapshot.phase, Phase::Stopped { .. });
        (!rests).then(|| views::state(&snapshot, 0, Instant::now()))
    }

    /// How its last guest ended.
    pub fn last_exit(&self) -> Option<Exit> {
        self.handle.snapshot().phase.last_exit()
    }

    /// What its boot waits for, if one does.
    pub fn waits_for(&self) -> Option<String> {
        self.reservation.waits_for()
    }

    /// Boots or restores it; resolves when it runs.
    pub async fn start(&self, sizes: Sizes, request: &RunRequest) -> Result<(), Report> {
        let _pending = self.enter(request).await?;
        self.handle.start(sizes).await
    }

    /// Enters a start among the pending ones. Devices are for a guest that this start boots: one that is there keeps its own.
    async fn enter(&self, request: &RunRequest) -> Result<Pending<'_>, Report> {
        loop {
            {
                let mut pending = self.pending();
                let phase = self.handle.snapshot().phase;
                if !matches!(phase, Phase::Stopping { .. }) {
                    if *pending == 0 && phase.is_at_rest() {
                        self.provider.set_extras(extras(request));
                    } else if *request != RunRequest::default() {
                        let why = format!("{} runs already, with the devices that it has", self.name);
                        let hint = format!("stop it first: darwin-vz-nix stop {}", self.name);
                        return Err(Report::new(Kind::Busy, why).hint(hint));
                    }
                    *pending += 1;
                    return Ok(Pending(self));
                }
            }
            // Otherwise the next guest would have the devices of the one that stops.
            self.rests().await;
        }
    }

    /// Resolves once no guest is there or on its way.
    async fn rests(&self) {
        // An actor that has ended has no guest.
        let _ = self.handle.watch().wait_for(|snapshot| snapshot.phase.is_at_rest()).await;
    }

    /// Stops it; resolves when it is off.
    pub async fn stop(&self, force: bool) -> Result<Stopped, Report> {
        self.handle.stop(force).await?;
        Ok(Stopped { exit: self.last_exit().map(|exit| exit.to_string()), discarded: false })
    }

    /// Pauses it.
    pub async fn pause(&self) -> Result<(), Report> {
        self.handle.pause().await
    }

    /// Resumes it.
    pub async fn resume(&self) -> Result<(), Report> {
        self.handle.resume().await
    }

    /// Saves its memory and ends its guest; resolves when the lifecycle has seen that end.
    pub async fn suspend(&self) -> Result<(), Report> {
        let guest = self.guest()?;
        guest.suspend(self.files.saved_state()).await?;
        self.rests().await;
        Ok(())
    }

    /// A stream to the agent in its guest.
    pub async fn agent_stream(&self) -> Result<GuestStream, Report> {
        service::connect(&*self.guest()?).await
    }

    /// The addresses of its guest, those of IPv4 first.
    pub async fn addresses(&self) -> Result<Addresses, Report> {
        let mut found = service::addresses(&*self.guest()?).await?;
        found.sort_by_key(|address| address.address.is_ipv6());
        if found.is_empty() {
            return Err(Report::new(Kind::Guest, format!("{} has no address yet", self.name))
                .hint("wait until its network is up: darwin-vz-nix ip --wait 60"));
        }
        let addresses = found.iter().map(|address| address.address.to_string()).collect();
        Ok(Addresses { addresses, source: "agent".to_owned() })
    }

    /// Its screen.
    pub fn display(&self) -> Result<Arc<dyn Display>, Report> {
        self.guest()?.display().ok_or_else(|| {
            Report::new(Kind::Config, format!("{} runs without a screen", self.name))
                .hint("start it without --no-graphics, on a backend that can show a screen")
        })
    }

    /// Stops it and refuses to start it again.
    pub async fn shut_down(&self) {
        self.handle.shut_down().await;
    }

    /// Its running guest.
    fn guest(&self) -> Result<Arc<dyn Guest>, Report> {
        let refused = |why: &str, hint: &str| {
            Report::new(Kind::Busy, format!("{} {why}", self.name)).hint(format!("darwin-vz-nix {hint} {}", self.name))
        };
        match self.handle.snapshot().phase {
            Phase::Running { .. } => self.guests.current().ok_or_else(|| refused("is stopping", "start")),
            Phase::Paused { .. } => Err(refused("is paused", "resume")),
            Phase::Starting => Err(refused("is still starting", "logs --console")),
            _ => Err(refused("does not run", "start")),
        }
    }
}

/// A start that is not answered yet.
struct Pending<'a>(&'a Vm);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        *self.0.pending() -= 1;
    }
}

fn extras(request: &RunRequest) -> Extras {
    let disk = |disk: &wire::ExtraDisk| SystemDisk::new(&disk.path, disk.read_only);
    let share = |share: &wire::SharedDirectory| Share {
        tag: share.tag.clone(),
        path: PathBuf::from(&share.path),
        read_only: share.read_only,
    };
    Extras {
        no_graphics: request.no_graphics,
        disks: request.disks.iter().map(disk).collect(),
        shares: request.shares.iter().map(share).collect(),
        expose: request.expose.iter().map(|port| Forward { host: port.host, guest: port.guest }).collect(),
    }
}

/// A hypervisor that restores a suspended machine where it is to boot it, and whose guests hold their machine's lock.
struct Continuing {
    hypervisor: Arc<dyn Hypervisor>,
    provider: Arc<EfiGuest>,
    current: Mutex<Option<Weak<dyn Guest>>>,
}

impl Continuing {
    fn current(&self) -> Option<Arc<dyn Guest>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().and_then(Weak::upgrade)
    }
}

impl Hypervisor for Continuing {
    fn capabilities(&self) -> &Capabilities {
        self.hypervisor.capabilities()
    }

    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            let Some((machine, lock)) = self.provider.take_lock() else {
                return Err(Report::new(Kind::Internal, "a machine boots without its lock"));
            };
            let hold: Hold = Box::new((lock, hold));
            let guest = match machine.state {
                State::Suspended => self.hypervisor.restore_holding(spec, machine.files.saved_state(), hold).await?,
                _ => self.hypervisor.boot_holding(spec, hold).await?,
            };
            // Now that the backend has made the variable store. A note that fails must not end a guest that runs: a restored one has
            // no saved memory any more.
            if let Err(report) = blocking(|| self.provider.library().note_start(&machine)) {
                tracing::warn!(machine = %machine.name, "the start is not noted: {report}");
            }
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&guest));
            Ok(guest)
        })
    }
}
