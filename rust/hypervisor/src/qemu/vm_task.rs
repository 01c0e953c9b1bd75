//! The task that owns the processes of one guest.

use super::{process::Process, qmp::ShutdownCause};
use crate::seam::Exit;
use std::{io, path::PathBuf, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Time for QEMU to end after one of its helpers has: after a power-off the helpers often end first.
pub const GRACE: Duration = Duration::from_secs(2);

/// A request to stop QEMU's process (SIGSTOP), or to continue it (SIGCONT).
pub struct PauseRequest {
    pub paused: bool,
    pub done: oneshot::Sender<io::Result<()>>,
}

/// The processes of one guest, and the channels of the task that owns them.
pub struct VmTask {
    pub qemu: Process,
    pub helpers: Vec<Process>,
    pub console: Option<AbortOnDropHandle<()>>,
    pub causes: mpsc::UnboundedReceiver<ShutdownCause>,
    pub pause_requests: mpsc::UnboundedReceiver<PauseRequest>,
    pub kill: CancellationToken,
    pub runtime_dir: PathBuf,
}

impl VmTask {
    /// Waits for the first process to end or a kill, ends the other processes, and returns why the guest ended.
    pub async fn run(mut self) -> Exit {
        let exit = loop {
            let ended = tokio::select! {
                biased;
                () = self.kill.cancelled() => Some(Exit::Killed),
                Some(PauseRequest { paused, done }) = self.pause_requests.recv() => {
                    // The requester may have given up.
                    let _ = done.send(self.qemu.set_paused(paused));
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
            // The pipe still has the guest's last output, which explains the end.
            let _ = timeout(GRACE, console).await;
        }
        crate::seam::remove_boot_files(&self.runtime_dir);
        exit
    }
}

/// Waits until one of the processes has ended, and returns why the guest ended.
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
        how = first_end(helpers) => match timeout(GRACE, qemu.ended()).await {
            Ok(qemu) => why(causes, format!("{how}; {qemu}")).await,
            Err(_) => Exit::Crashed(format!("{how}, without which the guest cannot run")),
        },
    }
}

/// How the first helper ended. Never resolves if there are none.
async fn first_end(helpers: &mut [Process]) -> String {
    if helpers.is_empty() {
        return std::future::pending().await;
    }
    let ends = helpers.iter_mut().map(|helper| Box::pin(helper.ended()));
    futures_util::future::select_all(ends).await.0
}

/// Why QEMU ended: the cause that QMP reported, or else how the process ended.
async fn why(causes: &mut mpsc::UnboundedReceiver<ShutdownCause>, how: String) -> Exit {
    let mut last = None;
    // The monitor's task closes the channel once it has read all of QEMU's messages.
    while let Ok(Some(cause)) = timeout(GRACE, causes.recv()).await {
        last = Some(cause);
    }
    match last {
        Some(ShutdownCause::Guest) => Exit::PoweredOff,
        // Only `suspend` sends `quit`.
        Some(ShutdownCause::Quit) => Exit::Suspended,
        Some(ShutdownCause::Reset) => {
            Exit::Crashed("the guest reset itself, as it does after a kernel panic".to_owned())
        }
        Some(ShutdownCause::Panic) => Exit::Crashed("the guest's kernel panicked".to_owned()),
        Some(ShutdownCause::Other(reason)) => Exit::Crashed(format!("QEMU shut the guest down ({reason}); {how}")),
        None => Exit::Crashed(how),
    }
}

/// How QEMU ended, with the helpers that have failed: they may be the cause.
pub async fn with_failures(mut how: String, helpers: &mut [Process]) -> String {
    for helper in helpers {
        if let Some(failure) = helper.failed().await {
            how = format!("{how}; {failure}");
        }
    }
    how
}
