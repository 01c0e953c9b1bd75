//! Makes a machine of the library ready that boots by EFI: its files become a [`MachineSpec`].
//!
//! ```text
//!  prepare:      lock ▸ config.json ▸ disks, medium, shares ▸ MachineSpec
//!  await_ready:  nothing; after a restore the clock is set meanwhile. What such a guest runs is the user's, and it need not have an agent
//! ```
//!
//! The machine's lock is taken in `prepare`, and belongs to the guest from the boot on ([`EfiGuest::take_lock`]).

use crate::{service::ServiceAgent, symptoms};
use dvn_host::{blocking, files::private_dir};
use dvn_hypervisor::{
    Capabilities, Guest, GuestAgent, Requirements,
    disks::SystemDisk,
    spec::{Boot, Devices, Forward, MachineSpec, Nic, Screen, Share},
};
use dvn_library::{
    Library, Machine, State,
    config::{DiskFormat, Os, VmConfig},
    lock::RunLock,
};
use dvn_lifecycle::{BootEvent, GuestProvider, Ready};
use dvn_types::{Kind, MachineName, Report, Sizes, TimelinePhase};
use futures_util::future::BoxFuture;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// How long a guest that continues may take until its agent sets the clock.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often that is tried: its vsock device is plugged in anew.
const CLOCK_AGAIN: Duration = Duration::from_millis(200);

/// What a machine has for one boot, beside its own hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Without a screen, keyboard and pointer.
    pub no_graphics: bool,
    /// More disks.
    pub disks: Vec<SystemDisk>,
    /// Directories of the host.
    pub shares: Vec<Share>,
    /// Ports of the host that lead to the guest.
    pub expose: Vec<Forward>,
}

/// Provides the guest of a machine of the library.
pub struct EfiGuest {
    library: Library,
    name: MachineName,
    capabilities: Capabilities,
    /// A short path: sockets are made in it.
    runtime_dir: PathBuf,
    extras: Mutex<Extras>,
    /// The machine that is booted, and its lock until the guest has it.
    booting: Mutex<Option<(Machine, Option<RunLock>)>>,
}

impl EfiGuest {
    /// For a machine of this library, on a hypervisor with these capabilities.
    pub fn new(library: Library, name: MachineName, capabilities: Capabilities, runtime_dir: PathBuf) -> EfiGuest {
        let (extras, booting) = Default::default();
        EfiGuest { library, name, capabilities, runtime_dir, extras, booting }
    }

    /// The library that the machine is of.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// What the next boot has beside the machine's own hardware.
    pub fn set_extras(&self, extras: Extras) {
        *self.extras.lock().unwrap_or_else(PoisonError::into_inner) = extras;
    }

    /// The machine that is booted, and its lock. The lock is handed out once.
    pub fn take_lock(&self) -> Option<(Machine, RunLock)> {
        let mut booting = self.booting();
        let (machine, lock) = booting.as_mut()?;
        Some((machine.clone(), lock.take()?))
    }

    fn booting(&self) -> MutexGuard<'_, Option<(Machine, Option<RunLock>)>> {
        self.booting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prepare(&self, sizes: Sizes) -> Result<MachineSpec, Report> {
        // Of a boot that was cancelled before the hypervisor took it.
        *self.booting() = None;
        let (library, name) = (self.library.clone(), self.name.clone());
        let extras = self.extras.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (can, runtime_dir) = (self.capabilities.clone(), self.runtime_dir.clone());
        let work = spawn_blocking(move || {
            let (machine, lock) = library.run(&name)?;
            let spec = spec(&machine, &extras, sizes, &can, &runtime_dir)?;
            Ok::<_, Report>((machine, lock, spec))
        });
        let prepared = work.await.map_err(|e| Report::new(Kind::Internal, format!("a boot was lost: {e}")))?;
        let (machine, lock, spec) = prepared?;
        *self.booting() = Some((machine, Some(lock)));
        Ok(spec)
    }

    fn ready(&self, guest: &Arc<dyn Guest>) -> Ready {
        let continues = self.booting().as_ref().is_some_and(|(machine, _)| machine.state == State::Suspended);
        if continues {
            // Beside the rest: a guest that is not ready yet cannot be stopped but by force.
            tokio::spawn(set_clock(self.name.clone(), Arc::downgrade(guest)));
        }
        let ready = TimelinePhase { name: "ready".into(), at_ms: 0 };
        let agent = Arc::new(ServiceAgent::new(Arc::downgrade(guest)));
        Ready { phases: vec![ready], kernel: String::new(), data_disk: "kept".into(), agent: Some(agent) }
    }

    async fn explain(&self, mut cause: Report) -> Report {
        let console = self.library.files(&self.name).console_log();
        if let Ok(summary) = spawn_blocking(move || symptoms::summary(&console)).await {
            cause.message = format!("{}; {summary}", cause.message);
        }
        cause.hint(format!("see the whole console: darwin-vz-nix logs --console {}", self.name))
    }

    /// The medium of a machine that has powered itself off is not attached again.
    fn ended(&self, powered_off: bool) {
        let Some((machine, _)) = self.booting().take() else { return };
        if !powered_off || machine.record.medium.is_none() {
            return;
        }
        match blocking(|| self.library.note_installed(&machine)) {
            Ok(()) => {
                tracing::info!(machine = %self.name, "the guest powered itself off; its medium is not attached again")
            }
            Err(report) => tracing::warn!(machine = %self.name, "the medium stays attached: {report}"),
        }
    }
}

/// Sets the clock of a guest that continues. Without an agent, its own time synchronisation has to.
async fn set_clock(name: MachineName, guest: Weak<dyn Guest>) {
    let set = async {
        let agent: &dyn GuestAgent = &ServiceAgent::new(Weak::clone(&guest));
        while guest.strong_count() > 0 {
            match agent.set_clock().await {
                Ok(()) => return,
                Err(report) => tracing::debug!(machine = %name, "the clock is not set yet: {report}"),
            }
            sleep(CLOCK_AGAIN).await;
        }
    };
    if timeout(CLOCK_TIMEOUT, set).await.is_err() {
        tracing::warn!(machine = %name, "the guest's clock may be late by the time that it was suspended: no agent set it");
    }
}

impl GuestProvider for EfiGuest {
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        Box::pin(EfiGuest::prepare(self, sizes))
    }
    fn await_ready(&self, guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        Box::pin(std::future::ready(Ok(self.ready(&guest))))
    }
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        Box::pin(EfiGuest::explain(self, cause))
    }
    fn on_boot_event(&self, event: BootEvent) {
        match event {
            BootEvent::Ready => {}
            BootEvent::Failed(_) => {
                // Without a guest, the lock is still here.
                if self.booting().as_ref().is_some_and(|(_, lock)| lock.is_some()) {
                    *self.booting() = None;
                }
            }
            BootEvent::Ended(exit) => self.ended(exit == dvn_hypervisor::Exit::PoweredOff),
        }
    }
}

/// What a machine is for a backend. Blocks.
fn spec(
    machine: &Machine,
    extras: &Extras,
    sizes: Sizes,
    can: &Capabilities,
    runtime_dir: &Path,
) -> Result<MachineSpec, Report> {
    let config = &machine.config;
    admit(machine, can)?;
    let (cores, memory) = (sizes.cores.unwrap_or(config.cpu_count), sizes.memory.unwrap_or(config.memory_size));
    can.admit_sizes(&Requirements { cores, memory, nested: false })?;
    let mut disks = vec![SystemDisk::new(machine.files.disk(), false)];
    disks.extend(medium(machine)?);
    for disk in &extras.disks {
        demand_readable(&disk.path, "a disk")?;
        disks.push(disk.clone());
    }
    for share in &extras.shares {
        if !share.path.is_dir() {
            let why = format!("cannot share {} with {}: it is no directory", share.path.display(), machine.name);
            return Err(Report::new(Kind::Config, why).hint("make the directory, or correct the path"));
        }
    }
    let _ = std::fs::remove_dir_all(runtime_dir);
    private_dir(runtime_dir)?;
    let spec = MachineSpec {
        name: machine.name.clone(),
        arch: config.arch,
        cores,
        memory,
        boot: Boot::Efi { variables: machine.files.nvram() },
        devices: Devices {
            disks,
            nics: vec![Nic { mac: config.mac_address }],
            forwards: extras.expose.clone(),
            shares: extras.shares.clone(),
            display: screen(config, can).filter(|_| !extras.no_graphics),
            vsock: true,
            rosetta: false,
            nested: false,
        },
        runtime_dir: runtime_dir.to_owned(),
        console_log: machine.files.console_log(),
    };
    can.admit_machine(&spec)?;
    Ok(spec)
}

/// Refuses a machine that this host cannot run.
fn admit(machine: &Machine, can: &Capabilities) -> Result<(), Report> {
    let (name, config) = (&machine.name, &machine.config);
    if config.os == Os::Darwin {
        let why = format!("{name} is a macOS machine, and this version runs only Linux machines of the library");
        return Err(Report::new(Kind::Host, why).hint("run it with Tart"));
    }
    if config.disk_format != DiskFormat::Raw {
        let why = format!("the disk of {name} has Apple's format asif, which {} cannot read", can.backend);
        return Err(Report::new(Kind::Host, why).hint("convert it on a Mac to a raw image"));
    }
    if !can.archs.contains(&config.arch) {
        let can_boot: Vec<_> = can.archs.iter().map(ToString::to_string).collect();
        let why = format!("{name} is a machine for {}, and {} has no such guests here", config.arch, can.backend);
        return Err(Report::new(Kind::Host, why).hint(format!("guests that boot here: {}", can_boot.join(", "))));
    }
    Ok(())
}

/// The image that the machine is installed from, while it is.
fn medium(machine: &Machine) -> Result<Option<SystemDisk>, Report> {
    let Some(path) = &machine.record.medium else { return Ok(None) };
    demand_readable(path, "the image to install from")?;
    Ok(Some(SystemDisk::new(path, true)))
}

fn demand_readable(path: &Path, what: &str) -> Result<(), Report> {
    dvn_host::regular_file::open(path).map(drop).map_err(|e| {
        Report::new(Kind::Config, format!("{what} cannot be read: {}: {e}", path.display()))
            .hint("correct the path, or the permissions of the file")
    })
}

fn screen(config: &VmConfig, can: &Capabilities) -> Option<Screen> {
    let size = config.display;
    can.display.is_ok().then_some(Screen { width: size.width, height: size.height })
}
