//! The machines of the library, as the daemon runs them.
//!
//! The rule: what a machine is made of is on disk only, and read anew for every question. The daemon remembers a machine from
//! its first start to its deletion: its lifecycle, and its reservation of memory.

mod changes;
mod inspect;
#[cfg(test)]
mod tests;
mod vm;

use crate::{budget::Budget, events::Events};
use dvn_host::{blocking, machine_dir::StateDir};
use dvn_hypervisor::{Display, GuestStream, Hypervisor};
use dvn_library::Library;
use dvn_types::{
    Kind, MachineName, Report, Sizes,
    wire::{Addresses, RunRequest, Stopped},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use vm::Vm;

/// Finds the backend of this host. Blocks.
pub type Backend = dyn Fn() -> Result<Arc<dyn Hypervisor>, Report> + Send + Sync;

/// The machines of the library.
pub struct Vms {
    library: Library,
    /// Machines of the configuration, whose directories are beside those of the library.
    declared: BTreeSet<MachineName>,
    /// Directories for sockets, one for each machine that runs.
    run: PathBuf,
    backend: Box<Backend>,
    events: Arc<Events>,
    budget: Arc<Budget>,
    started: Mutex<BTreeMap<MachineName, Arc<Vm>>>,
    /// The number of the last directory in `run`.
    last: AtomicU64,
}

impl Vms {
    /// Opens the library of a state directory, and removes what a crash left in it. Blocks.
    pub fn open(
        state: &StateDir,
        declared: BTreeSet<MachineName>,
        backend: Box<Backend>,
        events: Arc<Events>,
        budget: Arc<Budget>,
    ) -> Result<Vms, Report> {
        let library = Library::open(&state.machines(), &state.staging())?;
        let run = state.run();
        dvn_host::files::remove_all(&run)?;
        Ok(Vms { library, declared, run, backend, events, budget, started: Mutex::default(), last: AtomicU64::new(1) })
    }

    /// Whether the configuration declares a machine, so that it is no machine of the library.
    pub fn is_declared(&self, name: &MachineName) -> bool {
        self.declared.contains(name)
    }

    /// Boots a machine, or restores it if it is suspended; resolves when it runs.
    pub async fn start(&self, name: &MachineName, sizes: Sizes, request: &RunRequest) -> Result<(), Report> {
        if sizes.disk_size.is_some() {
            let why = format!("{name} is not started with another size of its disk: the disk is a user's");
            return Err(Report::new(Kind::Config, why).hint(format!("darwin-vz-nix set {name} --disk-size SIZE")));
        }
        let vm = self.vm(name)?;
        if !vm.is_active() {
            blocking(|| self.refuse_mac_in_use(name))?;
        }
        vm.start(sizes, request).await
    }

    /// Stops a machine: by its power button and, after a grace period, by force; or at once. A suspended machine loses its saved
    /// state. Resolves when it is off.
    pub async fn stop(&self, name: &MachineName, force: bool) -> Result<Stopped, Report> {
        if let Some(vm) = self.started(name).filter(|vm| vm.is_active()) {
            return vm.stop(force).await;
        }
        blocking(|| {
            let machine = self.library.machine(name)?;
            match machine.state {
                dvn_library::State::Suspended => {
                    self.library.discard_saved_state(name)?;
                    self.events.changed();
                    Ok(Stopped { exit: None, discarded: true })
                }
                dvn_library::State::Stopped => Ok(Stopped::default()),
                dvn_library::State::Running { pid } => {
                    Err(Report::new(Kind::Busy, format!("{name} runs in process {pid}, which is not this daemon"))
                        .hint("stop it with the program that started it"))
                }
            }
        })
    }

    /// Saves a running machine's memory and ends its guest; resolves when it is saved.
    pub async fn suspend(&self, name: &MachineName) -> Result<(), Report> {
        self.active(name)?.suspend().await
    }

    /// Pauses a running machine.
    pub async fn pause(&self, name: &MachineName) -> Result<(), Report> {
        self.active(name)?.pause().await
    }

    /// Resumes a paused machine.
    pub async fn resume(&self, name: &MachineName) -> Result<(), Report> {
        self.active(name)?.resume().await
    }

    /// A stream to the agent of a running machine.
    pub async fn agent_stream(&self, name: &MachineName) -> Result<GuestStream, Report> {
        self.active(name)?.agent_stream().await
    }

    /// The addresses of a running machine.
    pub async fn addresses(&self, name: &MachineName) -> Result<Addresses, Report> {
        self.active(name)?.addresses().await
    }

    /// The screen of a running machine.
    pub fn display(&self, name: &MachineName) -> Result<Arc<dyn Display>, Report> {
        self.active(name)?.display()
    }

    /// The file of a machine's serial console.
    pub fn console_log(&self, name: &MachineName) -> Result<PathBuf, Report> {
        self.demand_there(name)?;
        Ok(self.library.files(name).console_log())
    }

    /// Stops every guest, at the same time.
    pub async fn shut_down(&self) {
        let all: Vec<_> = self.all_started().values().cloned().collect();
        futures_util::future::join_all(all.iter().map(|vm| vm.shut_down())).await;
    }

    /// Kills every guest.
    pub async fn kill(&self) {
        let all: Vec<_> = self.all_started().values().cloned().collect();
        futures_util::future::join_all(all.iter().map(|vm| vm.stop(true))).await;
    }

    /// The machine with its lifecycle, which begins with this call.
    fn vm(&self, name: &MachineName) -> Result<Arc<Vm>, Report> {
        if let Some(vm) = self.started(name) {
            return Ok(vm);
        }
        let (hypervisor, machine) = blocking(|| Ok::<_, Report>(((self.backend)()?, self.library.machine(name)?)))?;
        let mut started = self.all_started();
        let vm = started.entry(name.clone()).or_insert_with(|| {
            let runtime_dir = self.run.join(self.last.fetch_add(1, Relaxed).to_string());
            let (budget, events) = (Arc::clone(&self.budget), Arc::clone(&self.events));
            Arc::new(Vm::new(&machine, self.library.clone(), hypervisor, runtime_dir, budget, events))
        });
        Ok(Arc::clone(vm))
    }

    /// A machine whose lifecycle has begun and whose guest is there.
    fn active(&self, name: &MachineName) -> Result<Arc<Vm>, Report> {
        match self.started(name).filter(|vm| vm.is_active()) {
            Some(vm) => Ok(vm),
            None => {
                self.demand_there(name)?;
                let report = Report::new(Kind::Busy, format!("{name} does not run"));
                Err(report.hint(format!("start it: darwin-vz-nix start {name}")))
            }
        }
    }

    /// Two guests with one MAC address disturb each other's network. A clone of a suspended machine has its MAC address.
    fn refuse_mac_in_use(&self, name: &MachineName) -> Result<(), Report> {
        let mac = self.library.machine(name)?.config.mac_address;
        let others: Vec<_> =
            self.all_started().iter().filter(|(_, vm)| vm.is_active()).map(|(of, _)| of.clone()).collect();
        let same = others
            .into_iter()
            .filter(|other| other != name)
            .find(|other| self.library.machine(other).is_ok_and(|machine| machine.config.mac_address == mac));
        match same {
            Some(other) => {
                Err(Report::new(Kind::Busy, format!("{name} has the MAC address of {other}, which runs: {mac}")).hint(
                    format!("stop {other} first, or give {name} another one: darwin-vz-nix set {name} --random-mac"),
                ))
            }
            None => Ok(()),
        }
    }

    fn demand_there(&self, name: &MachineName) -> Result<(), Report> {
        blocking(|| match self.library.machine(name) {
            Err(report) if report.kind == Kind::NotFound => Err(report),
            _ => Ok(()),
        })
    }

    fn started(&self, name: &MachineName) -> Option<Arc<Vm>> {
        self.all_started().get(name).cloned()
    }

    fn all_started(&self) -> MutexGuard<'_, BTreeMap<MachineName, Arc<Vm>>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
