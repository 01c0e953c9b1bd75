//! The processes of one guest, and the one task that owns them.

use super::{process::Process, qmp::ShutdownCause};
use crate::seam::Exit;
use std::{io, path::PathBuf, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long QEMU may take to end when one of its helpers did: after a power-off the helpers often end first.
pub const COURTESY: Duration = Duration::from_secs(2);

/// The wish that the process of QEMU stands still, or goes on.
pub struct Halt {
    pub still: bool,
    pub done: oneshot::Sender<io::Result<()>>,
}

/// The processes of one guest.
pub struct Crew {
    pub qemu: Process,
    pub helpers: Vec<Process>,
    pub console: Option<AbortOnDropHandle<()>>,
    pub causes: mpsc::UnboundedReceiver<ShutdownCause>,
    pub wishes: mpsc::UnboundedReceiver<Halt>,
    pub kill: CancellationToken,
    pub runtime_dir: PathBuf,
}

impl Crew {
    /// Waits for the first of them to end, ends the others, and says why the guest is gone.
    pub async fn oversee(mut self) -> Exit {
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
        // Nothing else says so: see `suspend`.
        Some(ShutdownCause::Quit) => Exit::Suspended,
        Some(ShutdownCause::Reset) => {
            Exit::Crashed("the guest reset itself, as it does after a kernel panic".to_owned())
        }
        Some(ShutdownCause::Panic) => Exit::Crashed("the guest's kernel panicked".to_owned()),
        Some(ShutdownCause::Other(reason)) => Exit::Crashed(format!("QEMU shut the guest down ({reason}); {how}")),
        None => Exit::Crashed(how),
    }
}

/// How QEMU ended, and the helpers that have failed: they may be why.
pub async fn with_failures(mut how: String, helpers: &mut [Process]) -> String {
    for helper in helpers {
        if let Some(failure) = helper.failed().await {
            how = format!("{how}; {failure}");
        }
    }
    how
}
