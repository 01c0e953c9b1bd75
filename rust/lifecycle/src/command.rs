//! What is asked of the actor, and the lease with which it answers.

use super::reports;
use dvn_hypervisor::{Guest, GuestAgent};
use dvn_types::{Report, Sizes};
use std::{fmt, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// What a handle or a lease asks for.
#[derive(Debug)]
pub(super) enum Command {
    Demand {
        insist: bool,
        sizes: Sizes,
        reply: Answer<Lease>,
    },
    Release {
        epoch: u64,
    },
    Retake {
        epoch: u64,
    },
    Stop {
        force: bool,
        reply: Answer<()>,
    },
    /// Stop the guest of this boot, and no other.
    End {
        epoch: u64,
        force: bool,
        reply: Answer<()>,
    },
    GiveWay,
    Pause {
        reply: Answer<()>,
    },
    Resume {
        reply: Answer<Lease>,
    },
    ShutDown {
        reply: Answer<()>,
    },
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, Report>>;

/// The right to talk to a guest. While one lives and does not doze, the guest is not idle; a guest may still end beneath it.
pub struct Lease {
    guest: Arc<dyn Guest>,
    agent: Option<Arc<dyn GuestAgent>>,
    epoch: u64,
    dozes: bool,
    // Weak, for a lease does not keep a machine going whose handles are all gone.
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Lease {
    pub(super) fn new(
        guest: Arc<dyn Guest>,
        agent: Option<Arc<dyn GuestAgent>>,
        epoch: u64,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        Lease { guest, agent, epoch, dozes: false, commands }
    }

    /// The guest.
    pub fn guest(&self) -> &Arc<dyn Guest> {
        &self.guest
    }

    /// The guest's agent, if it has one.
    pub fn agent(&self) -> Option<&Arc<dyn GuestAgent>> {
        self.agent.as_ref()
    }

    /// The guest's agent.
    ///
    /// # Errors
    /// `Guest`: it has none.
    pub fn needs_agent(&self) -> Result<&Arc<dyn GuestAgent>, Report> {
        self.agent.as_ref().ok_or_else(reports::no_agent)
    }

    /// The number of the guest's boot.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// From now on it does not keep the guest, because nothing moves.
    pub fn doze(&mut self) {
        if !std::mem::replace(&mut self.dozes, true) {
            self.tell(Command::Release { epoch: self.epoch });
        }
    }

    /// From now on it keeps the guest again, if that has not gone meanwhile.
    pub fn wake(&mut self) {
        if std::mem::replace(&mut self.dozes, false) {
            self.tell(Command::Retake { epoch: self.epoch });
        }
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            // Without an actor there is nothing left to be idle.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.doze();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
