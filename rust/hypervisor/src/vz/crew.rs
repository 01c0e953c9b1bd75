//! What belongs to one guest, and the one task that owns it.

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

/// How long the framework may take for what needs nothing of the guest.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What belongs to one guest.
pub struct Crew {
    pub machine: Arc<Machine>,
    pub events: Events,
    pub console: AbortOnDropHandle<()>,
    /// Begin with this state, and stand still.
    pub state: Option<PathBuf>,
    pub kill: CancellationToken,
    /// The guest has been saved.
    pub saved: CancellationToken,
    pub runtime_dir: PathBuf,
}

impl Crew {
    /// Starts the machine, waits for its end or brings it about, and says why the guest is gone.
    pub async fn oversee(mut self, started: oneshot::Sender<Result<(), Failure>>) -> Exit {
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
        // The events end when nothing of the machine is left.
        let gone = async { while self.events.recv().await.is_some() {} };
        if timeout(PATIENCE, gone).await.is_err() {
            tracing::error!("parts of a VM that has ended are still there after {PATIENCE:?}");
        }
        // What the guest said last is in the pipe and explains the end.
        let _ = timeout(PATIENCE, self.console).await;
        crate::seam::remove_boot_files(&self.runtime_dir);
        exit
    }

    async fn start(&mut self, started: oneshot::Sender<Result<(), Failure>>) -> Result<(), Exit> {
        // A machine cannot be stopped while it starts, so a kill has to wait; but not for ever.
        let given_up = async {
            self.kill.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
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
        // Nobody waits for the start of a boot that was given up.
        let _ = started.send(answer);
        failed.map_or(Ok(()), Err)
    }

    async fn stop(&self, exit: Exit) -> Exit {
        match timeout(PATIENCE, self.machine.stop()).await {
            Ok(Ok(())) => {}
            // It ended by itself just now, or dropping it must do.
            Ok(Err(failure)) => tracing::debug!("stopping the VM: {}", describe(&failure)),
            Err(_) => tracing::warn!("the VM did not stop within {PATIENCE:?}; letting go of it"),
        }
        exit
    }
}

/// Waits until the machine ends by itself.
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
