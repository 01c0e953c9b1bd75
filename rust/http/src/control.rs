//! The daemon as a trait, so that the API can be tested without one.

use crate::library_control::LibraryControl;
use dvn_hypervisor::GuestStream;
use dvn_types::{
    MachineName, Report, Service,
    wire::{
        BackendView, BootList, ConfigView, Connections, DaemonStatus, DestroyRequest, Event, GenerationList,
        StartRequest, Stopped, Trimmed,
    },
};
use futures_util::future::BoxFuture;
use std::{io, path::PathBuf};
use tokio::sync::{broadcast, watch};

/// The daemon, as the API uses it.
pub trait Control: LibraryControl {
    /// The status of the daemon and all machines, now.
    fn status(&self) -> DaemonStatus;
    /// Changes whenever the status does.
    fn generation(&self) -> watch::Receiver<u64>;
    /// The events from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
    /// The open connections.
    fn connections(&self) -> Connections;
    /// The daemon's settings.
    fn config(&self) -> ConfigView;
    /// Its metrics, in the text format of OpenMetrics. May query guests in use.
    fn metrics(&self) -> BoxFuture<'_, Result<String, Report>>;
    /// The daemon's own log.
    fn log_file(&self) -> PathBuf;
    /// The file of a machine's serial console: of the present or last boot (0), of an earlier one (-1, …), or of a
    /// numbered boot.
    fn console_log(&self, machine: &MachineName, boot: i64) -> Result<PathBuf, Report>;
    /// What a machine's backend can do here.
    fn capabilities(&self, machine: &MachineName) -> Result<BackendView, Report>;
    /// The records of a machine's last boots.
    fn boots(&self, machine: &MachineName) -> Result<BootList, Report>;
    /// The log of the last build of a machine's recipe.
    fn build_log(&self, machine: &MachineName) -> Result<PathBuf, Report>;
    /// The guest systems that a machine can boot.
    fn generations(&self, machine: &MachineName) -> Result<GenerationList, Report>;
    /// Changes the generations.
    fn change_generations(&self, machine: &MachineName, change: Change) -> Result<(), Report>;
    /// Boots a machine; resolves when it runs.
    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> BoxFuture<'a, Result<(), Report>>;
    /// Stops a machine; resolves when it is off.
    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> BoxFuture<'a, Result<Stopped, Report>>;
    /// Makes the guest discard its unused disk blocks on the host; starts it if needed.
    fn trim<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Trimmed, Report>>;
    /// Pauses a machine's guest; resolves when it is paused.
    fn pause<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>>;
    /// Resumes it; resolves when it answers.
    fn resume<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>>;
    /// Stops a builder and deletes its state; one that the configuration declares is made anew. Deletes a machine of the library,
    /// which must not run.
    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> BoxFuture<'a, Result<(), Report>>;
    /// Takes a lease, starts the guest if needed, and connects to one of its services. Dropping the future cancels
    /// this.
    fn open<'a>(&'a self, machine: &'a MachineName, service: Service)
    -> BoxFuture<'a, Result<Box<dyn Tunnel>, Report>>;
    /// Stops every guest.
    fn shut_down(&self) -> BoxFuture<'_, ()>;
}

/// A change that a user can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Select this generation, or the last good one before.
    RollBack(Option<u32>),
    /// Build the recipe and try it, even if that has failed before.
    Build,
    /// Delete this generation.
    Delete(u32),
}

/// An open connection to a guest, with its lease.
pub trait Tunnel: Send {
    /// Copies both ways until both sides have ended. Resolves to the bytes to and from the guest.
    fn carry(self: Box<Self>, client: GuestStream) -> BoxFuture<'static, io::Result<(u64, u64)>>;
}
