//! The API's trait `Control`, implemented by the daemon.

use crate::{connection::Connection, daemon::Daemon};
use dvn_http::control::{Change, Control, Tunnel};
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

    fn start<'a>(&'a self, machine: &'a MachineName, request: StartRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.ready(machine, true).await?.start(request.into()).await })
    }

    fn stop<'a>(&'a self, machine: &'a MachineName, force: bool) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.stop(force).await })
    }

    fn trim<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Trimmed, Report>> {
        Box::pin(async move { self.ready(machine, true).await?.trim().await })
    }

    fn pause<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.pause().await })
    }

    fn resume<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { self.machine(machine)?.resume().await })
    }

    fn destroy<'a>(&'a self, machine: &'a MachineName, keep: DestroyRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(Daemon::destroy(self, machine, keep.into()))
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
