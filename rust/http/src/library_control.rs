//! The library's side of the daemon as a trait.

use dvn_hypervisor::GuestStream;
use dvn_types::{
    MachineName, Report,
    wire::{Addresses, CreateRequest, MachineList, RunRequest, SetRequest, Vm},
};
use futures_util::future::BoxFuture;

/// The machines of the library, as the API uses them.
pub trait LibraryControl: Send + Sync + 'static {
    /// All machines, builders included; with the blocks of their disks, if wanted. Blocks.
    fn machines(&self, space: bool) -> Result<MachineList, Report>;
    /// One of them, with the blocks of its disk. Blocks.
    fn machine(&self, name: &MachineName) -> Result<Vm, Report>;
    /// Changes the machines on disk; the result is the machine as it is then. Blocks as long as a disk is copied.
    fn change(&self, change: LibraryChange) -> Result<Vm, Report>;
    /// Boots a machine with these devices beside its own; resolves when it runs.
    fn run<'a>(&'a self, machine: &'a MachineName, request: RunRequest) -> BoxFuture<'a, Result<(), Report>>;
    /// Saves a machine's memory and ends its guest; resolves when it is saved.
    fn suspend<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>>;
    /// The addresses of a running machine.
    fn addresses<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Addresses, Report>>;
    /// The screen of a running machine, as a PNG.
    fn screenshot<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Vec<u8>, Report>>;
    /// A byte stream to the agent of a running machine.
    fn agent<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<GuestStream, Report>>;
}

/// A change of the machines on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LibraryChange {
    /// Make a machine with an empty disk.
    Create(CreateRequest),
    /// Make a copy of a machine.
    Clone {
        /// The machine that is copied.
        from: MachineName,
        /// The copy's name.
        to: MachineName,
    },
    /// Change what a machine is made of.
    Set(MachineName, SetRequest),
    /// Give a machine another name.
    Rename {
        /// Its name.
        from: MachineName,
        /// Its new name.
        to: MachineName,
    },
}
