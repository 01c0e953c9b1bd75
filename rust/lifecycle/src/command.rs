//! Commands to the actor, and the lease with which it answers a demand.

use super::reports;
use dvn_hypervisor::{Guest, GuestAgent};
use dvn_types::{Report, Sizes};
use std::{fmt, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// A command of a handle or a lease.
#[derive(Debug)]
pub(super) enum Command {
    Demand {
        insist: bool,
        sizes: Sizes,
        /// It has passed the gate, or there is none. Any other demand is dropped without an answer if it needs a boot.
        admitted: bool,
        reply: Answer<Lease>,
    },
    Release {
        epoch: u64,
    },
    Reacquire {
        epoch: u64,
    },
    Stop {
        force: bool,
        reply: Answer<()>,
    },
    /// Stop the guest of this boot, and no later one.
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

/// The right to talk to a guest. While an active lease exists, the guest is not idle. The guest may still end during a lease.
pub struct Lease {
    guest: Arc<dyn Guest>,
    agent: Option<Arc<dyn GuestAgent>>,
    epoch: u64,
    inactive: bool,
    // Weak: a lease does not keep a machine alive whose handles are all dropped.
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Lease {
    pub(super) fn new(
        guest: Arc<dyn Guest>,
        agent: Option<Arc<dyn GuestAgent>>,
        epoch: u64,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        Lease { guest, agent, epoch, inactive: false, commands }
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

    /// The lease no longer keeps the guest running, because its connection transfers nothing.
    pub fn deactivate(&mut self) {
        if !std::mem::replace(&mut self.inactive, true) {
            self.send(Command::Release { epoch: self.epoch });
        }
    }

    /// The lease keeps the guest running again, if the guest has not ended meanwhile.
    pub fn activate(&mut self) {
        if std::mem::replace(&mut self.inactive, false) {
            self.send(Command::Reacquire { epoch: self.epoch });
        }
    }

    fn send(&self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            // Fails only if the actor has ended, and its guest with it.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.deactivate();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
