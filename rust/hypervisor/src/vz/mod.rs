//! The backend for macOS: Apple's Virtualization through the Swift shim. On Linux the same code drives the stand-in of
//! `tests/virtualization-standin`.
//!
//! ```text
//!   Vz::launch ─▶ ShimSpec ─▶ bridge::Machine ─▶ start, or load ─▶ VzGuest
//!                                 └──────┬──────┘
//!                             VmTask::run: stops the machine, and is the last to release it
//! ```
//!
//! The rule: a machine is stopped before it is dropped, and is released before [`Guest::exited`] resolves.

pub mod bridge;
mod ffi;
mod guest;
mod host;
mod reason;
pub mod sink;
mod spec;
#[cfg(test)]
#[cfg(standin)]
mod standin;
mod suspend;
#[cfg(test)]
#[cfg(standin)]
mod tests;
mod vm_task;

use super::{console, saved};
use crate::{
    capabilities::Capabilities,
    seam::{Guest, Hold, Hypervisor},
    spec::MachineSpec,
};
use bridge::Machine;
use dvn_types::{Arch, Kind, Report};
use futures_util::future::BoxFuture;
use guest::VzGuest;
pub use host::{Host, Rosetta};
use reason::report;
use spec::ShimSpec;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::unix::pipe,
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use vm_task::VmTask;

/// The Virtualization backend.
pub struct Vz {
    host: Host,
    capabilities: Capabilities,
}

impl Vz {
    /// Queries the system's capabilities. If it cannot run machines, boots fail, not this.
    pub fn probe() -> Result<Vz, Report> {
        let host = Host::ask()?;
        let capabilities = Capabilities {
            backend: "vz",
            accelerator: "hvf",
            archs: Arch::host().into_iter().collect(),
            rosetta: host.rosetta == Rosetta::Installed,
            nested: host.nested,
            shares: true,
            pause: true,
            efi: Ok(()),
            forwards: Err(
                "macOS gives the guest an address that this Mac reaches, and forwards no port to it".to_owned()
            ),
            display: Err("macOS shows a guest's screen only in a window, and this program has none".to_owned()),
            suspend: host.suspends(),
            limits: host.limits(),
            features: host.features(),
        };
        Ok(Vz { host, capabilities })
    }

    /// What this computer and version of macOS can do.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Restores a saved guest.
    async fn load(&self, spec: MachineSpec, state: PathBuf, hold: Hold) -> Result<Arc<dyn Guest>, Report> {
        self.capabilities.admit_suspend(&spec)?;
        let (of, at) = (spec.clone(), state.clone());
        let identity = suspend::blocking(move || saved::check(&at, &suspend::facts(&of)?)).await?;
        let guest = self.launch(spec, identity, Some(&state), hold).await?;
        // From now on the disks may change and no longer match the state.
        suspend::blocking(move || saved::forget(&state)).await?;
        guest.resume().await?;
        Ok(guest)
    }

    /// Starts a guest, or loads a saved one, which is paused afterwards.
    async fn launch(
        &self,
        spec: MachineSpec,
        identity: Option<String>,
        state: Option<&Path>,
        hold: Hold,
    ) -> Result<Arc<VzGuest>, Report> {
        self.capabilities.admit_machine(&spec)?;
        self.host.check(&spec)?;
        let cannot = |what: &str, e: io::Error| Report::new(Kind::Host, format!("cannot {what}: {e}"));
        let log = console::log(&spec.console_log).map_err(|e| cannot("write the console log", e))?;
        let (output, input) = io::pipe().map_err(|e| cannot("make a pipe for the console", e))?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).map_err(|e| cannot("read the console", e))?;
        // A saved machine can only be restored with the same identifier.
        let identity = identity.or_else(|| self.host.saves().then(bridge::machine_identifier));
        let json = serde_json::to_string(&ShimSpec::new(&spec, input.as_raw_fd(), identity.as_deref()))
            .map_err(|e| Report::new(Kind::Internal, format!("cannot describe the VM to the shim: {e}")))?;
        let (machine, events) = Machine::new(json).map_err(|e| report("cannot make the VM", &e))?;
        drop(input);

        let kill = CancellationToken::new();
        // Cancelling the boot kills the guest.
        let abandoned = kill.clone().drop_guard();
        let (started_out, started) = oneshot::channel();
        let (exit_out, exit) = watch::channel(None);
        let saved = CancellationToken::new();
        let task = VmTask {
            machine: Arc::clone(&machine),
            events,
            console: console::keep(output, log),
            state: state.map(Path::to_owned),
            kill: kill.clone(),
            saved: saved.clone(),
            runtime_dir: spec.runtime_dir.clone(),
        };
        tokio::spawn(async move {
            let exit = task.run(started_out).await;
            drop(hold);
            exit_out.send_replace(Some(exit));
        });
        let machine = Arc::downgrade(&machine);
        match started.await {
            Ok(Ok(())) => {
                abandoned.disarm();
                let savable = self.capabilities.admit_suspend(&spec);
                Ok(Arc::new(VzGuest { machine, spec, identity, savable, kill, saved, exit }))
            }
            Ok(Err(failure)) if state.is_some() => Err(report("cannot load the saved VM", &failure)
                .hint("boot the machine instead; the content of its memory is lost then")),
            Ok(Err(failure)) => Err(report("cannot start the VM", &failure)),
            Err(_) => Err(Report::new(Kind::Boot, "the start of the VM was cancelled")),
        }
    }
}

impl Hypervisor for Vz {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async { Ok(self.launch(spec, None, None, hold).await? as Arc<dyn Guest>) })
    }
    fn restore_holding(
        &self,
        spec: MachineSpec,
        state: PathBuf,
        hold: Hold,
    ) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(self.load(spec, state, hold))
    }
}
