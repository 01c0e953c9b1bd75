//! [`Guest`] for QEMU.

use super::{
    command::{self, Sockets},
    firmware::Firmware,
    hotplug::VsockPort,
    qmp::Qmp,
    screen::QemuScreen,
    suspend,
    vm_task::{GRACE, PauseRequest},
    vsock::{self, Dialler},
};
use crate::{
    saved,
    seam::{Display, Exit, Guest, GuestListener, GuestStream, exit_future},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A guest. Dropping it kills it.
pub struct QemuGuest {
    spec: MachineSpec,
    /// Whether a machine like this can be suspended.
    savable: Result<(), Report>,
    firmware: Option<Firmware>,
    dialler: Dialler,
    qmp: Qmp,
    vsock_port: Option<VsockPort>,
    process: QemuProcess,
    kill: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

/// Stops and continues QEMU's whole process, which a guest with a vsock device takes instead of QEMU's own command
/// `stop`. That would also stop and restart the queues of vhost-device-vsock, after which the device no longer reacts:
/// this was observed within a few pauses with traffic. With the process stopped no queue changes, and data from the host
/// waits.
#[derive(Clone)]
struct QemuProcess {
    requests: mpsc::UnboundedSender<PauseRequest>,
    is_paused: Arc<AtomicBool>,
}

impl QemuProcess {
    async fn set_paused(&self, paused: bool) -> Result<(), String> {
        let gone = || "it is gone".to_owned();
        let (done, answer) = oneshot::channel();
        self.requests.send(PauseRequest { paused, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|error: io::Error| error.to_string())?;
        self.is_paused.store(paused, Ordering::Release);
        Ok(())
    }

    /// Does something for which the process must run. If it fails, a process that was paused is paused again.
    async fn running<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let was_paused = self.is_paused.load(Ordering::Acquire);
        if was_paused {
            self.set_paused(false).await?;
        }
        let done = work.await;
        if done.is_err() && was_paused {
            self.set_paused(true).await?;
        }
        done
    }
}

impl QemuGuest {
    /// A guest whose processes already belong to a `VmTask`.
    pub fn new(
        spec: MachineSpec,
        savable: Result<(), Report>,
        firmware: Option<Firmware>,
        qmp: Qmp,
        pause_requests: mpsc::UnboundedSender<PauseRequest>,
        kill: CancellationToken,
        exit: watch::Receiver<Option<Exit>>,
    ) -> QemuGuest {
        let dialler = Dialler::new(&spec.runtime_dir);
        let vsock_port = command::has_vsock_port(&spec).then(|| VsockPort::new(qmp.clone(), &spec.runtime_dir));
        let process = QemuProcess { requests: pause_requests, is_paused: Arc::default() };
        QemuGuest { spec, savable, firmware, dialler, qmp, vsock_port, process, kill, exit }
    }

    /// Pauses or resumes the guest's processors.
    async fn set_paused(&self, paused: bool) -> Result<(), Report> {
        let done = match self.spec.devices.vsock {
            true => self.process.set_paused(paused).await,
            false => self.qmp.run(if paused { "stop" } else { "cont" }).await.map(drop),
        };
        let what = if paused { "pause" } else { "resume" };
        done.map_err(|why| Report::new(Kind::Guest, format!("cannot {what} the guest: {why}")))
    }

    /// Loads a saved state into a guest that was started for it, removes the state and resumes the guest.
    pub async fn load(&self, state: PathBuf) -> Result<(), Report> {
        if let Err(why) = suspend::load(&self.qmp, &Sockets(&self.spec.runtime_dir).state(), state.clone()).await {
            // QEMU exits on a state that it cannot load, and its error output says more than its monitor.
            let how = timeout(GRACE, self.exited()).await;
            let more = match how {
                Ok(Exit::Crashed(how)) => format!("; {how}"),
                _ => String::new(),
            };
            return Err(Report::new(Kind::State, format!("the saved guest cannot be restored: {why}{more}"))
                .hint("boot the machine instead; the content of its memory is lost then"));
        }
        if let Some(port) = &self.vsock_port {
            let plugged_in = port.plug_in().await;
            plugged_in.map_err(|why| {
                Report::new(Kind::Host, format!("the saved guest does not get its vsock device: {why}"))
                    .hint("try again; the saved guest is still there")
            })?;
        }
        // From now on the disks may change and no longer match the state.
        let spent = spawn_blocking(move || saved::forget(&state));
        spent.await.map_err(|e| Report::new(Kind::Internal, format!("the saved guest was not removed: {e}")))??;
        let resumed = self.qmp.run("cont").await;
        resumed.map(drop).map_err(|why| Report::new(Kind::Guest, format!("cannot resume the guest: {why}")))
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
        Box::pin(self.set_paused(true))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.set_paused(false))
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
        vsock::listen(&self.spec.runtime_dir, port, exit_future(&self.exit))
            .map_err(|e| Report::new(Kind::Host, format!("cannot listen on vsock port {port}: {e}")))
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        exit_future(&self.exit)
    }

    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        if let Err(why) = &self.savable {
            return Box::pin(std::future::ready(Err(why.clone())));
        }
        let (qmp, spec, firmware) = (self.qmp.clone(), self.spec.clone(), self.firmware.clone());
        let (vsock_port, process) = (self.vsock_port.clone(), self.process.clone());
        let exited = exit_future(&self.exit);
        // In a task, so that it completes or is undone even if this future is dropped.
        let work = tokio::spawn(async move {
            let socket = Sockets(&spec.runtime_dir).state();
            let facts = move || suspend::facts(&spec, firmware.as_ref());
            let mut failed = None;
            let save = async {
                let saved = suspend::save(&qmp, &socket, state.clone(), facts).await;
                saved.map_err(|report| failed.insert(report).message.clone())
            };
            let saved = match vsock_port {
                Some(port) => process.running(port.empty_during(save)).await,
                None => save.await,
            };
            saved.map_err(|why| match failed {
                Some(report) => Report { message: why, ..report },
                None => suspend::cannot(why),
            })?;
            // QEMU may exit before it answers.
            let _ = qmp.run("quit").await;
            match exited.await {
                Exit::Suspended => Ok(()),
                other => {
                    suspend::blocking(move || saved::forget(&state)).await?;
                    Err(suspend::cannot(format!("it was saved, but then it {other}")))
                }
            }
        });
        Box::pin(async { work.await.unwrap_or_else(|e| Err(suspend::cannot(e.to_string()))) })
    }

    fn display(&self) -> Option<Arc<dyn Display>> {
        self.spec.devices.display?;
        Some(Arc::new(QemuScreen::new(self.qmp.clone(), self.spec.runtime_dir.clone())))
    }
}
