//! QEMU: for contributors, CI and Linux hosts.
//!
//! ```text
//!   Qemu::launch ─▶ vhost-device-vsock, virtiofsd… ─▶ qemu-system-ARCH ─▶ QMP greets ─▶ QemuGuest
//!                        └──────────────┬──────────────────┘
//!                                 Crew::oversee: the one task that owns the processes; the first to end, or a kill, ends all
//! ```

mod command;
mod crew;
mod features;
mod firmware;
mod guest;
mod parent;
mod probe;
mod process;
mod qmp;
mod screen;
mod shield;
mod suspend;
mod vsock;

use super::{advice, capabilities::cannot_nest, console, saved};
use crate::{
    capabilities::{Capabilities, Limits, Part},
    seam::{Guest, Hypervisor},
    spec::{Boot, MachineSpec},
};
use command::{Sockets, Start};
use crew::{COURTESY, Crew, with_failures};
use dvn_types::{Arch, Kind, Report};
use firmware::Firmware;
use futures_util::future::BoxFuture;
use guest::QemuGuest;
use probe::{Accelerator, Programs, VIRTIOFS, VSOCK};
use process::Process;
use qmp::{Qmp, ShutdownCause};
use std::{ffi::OsStr, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long QEMU may take to dial its monitor: it does so before the guest's first instruction.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of QEMU's machines q35 and virt, the smaller ones; memory is limited by the host's alone.
const LIMITS: Limits = Limits { cores: (1, 255), memory: (64 << 20, u64::MAX) };

/// What QEMU saves of a machine: all but what lies in another process, and what depends on the QEMU that is installed.
const CANNOT_SAVE: [(Part, &str); 4] = [
    (Part::Vsock, "it has a vsock device, and what QEMU's helper for that knows of its connections cannot be saved"),
    (Part::Share, "it has a share, and what QEMU's helper for that knows of open files cannot be saved by QEMU 7.2"),
    (Part::Nvme, "it has an NVMe disk, which QEMU cannot save"),
    (Part::Kernel, "it boots a kernel directly, on a machine that is another with each version of QEMU"),
];

/// The QEMU backend.
pub struct Qemu {
    programs: Programs,
    accelerator: Accelerator,
    capabilities: Capabilities,
}

impl Qemu {
    /// Looks for QEMU along `search_path`. That it is missing is an error of the first boot, not of this.
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
            suspend: Ok(CANNOT_SAVE.to_vec()),
            limits: LIMITS,
            features: features::all(&programs, accelerator, &kvm),
        };
        Ok(Qemu { programs, accelerator, capabilities })
    }

    /// Starts a guest, or one that waits for a saved state.
    async fn launch(&self, spec: MachineSpec, restore: bool) -> Result<Arc<QemuGuest>, Report> {
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
        let helpers = self.helpers(&spec)?;
        let monitor =
            UnixListener::bind(Sockets(&spec.runtime_dir).qmp()).map_err(|e| cannot("listen for QEMU's monitor", e))?;
        let console = console::log(&spec.console_log).map_err(|e| cannot("write the console log", e))?;
        let mut helpers = all_ready(helpers).await?;

        let start = Start { accelerator, firmware: firmware.as_ref(), restore };
        let mut qemu = Process::start(&self.programs, &emulator, command::qemu(&spec, start))?;
        let console = qemu.stdout().map(|out| console::keep(out, console));
        let (shutdown, causes) = mpsc::unbounded_channel();
        let qmp = greeted(&mut qemu, &mut helpers, &monitor, shutdown).await?;

        let kill = CancellationToken::new();
        let (exit_out, exit) = watch::channel(None);
        let (halts, wishes) = mpsc::unbounded_channel();
        let runtime_dir = spec.runtime_dir.clone();
        let crew = Crew { qemu, helpers, console, causes, wishes, kill: kill.clone(), runtime_dir };
        tokio::spawn(async move { exit_out.send_replace(Some(crew.oversee().await)) });
        let savable = self.capabilities.admit_suspend(&spec);
        Ok(Arc::new(QemuGuest::new(spec, savable, firmware, qmp, halts, kill, exit)))
    }

    /// Boots a guest that was saved, from its memory.
    async fn restore(&self, spec: MachineSpec, state: PathBuf) -> Result<Arc<dyn Guest>, Report> {
        self.capabilities.admit_suspend(&spec)?;
        let firmware = self.programs.firmware(spec.arch)?;
        let (of, at) = (spec.clone(), state.clone());
        let fits = spawn_blocking(move || saved::check(&at, &suspend::facts(&of, Some(&firmware))?));
        fits.await.map_err(|e| Report::new(Kind::Internal, format!("the saved guest was not looked at: {e}")))??;
        let guest = self.launch(spec, true).await?;
        guest.load(state).await?;
        Ok(guest)
    }

    /// Starts the programs that a guest's devices take, each with the socket that it makes.
    fn helpers(&self, spec: &MachineSpec) -> Result<Vec<(Process, PathBuf)>, Report> {
        let sockets = Sockets(&spec.runtime_dir);
        let mut helpers = Vec::new();
        if spec.devices.vsock {
            let helper = Process::start(&self.programs, VSOCK, command::vsock(spec))?;
            helpers.push((helper, sockets.vhost_vsock()));
        }
        for index in 0..spec.devices.shares.len() {
            let helper = Process::start(&self.programs, VIRTIOFS, command::virtiofs(spec, index))?;
            helpers.push((helper, sockets.share(index)));
        }
        Ok(helpers)
    }

    /// The firmware, and the machine's variable store made if need be.
    async fn firmware(&self, arch: Arch, variables: PathBuf) -> Result<Firmware, Report> {
        let firmware = self.programs.firmware(arch)?;
        let made = spawn_blocking(move || firmware.ensure_variables(&variables).map(|()| firmware));
        made.await.map_err(|e| Report::new(Kind::Internal, format!("the EFI variable store was not made: {e}")))?
    }
}

/// Whether some guest can boot by EFI. Which one can is seen when it boots.
fn efi(programs: &Programs) -> Result<(), String> {
    let found = |arch: &Arch| programs.firmware(*arch).is_ok();
    match programs.archs().iter().any(found) {
        true => Ok(()),
        false => Err("no UEFI firmware for QEMU is installed".to_owned()),
    }
}

/// Waits until each helper has made its socket.
async fn all_ready(helpers: Vec<(Process, PathBuf)>) -> Result<Vec<Process>, Report> {
    let mut ready = Vec::new();
    for (mut helper, socket) in helpers {
        helper.has_made(&socket).await?;
        ready.push(helper);
    }
    Ok(ready)
}

/// QEMU's monitor, once it has greeted.
async fn greeted(
    qemu: &mut Process,
    helpers: &mut [Process],
    monitor: &UnixListener,
    shutdown: mpsc::UnboundedSender<ShutdownCause>,
) -> Result<Qmp, Report> {
    let greeted = tokio::select! {
        greeted = timeout(PATIENCE, async { Qmp::greet(monitor.accept().await?.0, shutdown).await }) => greeted,
        how = qemu.ended() => return Err(did_not_start(&how, helpers).await),
    };
    let how = match greeted {
        Ok(Ok(qmp)) => return Ok(qmp),
        // A monitor that breaks off is QEMU on its way out, and its own words tell more.
        Ok(Err(e)) => match timeout(COURTESY, qemu.ended()).await {
            Ok(how) => how,
            Err(_) => qemu.said(&format!("does not speak with this program ({e})")),
        },
        Err(_) => qemu.said(&format!("said nothing to this program within {PATIENCE:?}")),
    };
    Err(did_not_start(&how, helpers).await)
}

/// QEMU is not there: why, in its own words and those of every helper that failed.
async fn did_not_start(how: &str, helpers: &mut [Process]) -> Report {
    let how = with_failures(how.to_owned(), helpers).await;
    Report::new(Kind::Host, format!("QEMU did not start: {how}")).hint(advice::on(&how))
}

impl Hypervisor for Qemu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async { Ok(self.launch(spec, false).await? as Arc<dyn Guest>) })
    }
    fn restore(&self, spec: MachineSpec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(Qemu::restore(self, spec, state))
    }
}
