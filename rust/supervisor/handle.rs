//! How the rest of the program reaches a machine: through a [`Handle`], and to its guest only with a [`Lease`].

use super::{
    actor::{Actor, Command},
    machine::Policy,
    reports,
    snapshot::Snapshot,
};
use crate::{
    api::types::{StartRequest, TimelinePhase},
    error::Report,
    guest::agent::Agent,
    hypervisor::{Exit, Guest, Hypervisor, Verb},
    spec::{MachineName, MachineSpec},
};
use std::{fmt, sync::Arc};
use tokio::sync::{mpsc, oneshot, watch};

/// How one machine's guest is made ready, apart from the hypervisor.
///
/// The supervisor never waits for two calls of `prepare`. A boot that is cancelled meanwhile waits a while for its end
/// ([`OVERDUE`](super::boot::OVERDUE)) and then drops it: the implementation sees to it that the next one does not touch the same files. A panic in any of these counts as its failure.
pub trait Preparation: Send + Sync + 'static {
    /// Checks the bundle, makes the disk and the boot payload. Nothing is left behind on an error.
    fn prepare(&self, sizes: StartRequest) -> Verb<'_, Result<MachineSpec, Report>>;
    /// Takes over a guest that was just booted; resolves when it answers on all its ports. Called at once when
    /// [`Hypervisor::boot`] has resolved; dropped when the guest is killed or ends first.
    fn await_ready(&self, guest: Arc<dyn Guest>) -> Verb<'_, Result<Ready, Report>>;
    /// Adds what is known beside the cause (the last lines of the console) to a boot's failure. Called only for boots
    /// that had a guest: before, the console still tells of another one.
    fn explain(&self, cause: Report) -> Verb<'_, Report>;
    /// Hears what became of the boot that was prepared last. Must not block.
    fn hear(&self, became: Became);
}

/// What becomes of a boot, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// Its guest answers.
    Ready,
    /// It failed: why. May come twice, and is then told for the first reason; it may also come with a guest that is still there.
    Failed(Report),
    /// Its guest is gone.
    Ended(Exit),
}

/// What is known of a guest that answers.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The way to readiness, points seen by the guest (`guest: kernel`, …) and by the host alike. Their `at_ms` count
    /// from the call of [`Preparation::await_ready`]; what was earlier is at 0. A last point `ready` is added where
    /// there is none.
    pub phases: Vec<TimelinePhase>,
    /// The guest's kernel release.
    pub kernel: String,
    /// What became of the data disk: `formatted`, `kept`, `rebuilt`.
    pub data_disk: String,
    /// The guest's agent.
    pub agent: Agent,
}

/// Starts to look after a machine. It stays stopped until somebody needs it.
///
/// When the last [`Handle`] is dropped, the guest is killed and the task ends. Must be called within a tokio runtime.
pub fn spawn(
    name: MachineName,
    hypervisor: Arc<dyn Hypervisor>,
    preparation: Arc<dyn Preparation>,
    policy: Policy,
) -> Handle {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (publisher, snapshots) = watch::channel(Snapshot::first());
    let (agent, agents) = watch::channel(None);
    let actor = Actor::new(name, hypervisor, preparation, policy, inbox, commands.downgrade(), (publisher, agent));
    tokio::spawn(actor.run());
    Handle { commands, snapshots, agents }
}

/// A machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    snapshots: watch::Receiver<Snapshot>,
    agents: watch::Receiver<Option<Agent>>,
}

impl Handle {
    /// Boots the guest if need be, and keeps it up while the lease lives. Resolves once it answers.
    ///
    /// # Errors
    /// The boot failed, or did lately (`Boot`, or the kind of what failed); or the machine is being stopped (`Busy`).
    pub async fn acquire(&self) -> Result<Lease, Report> {
        self.demand(false, StartRequest::default()).await
    }

    /// Boots the guest if need be, even after a failure just now, with these sizes in place of the configured ones;
    /// they hold for this boot alone. Resolves once it answers.
    ///
    /// # Errors
    /// As [`Handle::acquire`]; also `Busy` if a guest of other sizes is there.
    pub async fn start(&self, sizes: StartRequest) -> Result<(), Report> {
        self.demand(true, sizes).await.map(drop)
    }

    /// Stops the guest: by its power button and a grace period, or at once. Resolves when nothing of it is left.
    ///
    /// # Errors
    /// `Busy`: the guest does not end though it is killed again and again.
    pub async fn stop(&self, force: bool) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        // An actor that is gone has no guest.
        if self.commands.send(Command::Stop { force, reply }).is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }

    /// Stops the guest of this boot as [`Handle::stop`] does, if it is still there; a later guest is left alone. Resolves when
    /// nothing of it is left.
    ///
    /// # Errors
    /// As [`Handle::stop`].
    pub async fn end(&self, epoch: u64, force: bool) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::End { epoch, force, reply }).is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }

    /// Has the guest stand still, with its leases, until [`Handle::resume`] or somebody who needs it. Resolves once it does.
    ///
    /// # Errors
    /// `Busy`: no guest runs, or it is being resumed or stopped. Otherwise the hypervisor's reason.
    pub async fn pause(&self) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Pause { reply }).map_err(|_| reports::shutting_down())?;
        answer.await.unwrap_or_else(|_| Err(reports::shutting_down()))
    }

    /// Has a paused guest go on; nothing to do where it is not paused. Resolves once it answers, with its clock set.
    ///
    /// # Errors
    /// `Busy`: no guest runs.
    pub async fn resume(&self) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Resume { reply }).map_err(|_| reports::shutting_down())?;
        answer.await.unwrap_or_else(|_| Err(reports::shutting_down())).map(drop)
    }

    /// Refuses all demands from now on, and stops the guest as [`Handle::stop`] does.
    pub async fn shut_down(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::ShutDown { reply }).is_ok()
            && let Ok(Err(report)) = answer.await
        {
            tracing::warn!("{report}");
        }
    }

    /// The machine as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    /// The machine as it is and becomes.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }

    /// The agent of the guest that answers now. To ask it is no use of the guest: that takes a lease.
    pub fn agent(&self) -> Option<Agent> {
        self.agents.borrow().clone()
    }

    async fn demand(&self, insist: bool, sizes: StartRequest) -> Result<Lease, Report> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Demand { insist, sizes, reply }).map_err(|_| reports::shutting_down())?;
        answer.await.unwrap_or_else(|_| Err(reports::shutting_down()))
    }
}

/// The right to talk to a guest. While one lives and does not doze, the guest is not idle; a guest may still end beneath it.
pub struct Lease {
    guest: Arc<dyn Guest>,
    agent: Agent,
    epoch: u64,
    dozes: bool,
    // Weak, for a lease does not keep a machine going whose handles are all gone.
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Lease {
    pub(super) fn new(
        guest: Arc<dyn Guest>,
        agent: Agent,
        epoch: u64,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        Lease { guest, agent, epoch, dozes: false, commands }
    }

    /// The guest.
    pub fn guest(&self) -> &Arc<dyn Guest> {
        &self.guest
    }

    /// The guest's agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
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
