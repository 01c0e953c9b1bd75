//! The library of the fake daemon: a list in memory.

use super::Fake;
use dvn_http::library_control::{LibraryChange, LibraryControl};
use dvn_hypervisor::GuestStream;
use dvn_types::{
    Arch, Kind, MachineName, Report,
    wire::{Addresses, DiskSpace, GuestOs, Hardware, MachineList, Role, RunRequest, State, Vm},
};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A stopped machine of the library.
pub fn vm(name: &str) -> Vm {
    Vm {
        name: name.parse().unwrap(),
        role: Role::Library,
        state: State::Stopped { last_exit: None },
        waits_for: None,
        hardware: Some(Hardware {
            os: GuestOs::Linux,
            arch: Arch::X86_64,
            cores: 4,
            memory: 4 << 30,
            disk_size: 50_000_000_000,
            disk_format: "raw".to_owned(),
            display: Some("1024x768".to_owned()),
            mac_address: Some("7e:00:00:00:00:01".to_owned()),
            medium: None,
            created_unix_ms: Some(1_700_000_000_000),
            started_unix_ms: Some(1_700_000_060_000),
            directory: Some(format!("/state/machines/{name}")),
        }),
        space: None,
    }
}

impl Fake {
    fn vm(&self, name: &MachineName) -> Result<Vm, Report> {
        let found = self.library.lock().unwrap().iter().find(|vm| vm.name == *name).cloned();
        found.ok_or_else(|| Report::new(Kind::NotFound, format!("there is no machine {name}")))
    }

    fn keep(&self, vm: &Vm) {
        let mut library = self.library.lock().unwrap();
        library.retain(|other| other.name != vm.name);
        library.push(vm.clone());
        library.sort_by(|one, two| one.name.cmp(&two.name));
    }

    /// Moves a machine of the library to another state.
    pub fn vm_moved(&self, name: &MachineName, state: State) -> Result<(), Report> {
        let vm = self.vm(name)?;
        self.keep(&Vm { state, ..vm });
        Ok(())
    }

    /// Removes a machine of the library, if it is one.
    pub fn forget_vm(&self, name: &MachineName) -> bool {
        let mut library = self.library.lock().unwrap();
        let before = library.len();
        library.retain(|vm| vm.name != *name);
        library.len() < before
    }
}

impl LibraryControl for Fake {
    fn machines(&self, space: bool) -> Result<MachineList, Report> {
        let mut machines = self.library.lock().unwrap().clone();
        machines.push(Vm { role: Role::Builder, ..vm("builder") });
        machines.sort_by(|one, two| one.name.cmp(&two.name));
        for vm in machines.iter_mut().filter(|_| space) {
            vm.space = Some(DiskSpace { own: 2_000_000_000, shared: 6_000_000_000 });
        }
        Ok(MachineList { machines })
    }

    fn machine(&self, name: &MachineName) -> Result<Vm, Report> {
        self.vm(name)
    }

    fn change(&self, change: LibraryChange) -> Result<Vm, Report> {
        self.called(format!("{change:?}"))?;
        let made = match change {
            LibraryChange::Create(request) => vm(request.name.as_str()),
            LibraryChange::Clone { from, to } => Vm { name: to, ..self.vm(&from)? },
            LibraryChange::Set(name, _) => self.vm(&name)?,
            LibraryChange::Rename { from, to } => {
                let vm = self.vm(&from)?;
                self.forget_vm(&from);
                Vm { name: to, ..vm }
            }
        };
        self.keep(&made);
        Ok(made)
    }

    fn run<'a>(&'a self, machine: &'a MachineName, request: RunRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            self.called(format!("run {machine} {request:?}"))?;
            self.vm_moved(machine, State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 })
        })
    }

    fn suspend<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            self.called(format!("suspend {machine}"))?;
            self.vm_moved(machine, State::Suspended)
        })
    }

    fn addresses<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Addresses, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            Ok(Addresses {
                addresses: vec!["192.168.64.7".to_owned(), "fd00::7".to_owned()],
                source: "agent".to_owned(),
            })
        })
    }

    fn screenshot<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Vec<u8>, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            Ok(b"\x89PNG\r\n\x1a\n".to_vec())
        })
    }

    /// What is sent comes back.
    fn agent<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<GuestStream, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            let (ours, mut theirs) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let mut bytes = [0; 1024];
                while let Ok(read @ 1..) = theirs.read(&mut bytes).await {
                    if theirs.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Box::new(ours) as GuestStream)
        })
    }
}
