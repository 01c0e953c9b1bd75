//! The task that owns one guest's machine and its resources.

use super::{
    bridge::{Events, Machine},
    reason::describe,
    sink::{Event, Failure},
};
use crate::seam::Exit;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Time limit for operations of the framework that do not depend on the guest.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// One guest's machine, its resources, and the channels of the task that owns them.
pub struct VmTask {
    pub machine: Arc<Machine>,
    pub events: Events,
    pub console: AbortOnDropHandle<()>,
    /// Load this state and stay paused, instead of booting.
    pub state: Option<PathBuf>,
    pub kill: CancellationToken,
    /// The guest has been saved.
    pub saved: CancellationToken,
    pub runtime_dir: PathBuf,
}

impl VmTask {
    /// Starts the machine, waits for its end or a request to stop it, and returns why the guest ended.
    pub async fn run(mut self, started: oneshot::Sender<Result<(), Failure>>) -> Exit {
        let exit = match self.start(started).await {
            Ok(()) => tokio::select! {
                biased;
                () = self.kill.cancelled() => self.stop(Exit::Killed).await,
                () = self.saved.cancelled() => self.stop(Exit::Suspended).await,
                exit = ending(&mut self.events) => exit,
            },
            Err(exit) => exit,
        };
        drop(self.machine);
        // The event stream ends when the machine is released completely.
        let gone = async { while self.events.recv().await.is_some() {} };
        if timeout(TIMEOUT, gone).await.is_err() {
            tracing::error!("a VM that has ended was not released completely within {TIMEOUT:?}");
        }
        // The pipe still has the guest's last output, which explains the end.
        let _ = timeout(TIMEOUT, self.console).await;
        crate::seam::remove_boot_files(&self.runtime_dir);
        exit
    }

    async fn start(&mut self, started: oneshot::Sender<Result<(), Failure>>) -> Result<(), Exit> {
        // A machine cannot be stopped while it starts, so a kill waits for the start, up to a limit.
        let given_up = async {
            self.kill.cancelled().await;
            tokio::time::sleep(TIMEOUT).await;
        };
        let begin = async {
            match self.state.as_deref().map(Path::to_string_lossy) {
                Some(state) => self.machine.restore(state.into_owned()).await,
                None => self.machine.start().await,
            }
        };
        let answer = tokio::select! {
            answer = begin => answer,
            () = given_up => return Err(Exit::Killed),
        };
        let failed = answer.as_ref().err().map(|e| Exit::Crashed(describe(e)));
        // The receiver is gone if the boot was cancelled.
        let _ = started.send(answer);
        failed.map_or(Ok(()), Err)
    }

    async fn stop(&self, exit: Exit) -> Exit {
        match timeout(TIMEOUT, self.machine.stop()).await {
            Ok(Ok(())) => {}
            // The machine has just ended by itself; otherwise dropping it ends it.
            Ok(Err(failure)) => tracing::debug!("stopping the VM: {}", describe(&failure)),
            Err(_) => tracing::warn!("the VM did not stop within {TIMEOUT:?}; releasing it anyway"),
        }
        exit
    }
}

/// Waits until the machine ends by itself, and returns why.
async fn ending(events: &mut Events) -> Exit {
    loop {
        match events.recv().await {
            Some(Event::Stopped) => return Exit::PoweredOff,
            Some(Event::Crashed(failure)) => return Exit::Crashed(describe(&failure)),
            Some(Event::NetworkLost(failure)) => {
                tracing::warn!("the guest has lost its network: {}", describe(&failure));
            }
            None => return Exit::Crashed("the virtual machine was lost".to_owned()),
        }
    }
}
