//! Machines of the library are made, cloned, changed, renamed and deleted.
//!
//! All of it blocks, for as long as a disk takes to be copied. A machine with a guest is refused: its lock says so.

use super::Vms;
use dvn_library::{NewMachine, change::Change, config::VmConfig, copy::Unwatched, medium, record::Origin};
use dvn_types::{
    Arch, Kind, MachineName, Report,
    wire::{CreateRequest, SetRequest, Vm},
};
use std::path::PathBuf;

/// The disk of a new machine, in bytes: 50 GB, of which only what the guest writes takes space.
const DISK_SIZE: u64 = 50_000_000_000;

/// Processors of a new machine, where the host has as many.
const CORES: u32 = 4;

impl Vms {
    /// Makes a machine for Linux, with an empty disk.
    pub fn create(&self, request: CreateRequest) -> Result<Vm, Report> {
        let CreateRequest { name, disk_size, medium, arch, cores, memory } = request;
        self.refuse_declared(&name, "make")?;
        let medium = medium.map(PathBuf::from);
        let (can, host_cores) = {
            let hypervisor = (self.backend)()?;
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
            (hypervisor.capabilities().clone(), cores)
        };
        let own = can.archs.first().copied().or_else(Arch::host).unwrap_or(Arch::Aarch64);
        let arch = match &medium {
            Some(path) => medium::choose(path, arch, &can.archs)?,
            None => arch.unwrap_or(own),
        };
        let mut config = VmConfig::linux(arch);
        config.cpu_count = cores.unwrap_or(CORES.min(host_cores));
        config.memory_size = memory.unwrap_or(config.memory_size);
        config.demand_enough()?;
        let origin = medium.map_or(Origin::Blank, |path| Origin::Iso { path });
        let new = NewMachine { config, origin, disk_size: disk_size.unwrap_or(DISK_SIZE) };
        self.library.create(&name, &new)?;
        self.changed(&name)
    }

    /// Makes a machine that is a copy of another one, which must not run.
    pub fn clone_machine(&self, from: &MachineName, name: &MachineName) -> Result<Vm, Report> {
        self.refuse_declared(from, "clone")?;
        self.refuse_declared(name, "make")?;
        self.library.clone_machine(from, name, &Unwatched)?;
        self.changed(name)
    }

    /// Changes what a stopped machine is made of.
    pub fn set(&self, name: &MachineName, request: SetRequest) -> Result<Vm, Report> {
        self.refuse_declared(name, "change")?;
        self.refuse_active(name, "change")?;
        let SetRequest { cores, memory, disk_size, display, display_refit, random_mac } = request;
        let display = display.map(|text| text.parse()).transpose();
        let display = display.map_err(|why: String| Report::new(Kind::Config, why))?;
        let change = Change { cores, memory, display, display_refit, disk_size, new_mac: random_mac };
        self.library.change(name, &change)?;
        self.forget(name);
        self.changed(name)
    }

    /// Gives a machine that does not run another name.
    pub fn rename(&self, from: &MachineName, to: &MachineName) -> Result<Vm, Report> {
        self.refuse_declared(from, "rename")?;
        self.refuse_active(from, "rename")?;
        self.refuse_declared(to, "make")?;
        self.library.rename(from, to)?;
        self.forget(from);
        self.changed(to)
    }

    /// Deletes a machine that does not run, with its disk and all its files.
    pub fn delete(&self, name: &MachineName) -> Result<(), Report> {
        self.refuse_declared(name, "delete")?;
        self.refuse_active(name, "delete")?;
        self.library.delete(name)?;
        self.forget(name);
        self.events.changed();
        Ok(())
    }

    /// Ends the lifecycle of a machine without a guest. A later start begins another one, with what is on disk then.
    fn forget(&self, name: &MachineName) {
        let mut started = self.all_started();
        if started.get(name).is_some_and(|vm| !vm.is_active()) {
            started.remove(name);
        }
    }

    fn changed(&self, name: &MachineName) -> Result<Vm, Report> {
        self.events.changed();
        self.get(name, false)
    }

    /// Also one whose start waits for memory: it would boot as something else than was asked for.
    fn refuse_active(&self, name: &MachineName, verb: &str) -> Result<(), Report> {
        match self.started(name).is_some_and(|vm| vm.is_active()) {
            true => Err(Report::new(Kind::Busy, format!("cannot {verb} {name}: it runs, or is being started"))
                .hint(format!("stop it first: darwin-vz-nix stop {name}"))),
            false => Ok(()),
        }
    }

    fn refuse_declared(&self, name: &MachineName, verb: &str) -> Result<(), Report> {
        match self.is_declared(name) {
            true => {
                Err(Report::new(Kind::Config, format!("cannot {verb} {name}: the configuration declares that machine"))
                    .hint("change the configuration instead, or choose another name"))
            }
            false => Ok(()),
        }
    }
}
