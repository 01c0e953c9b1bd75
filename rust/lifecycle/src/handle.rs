//! The interface of a machine: its [`Handle`]. Its guest can be reached only with a [`Lease`].

use super::{
    command::{Command, Lease},
    reports,
    snapshot::{Phase, Snapshot},
};
use dvn_hypervisor::GuestAgent;
use dvn_types::{Report, Sizes};
use futures_util::future::BoxFuture;
use std::{any::Any, fmt, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Admits demands for a guest before the machine receives them.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// Resolves once a guest of these sizes may boot. The result is held until the demand is answered. Dropping the future
    /// cancels the wait. Called only while no guest is there to stay.
    fn pass(&self, sizes: Sizes) -> BoxFuture<'_, Result<Box<dyn Any + Send>, Report>>;
    /// Admits a guest of these sizes without a wait. The result keeps its room.
    ///
    /// # Errors
    /// `Busy`: it would have to wait, for this reason.
    fn pass_now(&self, sizes: Sizes) -> Result<Box<dyn Any + Send>, Report>;
    /// Resolves once the machine's earlier guests have released their resources, also the guest of a cancelled boot.
    fn vacant(&self) -> BoxFuture<'_, ()>;
    /// Refuses with this error all demands that wait, and those that arrive until the result is dropped.
    fn shut(&self, why: &Report) -> Box<dyn Any + Send>;
    /// Refuses all waiting and all later demands with this error.
    fn close(&self, why: &Report);
}

/// A machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    gate: Option<Arc<dyn Gate>>,
    commands: mpsc::UnboundedSender<Command>,
    snapshots: watch::Receiver<Snapshot>,
    agents: watch::Receiver<Option<Arc<dyn GuestAgent>>>,
}

impl Handle {
    pub(super) fn new(
        gate: Option<Arc<dyn Gate>>,
        commands: mpsc::UnboundedSender<Command>,
        snapshots: watch::Receiver<Snapshot>,
        agents: watch::Receiver<Option<Arc<dyn GuestAgent>>>,
    ) -> Handle {
        Handle { gate, commands, snapshots, agents }
    }

    /// Boots the guest if necessary, and keeps it running while the lease exists. Resolves once the guest answers.
    ///
    /// # Errors
    /// The boot failed, or a recent one did (`Boot`, or the kind of the cause); or the machine is being stopped (`Busy`).
    pub async fn acquire(&self) -> Result<Lease, Report> {
        self.demand(false, Sizes::default()).await
    }

    /// Boots the guest if necessary, even within the back-off after a failure. The sizes replace the configured ones for this
    /// boot only. Resolves once the guest answers.
    ///
    /// # Errors
    /// As [`Handle::acquire`]; also `Busy` if a guest of other sizes runs or boots.
    pub async fn start(&self, sizes: Sizes) -> Result<(), Report> {
        self.demand(true, sizes).await.map(drop)
    }

    /// Stops the guest: by its power button and a grace period, or at once. Resolves when the guest is gone.
    ///
    /// # Errors
    /// `Busy`: the guest does not end, although it was killed several times.
    pub async fn stop(&self, force: bool) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        // An actor that has ended has no guest.
        if self.commands.send(Command::Stop { force, reply }).is_err() {
            return Ok(());
        }
        // Only those that wait now.
        drop(self.refuse_demands());
        answer.await.unwrap_or(Ok(()))
    }

    /// Refuses the demands that wait for a boot, as a stop does, and those that arrive until the result is dropped. Demands for
    /// a guest that boots or runs are not affected.
    pub fn refuse_demands(&self) -> Option<Box<dyn Any + Send>> {
        self.gate.as_ref().map(|gate| gate.shut(&reports::being_stopped()))
    }

    /// Keeps the room for a guest of the configured sizes until the result is dropped, while the guest is stopped and started.
    ///
    /// # Errors
    /// `Busy`: another machine comes first, or there is no room.
    pub fn keep_room(&self) -> Result<Option<Box<dyn Any + Send>>, Report> {
        self.gate.as_ref().map(|gate| gate.pass_now(Sizes::default())).transpose()
    }

    /// Stops the guest of this boot as [`Handle::stop`] does, if it still exists; does not affect a later guest. Resolves when
    /// the guest is gone.
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

    /// Pauses the guest until [`Handle::resume`] or the next demand. Its leases stay. Resolves once it is paused.
    ///
    /// # Errors
    /// `Busy`: no guest runs, or it is being resumed or stopped. Otherwise the hypervisor's reason.
    pub async fn pause(&self) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Pause { reply }).map_err(|_| reports::shutting_down())?;
        answer.await.unwrap_or_else(|_| Err(reports::shutting_down()))
    }

    /// Resumes a paused guest; does nothing if it is not paused. Resolves once the guest runs and its clock is set.
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
        if let Some(gate) = &self.gate {
            gate.close(&reports::shutting_down());
        }
        if self.commands.send(Command::ShutDown { reply }).is_ok()
            && let Ok(Err(report)) = answer.await
        {
            tracing::warn!("{report}");
        }
    }

    /// Shortens the idle time of an unused guest, because another machine waits for its memory.
    pub fn give_way(&self) {
        // An actor that has ended has no guest.
        let _ = self.commands.send(Command::GiveWay);
    }

    /// The machine's current state.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    /// The machine's current state and its changes.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }

    /// The agent of the running guest. A request to it does not count as a use of the guest; only a lease does.
    pub fn agent(&self) -> Option<Arc<dyn GuestAgent>> {
        self.agents.borrow().clone()
    }

    async fn demand(&self, insist: bool, sizes: Sizes) -> Result<Lease, Report> {
        loop {
            let passed = match &self.gate {
                Some(gate) if self.may_boot(insist) => Some(gate.pass(sizes).await?),
                _ => None,
            };
            let admitted = passed.is_some() || self.gate.is_none();
            let (reply, answer) = oneshot::channel();
            let demand = Command::Demand { insist, sizes, admitted, reply };
            self.commands.send(demand).map_err(|_| reports::shutting_down())?;
            match answer.await {
                Ok(answer) => return answer,
                Err(_) if admitted => return Err(reports::shutting_down()),
                // The guest has gone meanwhile, so that this demand needs room for the next one.
                Err(_) => {}
            }
        }
    }

    /// Whether a demand of now may cause a boot. A guest that is there has passed the gate already, and a demand that the
    /// lifecycle refuses needs no room.
    fn may_boot(&self, insist: bool) -> bool {
        match &self.snapshots.borrow().phase {
            Phase::Starting | Phase::Running { .. } | Phase::Paused { .. } => false,
            Phase::Failed { retry_at, .. } => insist || *retry_at <= Instant::now(),
            Phase::Stopped { .. } | Phase::Stopping { .. } => true,
        }
    }
}
