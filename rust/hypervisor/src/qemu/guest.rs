//! A guest that QEMU runs, as the seam shows it.

use super::{
    command::Sockets,
    crew::{COURTESY, Halt},
    firmware::Firmware,
    qmp::Qmp,
    screen::QemuScreen,
    suspend,
    vsock::{self, Dialler},
};
use crate::{
    saved::{self, Saving},
    seam::{Display, Exit, Guest, GuestListener, GuestStream, told_exit},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{io, path::PathBuf, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A guest; ended when dropped.
pub struct QemuGuest {
    spec: MachineSpec,
    /// Whether a machine like this can be suspended.
    savable: Result<(), Report>,
    firmware: Option<Firmware>,
    dialler: Dialler,
    qmp: Qmp,
    halts: mpsc::UnboundedSender<Halt>,
    kill: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

impl QemuGuest {
    /// One whose processes are overseen.
    pub fn new(
        spec: MachineSpec,
        savable: Result<(), Report>,
        firmware: Option<Firmware>,
        qmp: Qmp,
        halts: mpsc::UnboundedSender<Halt>,
        kill: CancellationToken,
        exit: watch::Receiver<Option<Exit>>,
    ) -> QemuGuest {
        let dialler = Dialler::new(&spec.runtime_dir);
        QemuGuest { spec, savable, firmware, dialler, qmp, halts, kill, exit }
    }

    /// Halts the guest's processors, or has them go on.
    async fn stand_still(&self, still: bool) -> Result<(), Report> {
        let done = match self.spec.devices.vsock {
            true => self.halt(still).await,
            false => self.qmp.run(if still { "stop" } else { "cont" }).await.map(drop),
        };
        let what = if still { "pause" } else { "resume" };
        done.map_err(|why| Report::new(Kind::Guest, format!("cannot {what} the guest: {why}")))
    }

    /// QEMU's own command `stop` also stops and restarts the queues of vhost-device-vsock, which was then seen to be deaf for ever,
    /// within a few pauses with traffic. So where there is one, the process is halted as a whole: no queue is touched, and what the
    /// host says meanwhile waits.
    async fn halt(&self, still: bool) -> Result<(), String> {
        let gone = || "it is gone".to_owned();
        let (done, answer) = oneshot::channel();
        self.halts.send(Halt { still, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|error: io::Error| error.to_string())
    }

    /// Has a guest that waits for it go on from a saved state, which is used up by that.
    pub async fn load(&self, state: PathBuf) -> Result<(), Report> {
        if let Err(why) = suspend::load(&self.qmp, &Sockets(&self.spec.runtime_dir).state(), state.clone()).await {
            // QEMU ends at a state that it does not understand, and says more of it than its monitor.
            let how = timeout(COURTESY, self.exited()).await;
            let more = match how {
                Ok(Exit::Crashed(how)) => format!("; {how}"),
                _ => String::new(),
            };
            return Err(Report::new(Kind::State, format!("the saved guest cannot go on: {why}{more}"))
                .hint("boot the machine instead: what was in its memory is lost then"));
        }
        // From now on the disks may change, and the state fits no longer.
        let spent = spawn_blocking(move || saved::forget(&state));
        spent.await.map_err(|e| Report::new(Kind::Internal, format!("the saved guest was not removed: {e}")))??;
        self.stand_still(false).await
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
        vsock::listen(&self.spec.runtime_dir, port, told_exit(&self.exit))
            .map_err(|e| Report::new(Kind::Host, format!("cannot listen on vsock port {port}: {e}")))
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        told_exit(&self.exit)
    }

    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        if let Err(why) = &self.savable {
            return Box::pin(std::future::ready(Err(why.clone())));
        }
        let (qmp, spec, firmware) = (self.qmp.clone(), self.spec.clone(), self.firmware.clone());
        let exited = told_exit(&self.exit);
        // On a task, so that it is done or undone whatever becomes of this future.
        let work = tokio::spawn(async move {
            let saving = suspend::blocking(move || Saving::begin(&state)).await?;
            let file = suspend::create(saving.path())?;
            suspend::save(&qmp, &Sockets(&spec.runtime_dir).state(), file).await.map_err(suspend::cannot)?;
            // It answers, or is gone before it does.
            let _ = qmp.run("quit").await;
            match exited.await {
                Exit::Suspended => {}
                other => return Err(suspend::cannot(format!("it was saved, and then it {other}"))),
            }
            suspend::blocking(move || saving.finish(suspend::facts(&spec, firmware.as_ref())?, None)).await
        });
        Box::pin(async { work.await.unwrap_or_else(|e| Err(suspend::cannot(e.to_string()))) })
    }

    fn display(&self) -> Option<Arc<dyn Display>> {
        self.spec.devices.display?;
        Some(Arc::new(QemuScreen::new(self.qmp.clone(), self.spec.runtime_dir.clone())))
    }
}
