//! The QEMU backend, for contributors, CI and Linux hosts.
//!
//! ```text
//!   Qemu::launch ─▶ vhost-device-vsock, virtiofsd… ─▶ qemu-system-ARCH ─▶ QMP greets ─▶ QemuGuest
//!                        └──────────────┬──────────────────┘
//!                                 VmTask::run: owns the processes; the first to end, or a kill, ends all
//! ```

mod command;
mod features;
mod firmware;
mod guest;
mod hotplug;
mod parent;
mod probe;
mod process;
mod qmp;
mod screen;
mod shield;
mod starting;
mod suspend;
mod vm_task;
mod vsock;

use super::{advice, capabilities::cannot_nest, console, saved};
use crate::{
    capabilities::{Capabilities, Limits, Part},
    seam::{Guest, Hold, Hypervisor},
    spec::{Boot, MachineSpec},
};
use command::{Sockets, Start};
use dvn_types::{Arch, Kind, Report};
use firmware::Firmware;
use futures_util::future::BoxFuture;
use guest::QemuGuest;
use probe::{Accelerator, Programs, VIRTIOFS, VSOCK};
use process::Process;
use qmp::{Qmp, ShutdownCause};
use starting::Starting;
use std::{ffi::OsStr, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vm_task::{GRACE, VmTask, with_failures};

/// Time limit for QEMU to connect to its monitor socket, which it does before the guest's first instruction.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(30);

/// The smaller limits of QEMU's machines q35 and virt. Only the host's memory limits the guest's.
const LIMITS: Limits = Limits { cores: (1, 255), memory: (64 << 20, u64::MAX) };

/// What QEMU cannot save: state in another process, and machines that depend on the installed version of QEMU.
const CANNOT_SAVE: [(Part, &str); 3] = [
    (Part::Share, "it has a share, and QEMU 7.2 cannot save the open files of its helper for it"),
    (Part::Nvme, "it has an NVMe disk, which QEMU cannot save"),
    (Part::Kernel, "it boots a kernel directly, on a machine that differs between versions of QEMU"),
];

/// The QEMU backend.
pub struct Qemu {
    programs: Programs,
    accelerator: Accelerator,
    capabilities: Capabilities,
}

impl Qemu {
    /// Searches for QEMU along `search_path`. If it is missing, boots fail, not this.
    pub fn probe(search_path: &OsStr, accelerator: Option<&str>) -> Result<Qemu, Report> {
        let programs = Programs::new(search_path);
        let accelerator = probe::accelerator(accelerator)?;
        let kvm = features::Kvm::ask();
        let capabilities = Capabilities {
            backend: "qemu",
            accelerator: accelerator.as_str(),
            archs: programs.archs(),
            rosetta: false,
            nested: kvm.nesting(accelerator).is_ok(),
            shares: true,
            pause: true,
            efi: efi(&programs),
            display: Ok(()),
            forwards: Ok(()),
            suspend: Ok(CANNOT_SAVE.to_vec()),
            limits: LIMITS,
            features: features::all(&programs, accelerator, &kvm),
        };
        Ok(Qemu { programs, accelerator, capabilities })
    }

    /// Starts a guest; with `restore`, one that waits for a saved state.
    async fn launch(&self, spec: MachineSpec, restore: bool, hold: Hold) -> Result<Arc<QemuGuest>, Report> {
        self.capabilities.admit_machine(&spec)?;
        let emulator = probe::system_emulator(spec.arch);
        let native = Arch::host() == Some(spec.arch);
        let accelerator = if native { self.accelerator } else { Accelerator::Tcg };
        if spec.devices.nested {
            features::Kvm::ask().nesting(accelerator).map_err(cannot_nest)?;
        }
        let firmware = match &spec.boot {
            Boot::Linux { .. } => None,
            Boot::Efi { variables } => Some(self.firmware(spec.arch, variables.clone()).await?),
        };
        process::kill_orphans(&spec.runtime_dir, &[&emulator, VSOCK, VIRTIOFS]);
        let cannot = |what: &str, e: io::Error| Report::new(Kind::Host, format!("cannot {what}: {e}"));
        let mut starting = Starting::new(hold);
        let sockets = self.helpers(&spec, &mut starting.helpers)?;
        let monitor =
            UnixListener::bind(Sockets(&spec.runtime_dir).qmp()).map_err(|e| cannot("listen for QEMU's monitor", e))?;
        let console = console::log(&spec.console_log).map_err(|e| cannot("write the console log", e))?;
        for (helper, socket) in starting.helpers.iter_mut().zip(&sockets) {
            helper.has_made(socket).await?;
        }

        let start = Start { accelerator, firmware: firmware.as_ref(), restore };
        let qemu = starting.qemu.insert(Process::start(&self.programs, &emulator, command::qemu(&spec, start))?);
        let console = qemu.stdout().map(|out| console::keep(out, console));
        let (shutdown, causes) = mpsc::unbounded_channel();
        let qmp = greeted(qemu, &mut starting.helpers, &monitor, shutdown).await?;
        let complete = starting.complete();
        let (qemu, helpers, hold) =
            complete.ok_or_else(|| Report::new(Kind::Internal, "QEMU was lost while it started"))?;

        let kill = CancellationToken::new();
        let (exit_out, exit) = watch::channel(None);
        let (pause_requests, pauses) = mpsc::unbounded_channel();
        let runtime_dir = spec.runtime_dir.clone();
        let task = VmTask { qemu, helpers, console, causes, pause_requests: pauses, kill: kill.clone(), runtime_dir };
        tokio::spawn(async move {
            let exit = task.run().await;
            drop(hold);
            exit_out.send_replace(Some(exit));
        });
        let savable = self.capabilities.admit_suspend(&spec);
        Ok(Arc::new(QemuGuest::new(spec, savable, firmware, qmp, pause_requests, kill, exit)))
    }

    /// Restores a saved guest.
    async fn load(&self, spec: MachineSpec, state: PathBuf, hold: Hold) -> Result<Arc<dyn Guest>, Report> {
        self.capabilities.admit_suspend(&spec)?;
        let firmware = self.programs.firmware(spec.arch)?;
        let (of, at) = (spec.clone(), state.clone());
        let fits = spawn_blocking(move || saved::check(&at, &suspend::facts(&of, Some(&firmware))?));
        fits.await.map_err(|e| Report::new(Kind::Internal, format!("the saved guest was not checked: {e}")))??;
        let guest = self.launch(spec, true, hold).await?;
        guest.load(state).await?;
        Ok(guest)
    }

    /// Starts the helper programs for a guest's devices. Returns the socket that each of them creates.
    fn helpers(&self, spec: &MachineSpec, helpers: &mut Vec<Process>) -> Result<Vec<PathBuf>, Report> {
        let of = Sockets(&spec.runtime_dir);
        let mut sockets = Vec::new();
        if spec.devices.vsock {
            helpers.push(Process::start(&self.programs, VSOCK, command::vsock(spec))?);
            sockets.push(of.vhost_vsock());
        }
        for index in 0..spec.devices.shares.len() {
            helpers.push(Process::start(&self.programs, VIRTIOFS, command::virtiofs(spec, index))?);
            sockets.push(of.share(index));
        }
        Ok(sockets)
    }

    /// The firmware. Creates the machine's variable store if it is missing.
    async fn firmware(&self, arch: Arch, variables: PathBuf) -> Result<Firmware, Report> {
        let firmware = self.programs.firmware(arch)?;
        let made = spawn_blocking(move || firmware.ensure_variables(&variables).map(|()| firmware));
        made.await.map_err(|e| Report::new(Kind::Internal, format!("the EFI variable store was not made: {e}")))?
    }
}

/// Whether guests of at least one architecture can boot by EFI. A boot checks its own.
fn efi(programs: &Programs) -> Result<(), String> {
    let found = |arch: &Arch| programs.firmware(*arch).is_ok();
    match programs.archs().iter().any(found) {
        true => Ok(()),
        false => Err("no UEFI firmware for QEMU is installed".to_owned()),
    }
}

/// Waits for QEMU's monitor and its greeting.
async fn greeted(
    qemu: &mut Process,
    helpers: &mut [Process],
    monitor: &UnixListener,
    shutdown: mpsc::UnboundedSender<ShutdownCause>,
) -> Result<Qmp, Report> {
    let greeted = tokio::select! {
        greeted = timeout(MONITOR_TIMEOUT, async { Qmp::greet(monitor.accept().await?.0, shutdown).await }) => greeted,
        how = qemu.ended() => return Err(did_not_start(&how, helpers).await),
    };
    let how = match greeted {
        Ok(Ok(qmp)) => return Ok(qmp),
        // If the monitor closes, QEMU is exiting, and its error output says more.
        Ok(Err(e)) => match timeout(GRACE, qemu.ended()).await {
            Ok(how) => how,
            Err(_) => qemu.said(&format!("failed the handshake on its monitor ({e})")),
        },
        Err(_) => qemu.said(&format!("did not connect to its monitor within {MONITOR_TIMEOUT:?}")),
    };
    Err(did_not_start(&how, helpers).await)
}

/// The error for a QEMU that did not start, with its error output and that of each failed helper.
async fn did_not_start(how: &str, helpers: &mut [Process]) -> Report {
    let how = with_failures(how.to_owned(), helpers).await;
    Report::new(Kind::Host, format!("QEMU did not start: {how}")).hint(advice::on(&how))
}

impl Hypervisor for Qemu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async { Ok(self.launch(spec, false, hold).await? as Arc<dyn Guest>) })
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
