//! What the API needs of the daemon, as a trait: so the API is tested without one.

use dvn_hypervisor::GuestStream;
use dvn_types::{
    MachineName, Report, Service,
    wire::{
        BackendView, BootList, ConfigView, Connections, DaemonStatus, DestroyRequest, Event, GenerationList,
        StartRequest, Trimmed,
    },
};
use futures_util::future::BoxFuture;
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
    fn metrics(&self) -> BoxFuture<'_, Result<String, Report>>;
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
    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> BoxFuture<'a, Result<(), Report>>;
    /// Stops a machine; resolves when it is off.
    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> BoxFuture<'a, Result<(), Report>>;
    /// Has the guest, which is started where needed, give back what its disk does not use.
    fn trim<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Trimmed, Report>>;
    /// Has a machine's guest stand still; resolves when it does.
    fn pause<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>>;
    /// Has it go on; resolves when it answers.
    fn resume<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>>;
    /// Stops a machine and deletes its state. One that the configuration declares is made anew, any other is removed.
    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> BoxFuture<'a, Result<(), Report>>;
    /// Takes a lease, starts the guest where needed, and connects to one of its services. Dropping the future gives up.
    fn open<'a>(&'a self, machine: &'a MachineName, service: Service)
    -> BoxFuture<'a, Result<Box<dyn Tunnel>, Report>>;
    /// Stops every guest.
    fn shut_down(&self) -> BoxFuture<'_, ()>;
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
pub trait Tunnel: Send {
    /// Copies both ways until both are at their end. Resolves to the bytes to and from the guest.
    fn carry(self: Box<Self>, client: GuestStream) -> BoxFuture<'static, io::Result<(u64, u64)>>;
}
