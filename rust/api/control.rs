//! What the API needs of the daemon, as a trait: so the API is tested without one.

use super::types::{
    ConfigView, Connections, DaemonStatus, DestroyRequest, Event, GenerationList, Service, StartRequest, Trimmed,
};
use super::{boots::BootList, capabilities::BackendView};
use crate::{
    daemon::{Daemon, Passage},
    error::Report,
    hypervisor::{GuestStream, Verb},
    spec::MachineName,
};
use std::{io, path::PathBuf};
use tokio::sync::{broadcast, watch};

/// The daemon, as the API sees it.
pub trait Control: Send + Sync + 'static {
    /// Everything, now.
    fn status(&self) -> DaemonStatus;
    /// Changes whenever the status does.
    fn generation(&self) -> watch::Receiver<u64>;
    /// What happens from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
    /// What goes through the doors now.
    fn connections(&self) -> Connections;
    /// The settings that it goes by.
    fn config(&self) -> ConfigView;
    /// What it counts, in the text format of OpenMetrics. May ask guests that are in use.
    fn metrics(&self) -> Verb<'_, Result<String, Report>>;
    /// The daemon's own log.
    fn log_file(&self) -> PathBuf;
    /// The file of a machine's serial console: of the present or last boot (0), of one before (-1, …), or of the boot of a number.
    fn console_log(&self, machine: &MachineName, boot: i64) -> Result<PathBuf, Report>;
    /// What a machine's backend can do here.
    fn capabilities(&self, machine: &MachineName) -> Result<BackendView, Report>;
    /// What is known of a machine's last boots.
    fn boots(&self, machine: &MachineName) -> Result<BootList, Report>;
    /// What was said when a machine's recipe was built last.
    fn build_log(&self, machine: &MachineName) -> Result<PathBuf, Report>;
    /// The guest systems that a machine can boot.
    fn generations(&self, machine: &MachineName) -> Result<GenerationList, Report>;
    /// Does something about them.
    fn change_generations(&self, machine: &MachineName, change: Change) -> Result<(), Report>;
    /// Boots a machine; resolves when it runs.
    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> Verb<'a, Result<(), Report>>;
    /// Stops a machine; resolves when it is off.
    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> Verb<'a, Result<(), Report>>;
    /// Has the guest, which is started where needed, give back what its disk does not use.
    fn trim<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<Trimmed, Report>>;
    /// Has a machine's guest stand still; resolves when it does.
    fn pause<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<(), Report>>;
    /// Has it go on; resolves when it answers.
    fn resume<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<(), Report>>;
    /// Stops a machine and deletes its state.
    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> Verb<'a, Result<(), Report>>;
    /// Takes a lease, starts the guest where needed, and connects to one of its services. Dropping the future gives up.
    fn open<'a>(&'a self, machine: &'a MachineName, service: Service) -> Verb<'a, Result<Box<dyn Conveyance>, Report>>;
    /// Stops every guest.
    fn shut_down(&self) -> Verb<'_, ()>;
}

/// What a user can have done about generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Go to that one, or to the good one before.
    RollBack(Option<u32>),
    /// Build the recipe and try it, even if that has failed.
    Build,
    /// Delete that one.
    Delete(u32),
}

/// An open way to a guest which holds its lease.
pub trait Conveyance: Send {
    /// Copies both ways until both are at their end. Resolves to the bytes to and from the guest.
    fn carry(self: Box<Self>, client: GuestStream) -> Verb<'static, io::Result<(u64, u64)>>;
}

impl Conveyance for Passage {
    fn carry(self: Box<Self>, client: GuestStream) -> Verb<'static, io::Result<(u64, u64)>> {
        Box::pin(async move { Passage::carry(*self, client).await })
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

    fn metrics(&self) -> Verb<'_, Result<String, Report>> {
        Box::pin(Daemon::metrics(self))
    }

    fn log_file(&self) -> PathBuf {
        Daemon::log_file(self)
    }

    fn console_log(&self, machine: &MachineName, boot: i64) -> Result<PathBuf, Report> {
        self.machine(machine)?.console_log(boot)
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

    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> Verb<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.start(request).await })
    }

    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> Verb<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.stop(force).await })
    }

    fn trim<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<Trimmed, Report>> {
        Box::pin(async move { self.machine(machine)?.trim().await })
    }

    fn pause<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.pause().await })
    }

    fn resume<'a>(&'a self, machine: &'a MachineName) -> Verb<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.resume().await })
    }

    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> Verb<'a, Result<(), Report>> {
        Box::pin(Daemon::destroy(self, machine, keep))
    }

    fn open<'a>(&'a self, machine: &'a MachineName, service: Service) -> Verb<'a, Result<Box<dyn Conveyance>, Report>> {
        Box::pin(async move {
            let passage = self.machine(machine)?.open(service).await?;
            Ok(Box::new(passage) as Box<dyn Conveyance>)
        })
    }

    fn shut_down(&self) -> Verb<'_, ()> {
        Box::pin(Daemon::shut_down(self))
    }
}
