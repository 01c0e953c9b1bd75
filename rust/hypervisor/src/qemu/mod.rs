//! QEMU: for contributors, CI and Linux hosts.
//!
//! ```text
//!   Qemu::boot ─▶ vhost-device-vsock, virtiofsd… ─▶ qemu-system-ARCH ─▶ QMP greets ─▶ QemuGuest
//!                        └──────────────┬──────────────────┘
//!                                   oversee: the one task that owns the processes; the first to end, or a kill, ends all
//! ```

mod command;
mod features;
mod firmware;
mod probe;
mod process;
mod qmp;
mod shield;
mod vsock;

use super::{advice, capabilities::cannot_nest, console};
use crate::{
    capabilities::{Capabilities, Limits},
    seam::{Exit, Guest, GuestListener, GuestStream, Hypervisor},
    spec::{Boot, MachineSpec},
};
use command::{Sockets, Start};
use dvn_types::{Arch, Kind, Report};
use firmware::Firmware;
use futures_util::future::BoxFuture;
use probe::{Accelerator, Programs, VIRTIOFS, VSOCK};
use process::Process;
use qmp::{Qmp, ShutdownCause};
use std::{ffi::OsStr, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vsock::Dialler;

/// How long QEMU may take to dial its monitor: it does so before the guest's first instruction.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long QEMU may take to end when one of its helpers did: after a power-off the helpers often end first.
const COURTESY: Duration = Duration::from_secs(2);

/// Of QEMU's machines q35 and virt, the smaller ones; memory is limited by the host's alone.
const LIMITS: Limits = Limits { cores: (1, 255), memory: (64 << 20, u64::MAX) };

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
            limits: LIMITS,
            features: features::all(&programs, accelerator, &kvm),
        };
        Ok(Qemu { programs, accelerator, capabilities })
    }

    async fn boot(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, Report> {
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
        let sockets = Sockets(&spec.runtime_dir);

        let mut helpers = Vec::new();
        if spec.devices.vsock {
            let helper = Process::start(&self.programs, VSOCK, command::vsock(&spec))?;
            helpers.push((helper, sockets.vhost_vsock()));
        }
        for index in 0..spec.devices.shares.len() {
            let helper = Process::start(&self.programs, VIRTIOFS, command::virtiofs(&spec, index))?;
            helpers.push((helper, sockets.share(index)));
        }
        let monitor = UnixListener::bind(sockets.qmp()).map_err(|e| cannot("listen for QEMU's monitor", e))?;
        let console = console::log(&spec.console_log).map_err(|e| cannot("write the console log", e))?;
        for (helper, socket) in &mut helpers {
            helper.has_made(socket).await?;
        }
        let mut helpers: Vec<_> = helpers.into_iter().map(|(helper, _)| helper).collect();

        let start = Start { accelerator, firmware: firmware.as_ref() };
        let mut qemu = Process::start(&self.programs, &emulator, command::qemu(&spec, start))?;
        let console = qemu.stdout().map(|out| console::keep(out, console));
        let (shutdown, causes) = mpsc::unbounded_channel();
        let greeted = tokio::select! {
            greeted = timeout(PATIENCE, async { Qmp::greet(monitor.accept().await?.0, shutdown).await }) => greeted,
            how = qemu.ended() => return Err(did_not_start(&how, &mut helpers).await),
        };
        let qmp = match greeted {
            Ok(Ok(qmp)) => qmp,
            // A monitor that breaks off is QEMU on its way out, and its own words tell more.
            Ok(Err(e)) => {
                let how = match timeout(COURTESY, qemu.ended()).await {
                    Ok(how) => how,
                    Err(_) => qemu.said(&format!("does not speak with this program ({e})")),
                };
                return Err(did_not_start(&how, &mut helpers).await);
            }
            Err(_) => {
                let how = qemu.said(&format!("said nothing to this program within {PATIENCE:?}"));
                return Err(did_not_start(&how, &mut helpers).await);
            }
        };

        let kill = CancellationToken::new();
        let (exit_out, exit) = watch::channel(None);
        let (halts, wishes) = mpsc::unbounded_channel();
        let runtime_dir = spec.runtime_dir.clone();
        let crew = Crew { qemu, helpers, console, causes, wishes, kill: kill.clone(), runtime_dir };
        tokio::spawn(async move { exit_out.send_replace(Some(crew.oversee().await)) });
        let dialler = Dialler::new(&spec.runtime_dir);
        Ok(Arc::new(QemuGuest { runtime_dir: spec.runtime_dir, dialler, qmp, halts, kill, exit }))
    }

    /// The firmware, and the machine's variable store made if need be.
    async fn firmware(&self, arch: Arch, variables: PathBuf) -> Result<Firmware, Report> {
        let firmware = self.programs.firmware(arch)?;
        let made = spawn_blocking(move || firmware.ensure_variables(&variables).map(|()| firmware));
        made.await.map_err(|e| Report::new(Kind::Internal, format!("the EFI variable store was not made: {e}")))?
    }
}

/// QEMU is not there: why, in its own words and those of every helper that failed.
async fn did_not_start(how: &str, helpers: &mut [Process]) -> Report {
    let how = with_failures(how.to_owned(), helpers).await;
    Report::new(Kind::Host, format!("QEMU did not start: {how}")).hint(advice::on(&how))
}

/// How QEMU ended, and the helpers that have failed: they may be why.
async fn with_failures(mut how: String, helpers: &mut [Process]) -> String {
    for helper in helpers {
        if let Some(failure) = helper.failed().await {
            how = format!("{how}; {failure}");
        }
    }
    how
}

impl Hypervisor for Qemu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(Qemu::boot(self, spec))
    }
}

struct QemuGuest {
    runtime_dir: PathBuf,
    dialler: Dialler,
    qmp: Qmp,
    halts: mpsc::UnboundedSender<Halt>,
    kill: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

/// The wish that QEMU stands still, or goes on. Its own command for it, `stop`, also stops and restarts the queues of
/// vhost-device-vsock, which was then seen to be deaf for ever, within a few pauses with traffic. So the process is halted as
/// a whole: no queue is touched, and what the host says meanwhile waits.
struct Halt {
    still: bool,
    done: oneshot::Sender<io::Result<()>>,
}

impl QemuGuest {
    async fn stand_still(&self, still: bool) -> Result<(), Report> {
        let cannot = |why: &str| {
            let what = if still { "pause" } else { "resume" };
            Report::new(Kind::Guest, format!("cannot {what} the guest: {why}"))
        };
        let (done, answer) = oneshot::channel();
        self.halts.send(Halt { still, done }).map_err(|_| cannot("it is gone"))?;
        answer.await.map_err(|_| cannot("it is gone"))?.map_err(|error| cannot(&error.to_string()))
    }
}

impl Drop for QemuGuest {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Guest for QemuGuest {
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async {
            let pressed = self.qmp.run("system_powerdown").await;
            pressed.map(drop).map_err(|why| Report::new(Kind::Guest, format!("cannot press the power button: {why}")))
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.kill.cancel();
        Box::pin(std::future::ready(Ok(())))
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.stand_still(true))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.stand_still(false))
    }

    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>> {
        Box::pin(async move {
            match self.dialler.connect(port).await {
                Ok(stream) => Ok(Box::new(stream) as GuestStream),
                Err(e) => {
                    Err(Report::new(Kind::Guest, format!("cannot connect to vsock port {port} of the guest: {e}")))
                }
            }
        })
    }

    fn listen(&self, port: u32) -> Result<GuestListener, Report> {
        vsock::listen(&self.runtime_dir, port, crate::seam::told_exit(&self.exit))
            .map_err(|e| Report::new(Kind::Host, format!("cannot listen on vsock port {port}: {e}")))
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        crate::seam::told_exit(&self.exit)
    }
}

/// The processes of one guest.
struct Crew {
    qemu: Process,
    helpers: Vec<Process>,
    console: Option<AbortOnDropHandle<()>>,
    causes: mpsc::UnboundedReceiver<ShutdownCause>,
    wishes: mpsc::UnboundedReceiver<Halt>,
    kill: CancellationToken,
    runtime_dir: PathBuf,
}

impl Crew {
    /// Waits for the first of them to end, ends the others, and says why the guest is gone.
    async fn oversee(mut self) -> Exit {
        let exit = loop {
            let ended = tokio::select! {
                biased;
                () = self.kill.cancelled() => Some(Exit::Killed),
                Some(Halt { still, done }) = self.wishes.recv() => {
                    // Whoever wished may have given up.
                    let _ = done.send(self.qemu.stand_still(still));
                    None
                }
                exit = first_to_end(&mut self.qemu, &mut self.helpers, &mut self.causes) => Some(exit),
            };
            if let Some(exit) = ended {
                break exit;
            }
        };
        self.qemu.kill().await;
        for helper in &mut self.helpers {
            helper.kill().await;
        }
        if let Some(console) = self.console {
            // What the guest said last is in the pipe and explains the end.
            let _ = timeout(COURTESY, console).await;
        }
        // It holds the initrd with the guest's host key.
        crate::seam::remove_boot_files(&self.runtime_dir);
        exit
    }
}

/// Waits until one of them has ended, and says why the guest is gone.
async fn first_to_end(
    qemu: &mut Process,
    helpers: &mut [Process],
    causes: &mut mpsc::UnboundedReceiver<ShutdownCause>,
) -> Exit {
    tokio::select! {
        biased;
        how = qemu.ended() => {
            let how = with_failures(how, helpers).await;
            why(causes, how).await
        }
        how = first_end(helpers) => match timeout(COURTESY, qemu.ended()).await {
            Ok(qemu) => why(causes, format!("{how}; {qemu}")).await,
            Err(_) => Exit::Crashed(format!("{how}, without which the guest cannot run")),
        },
    }
}

/// Never resolves where there are none.
async fn first_end(helpers: &mut [Process]) -> String {
    if helpers.is_empty() {
        return std::future::pending().await;
    }
    let ends = helpers.iter_mut().map(|helper| Box::pin(helper.ended()));
    futures_util::future::select_all(ends).await.0
}

/// Why QEMU ended: its own word for it, or else how the process ended.
async fn why(causes: &mut mpsc::UnboundedReceiver<ShutdownCause>, how: String) -> Exit {
    let mut last = None;
    // The monitor's task drops its end once it has read all that QEMU said.
    while let Ok(Some(cause)) = timeout(COURTESY, causes.recv()).await {
        last = Some(cause);
    }
    match last {
        Some(ShutdownCause::Guest) => Exit::PoweredOff,
        Some(ShutdownCause::Reset) => {
            Exit::Crashed("the guest reset itself, as it does after a kernel panic".to_owned())
        }
        Some(ShutdownCause::Panic) => Exit::Crashed("the guest's kernel panicked".to_owned()),
        Some(ShutdownCause::Other(reason)) => Exit::Crashed(format!("QEMU shut the guest down ({reason}); {how}")),
        None => Exit::Crashed(how),
    }
}
