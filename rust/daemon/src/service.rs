//! The API's trait `Control`, implemented by the daemon.

use crate::{connection::Connection, daemon::Daemon, views, vms::Vms};
use dvn_host::blocking;
use dvn_http::{
    control::{Change, Control, Tunnel},
    library_control::{LibraryChange, LibraryControl},
};
use dvn_hypervisor::GuestStream;
use dvn_types::{
    Keep, Kind, MachineName, Report, Service, Sizes,
    wire::{
        Addresses, BackendView, BootList, ConfigView, Connections, DaemonStatus, DestroyRequest, Event, GenerationList,
        MachineList, RunRequest, StartRequest, Stopped, Trimmed, Vm,
    },
};
use futures_util::future::BoxFuture;
use std::{io, path::PathBuf};
use tokio::sync::{broadcast, watch};

impl Tunnel for Connection {
    fn carry(self: Box<Self>, client: GuestStream) -> BoxFuture<'static, io::Result<(u64, u64)>> {
        Box::pin(async move { Connection::carry(*self, client).await })
    }
}

impl Control for Daemon {
    fn status(&self) -> DaemonStatus {
        Daemon::status(self)
    }

    fn generation(&self) -> watch::Receiver<u64> {
        Daemon::generation(self)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        Daemon::events(self)
    }

    fn connections(&self) -> Connections {
        Daemon::connections(self)
    }

    fn config(&self) -> ConfigView {
        Daemon::config(self)
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, Report>> {
        Box::pin(Daemon::metrics(self))
    }

    fn log_file(&self) -> PathBuf {
        Daemon::log_file(self)
    }

    fn console_log(&self, machine: &MachineName, boot: i64) -> Result<PathBuf, Report> {
        match self.vm_if_any(machine) {
            Some(vms) if boot == 0 => vms.console_log(machine),
            Some(_) => Err(not_of_the_library("of earlier boots only builders keep the console", machine)),
            None => self.machine(machine)?.console_log(boot),
        }
    }

    fn capabilities(&self, machine: &MachineName) -> Result<BackendView, Report> {
        Ok(self.machine(machine)?.backend())
    }

    fn boots(&self, machine: &MachineName) -> Result<BootList, Report> {
        Ok(self.machine(machine)?.boots())
    }

    fn build_log(&self, machine: &MachineName) -> Result<PathBuf, Report> {
        Ok(self.machine(machine)?.build_log())
    }

    fn generations(&self, machine: &MachineName) -> Result<GenerationList, Report> {
        Ok(self.machine(machine)?.generation_list())
    }

    fn change_generations(&self, machine: &MachineName, change: Change) -> Result<(), Report> {
        let machine = self.machine(machine)?;
        match change {
            Change::RollBack(to) => machine.generations().roll_back(to),
            Change::Build => machine.generations().build_again(),
            Change::Delete(number) => machine.generations().delete(number),
        }
    }

    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            match self.vm_if_any(machine) {
                Some(vms) => vms.start(machine, request.into(), &RunRequest::default()).await,
                None => self.ready(machine, true).await?.start(request.into()).await,
            }
        })
    }

    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> BoxFuture<'a, Result<Stopped, Report>> {
        Box::pin(async move {
            if let Some(vms) = self.vm_if_any(machine) {
                return vms.stop(machine, force).await;
            }
            let machine = self.machine(machine)?;
            let ran = machine.is_running();
            machine.stop(force).await?;
            let exit = machine.last_exit().filter(|_| ran).map(|exit| exit.to_string());
            Ok(Stopped { exit, discarded: false })
        })
    }

    fn trim<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Trimmed, Report>> {
        Box::pin(async move { self.ready(machine, true).await?.trim().await })
    }

    fn pause<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            match self.vm_if_any(machine) {
                Some(vms) => vms.pause(machine).await,
                None => self.machine(machine)?.pause().await,
            }
        })
    }

    fn resume<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            match self.vm_if_any(machine) {
                Some(vms) => vms.resume(machine).await,
                None => self.machine(machine)?.resume().await,
            }
        })
    }

    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            let keep = Keep::from(keep);
            match self.vm_if_any(machine) {
                Some(_) if keep != Keep::default() => {
                    Err(not_of_the_library("only builders have keys and generations to keep", machine))
                }
                Some(vms) => blocking(|| vms.delete(machine)),
                None => Daemon::destroy(self, machine, keep).await,
            }
        })
    }

    fn open<'a>(
        &'a self,
        machine: &'a MachineName,
        service: Service,
    ) -> BoxFuture<'a, Result<Box<dyn Tunnel>, Report>> {
        Box::pin(async move {
            let connection = self.ready(machine, false).await?.open(service).await?;
            Ok(Box::new(connection) as Box<dyn Tunnel>)
        })
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(Daemon::shut_down(self))
    }
}

impl Daemon {
    /// The library, for a machine that is no builder's. Whether it is there shows when it is used.
    fn vm_if_any(&self, machine: &MachineName) -> Option<&Vms> {
        let is_builder = self.machine(machine).map_or_else(|report| report.kind != Kind::NotFound, |_| true);
        (!is_builder).then_some(&self.vms)
    }

    /// The library, for a machine that is none of the configuration.
    fn of_the_library(&self, machine: &MachineName) -> Result<&Vms, Report> {
        self.vm_if_any(machine).ok_or_else(|| {
            Report::new(Kind::Config, format!("{machine} is a builder, which the configuration declares"))
                .hint("this is for machines of the library: `darwin-vz-nix list` shows them")
        })
    }
}

impl LibraryControl for Daemon {
    fn machines(&self, space: bool) -> Result<MachineList, Report> {
        let mut machines: Vec<_> = self.status().machines.iter().map(views::builder).collect();
        machines.extend(self.vms.list(space)?);
        machines.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(MachineList { machines })
    }

    fn machine(&self, name: &MachineName) -> Result<Vm, Report> {
        match self.status().machines.iter().find(|machine| machine.name == *name) {
            Some(builder) => Ok(views::builder(builder)),
            None => self.vms.get(name, true),
        }
    }

    fn change(&self, change: LibraryChange) -> Result<Vm, Report> {
        match change {
            LibraryChange::Create(request) => self.vms.create(request),
            LibraryChange::Clone { from, to } => self.vms.clone_machine(&from, &to),
            LibraryChange::Set(name, request) => self.vms.set(&name, request),
            LibraryChange::Rename { from, to } => self.vms.rename(&from, &to),
        }
    }

    fn run<'a>(&'a self, machine: &'a MachineName, request: RunRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.of_the_library(machine)?.start(machine, Sizes::default(), &request).await })
    }

    fn suspend<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.of_the_library(machine)?.suspend(machine).await })
    }

    fn addresses<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Addresses, Report>> {
        Box::pin(async move { self.of_the_library(machine)?.addresses(machine).await })
    }

    fn screenshot<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Vec<u8>, Report>> {
        Box::pin(async move { self.of_the_library(machine)?.display(machine)?.screenshot().await })
    }

    fn agent<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<GuestStream, Report>> {
        Box::pin(async move { self.of_the_library(machine)?.agent_stream(machine).await })
    }
}

fn not_of_the_library(why: &str, machine: &MachineName) -> Report {
    Report::new(Kind::Config, format!("{why}, and {machine} is a machine of the library"))
}
