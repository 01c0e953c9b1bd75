//! Calls for the machines of the library.

use super::{Client, RawStream, path::path_of};
use dvn_types::{
    MachineName, Report,
    wire::{Addresses, CreateRequest, DestroyRequest, MachineList, NameRequest, RunRequest, SetRequest, Vm},
};
use hyper::{Method, body::Bytes};

impl Client {
    /// The builders and all machines of the library; with `space` also the blocks of their disks.
    pub async fn machines(&self, space: bool) -> Result<MachineList, Report> {
        self.call(Method::GET, &format!("/v1/machines?space={space}"), Bytes::new()).await
    }

    /// One machine, with the blocks of its disk.
    pub async fn machine(&self, machine: &MachineName) -> Result<Vm, Report> {
        self.call(Method::GET, &path_of(machine, ""), Bytes::new()).await
    }

    /// Makes a machine with an empty disk.
    pub async fn create(&self, request: &CreateRequest) -> Result<Vm, Report> {
        self.send_json(Method::POST, "/v1/machines", request).await
    }

    /// Makes a copy of a machine that does not run.
    pub async fn clone_machine(&self, machine: &MachineName, name: MachineName) -> Result<Vm, Report> {
        self.send_json(Method::POST, &path_of(machine, "/clone"), &NameRequest { name }).await
    }

    /// Changes what a stopped machine is made of.
    pub async fn set(&self, machine: &MachineName, request: &SetRequest) -> Result<Vm, Report> {
        self.send_json(Method::PATCH, &path_of(machine, ""), request).await
    }

    /// Gives a machine that does not run another name.
    pub async fn rename(&self, machine: &MachineName, name: MachineName) -> Result<Vm, Report> {
        self.send_json(Method::POST, &path_of(machine, "/rename"), &NameRequest { name }).await
    }

    /// Deletes a machine that does not run, with all its files.
    pub async fn delete(&self, machine: &MachineName) -> Result<(), Report> {
        self.destroy(machine, DestroyRequest::default()).await
    }

    /// Boots a machine with further devices; returns when it runs.
    pub async fn run(&self, machine: &MachineName, request: &RunRequest) -> Result<(), Report> {
        self.post(&path_of(machine, "/run"), request).await
    }

    /// Saves a machine's memory and ends its guest; returns when it is saved.
    pub async fn suspend(&self, machine: &MachineName) -> Result<(), Report> {
        self.order(&path_of(machine, "/suspend")).await
    }

    /// The addresses of a running machine.
    pub async fn addresses(&self, machine: &MachineName) -> Result<Addresses, Report> {
        self.call(Method::GET, &path_of(machine, "/addresses"), Bytes::new()).await
    }

    /// The screen of a running machine, as a PNG.
    pub async fn screenshot(&self, machine: &MachineName) -> Result<Bytes, Report> {
        self.bytes(&path_of(machine, "/screenshot")).await
    }

    /// A byte stream to the agent of a running machine. Its first line is a `dvn_protocol::service::Call`.
    pub async fn agent(&self, machine: &MachineName) -> Result<RawStream, Report> {
        self.stream(&path_of(machine, "/agent")).await
    }
}
