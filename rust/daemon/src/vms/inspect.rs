//! What the machines of the library are and do, for the API.

use super::Vms;
use dvn_hypervisor::Exit;
use dvn_library::{Entry, Machine, State, config::Os};
use dvn_types::{
    Kind, MachineName, Report,
    wire::{self, DiskSpace, GuestOs, Hardware, Role, Vm},
};

impl Vms {
    /// All machines of the library in the order of their names, the broken ones with their reason. Blocks.
    pub fn list(&self, space: bool) -> Result<Vec<Vm>, Report> {
        let entries = self.library.list(&|name| self.declared.iter().any(|declared| declared.as_str() == name))?;
        Ok(entries.into_iter().filter_map(|entry| self.listed(entry, space)).collect())
    }

    /// One machine. Blocks.
    pub fn get(&self, name: &MachineName, space: bool) -> Result<Vm, Report> {
        match self.library.machine(name) {
            Ok(machine) => Ok(self.view(machine, space)),
            Err(report) if report.kind == Kind::NotFound => Err(report),
            Err(report) => Ok(broken(name.clone(), report)),
        }
    }

    fn listed(&self, Entry { name, machine }: Entry, space: bool) -> Option<Vm> {
        match machine {
            Ok(machine) => Some(self.view(machine, space)),
            // A directory with a name that no machine can have is none.
            Err(report) => MachineName::try_from(name.as_os_str()).ok().map(|name| broken(name, report)),
        }
    }

    fn view(&self, machine: Machine, space: bool) -> Vm {
        let vm = self.started(&machine.name);
        let state = vm.as_ref().and_then(|vm| vm.state()).unwrap_or_else(|| match machine.state {
            State::Suspended => wire::State::Suspended,
            State::Running { pid } if pid != std::process::id() => wire::State::Elsewhere { pid },
            State::Running { .. } | State::Stopped => wire::State::Stopped {
                last_exit: vm.as_ref().and_then(|vm| vm.last_exit()).as_ref().map(Exit::to_string),
            },
        });
        let measured = space.then(|| machine.disk_space().ok()).flatten();
        Vm {
            name: machine.name.clone(),
            role: Role::Library,
            state,
            waits_for: vm.and_then(|vm| vm.waits_for()),
            hardware: Some(hardware(&machine)),
            space: measured.map(|space| DiskSpace { own: space.own, shared: space.shared }),
        }
    }
}

fn hardware(machine: &Machine) -> Hardware {
    let (config, record) = (&machine.config, &machine.record);
    Hardware {
        os: match config.os {
            Os::Darwin => GuestOs::Darwin,
            Os::Linux => GuestOs::Linux,
        },
        arch: config.arch,
        cores: config.cpu_count,
        memory: config.memory_size,
        disk_size: std::fs::metadata(machine.files.disk()).map_or(0, |meta| meta.len()),
        disk_format: config.disk_format.as_str().to_owned(),
        display: Some(config.display.to_string()),
        mac_address: Some(config.mac_address.to_string()),
        medium: record.medium.as_ref().map(|path| path.display().to_string()),
        created_unix_ms: Some(record.created_unix_ms),
        started_unix_ms: record.started_unix_ms,
        directory: Some(machine.files.dir().display().to_string()),
    }
}

fn broken(name: MachineName, cause: Report) -> Vm {
    let state = wire::State::Broken { cause };
    Vm { name, role: Role::Library, state, waits_for: None, hardware: None, space: None }
}
