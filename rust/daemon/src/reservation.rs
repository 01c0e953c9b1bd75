//! Reserves a machine's share of the [`Budget`]: its demands wait here for room, and its guest holds the room until it is gone.
//!
//! The rule: a demand waits before the lifecycle receives it. So the boot timeout does not run meanwhile, and a client that
//! disconnects withdraws its demand. A boot whose demands were all withdrawn does not begin unless there is room at once.

use crate::budget::{Budget, Need, Refusal, Room};
use dvn_hypervisor::{Capabilities, Guest, Hold, Hypervisor, spec::MachineSpec};
use dvn_lifecycle::{Gate, Handle, Phase};
use dvn_types::{GuestKind, MachineName, Report, Sizes};
use futures_util::future::BoxFuture;
use std::{
    any::Any,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// One machine's reservation.
pub struct Reservation {
    budget: Arc<Budget>,
    machine: MachineName,
    /// The configured need.
    need: Need,
    account: u64,
    /// Refuses demands, once the machine is shutting down.
    closed: Mutex<Option<Refusal>>,
    /// Locked while a guest of this machine exists, also that of a cancelled boot.
    occupied: Arc<tokio::sync::Mutex<()>>,
}

impl Reservation {
    /// For a machine whose guest takes this many bytes of memory unless a start requests another size.
    pub fn new(budget: Arc<Budget>, machine: MachineName, memory: u64) -> Reservation {
        // The only kind so far.
        let need = Need { memory, kind: GuestKind::Linux };
        let account = budget.account();
        Reservation { budget, machine, need, account, closed: Mutex::default(), occupied: Arc::default() }
    }

    /// What the machine's boot waits for, if one does.
    pub fn waits_for(&self) -> Option<String> {
        self.budget.waits_for(&self.machine)
    }

    fn need(&self, memory: Option<u64>) -> Need {
        Need { memory: memory.unwrap_or(self.need.memory), ..self.need }
    }

    /// What a guest of this memory holds until it is gone: its room, and the place of the machine's one guest.
    async fn hold(&self, memory: u64) -> Result<Hold, Report> {
        let place = Arc::clone(&self.occupied).lock_owned().await;
        // Resolves at once: the boot has taken the room already.
        let room = self.budget.admit(self.account, &self.machine, self.need(Some(memory))).await?;
        Ok(Box::new((room, place)))
    }

    /// Shortens the idle time of an unused guest while another machine waits for room. A guest that builds is still asked for
    /// its builds once a minute only: asked more often, it would sooner be slow to answer once, and lose them.
    pub async fn give_way(self: Arc<Self>, handle: Handle, builds: impl Fn() -> u32) {
        let (mut wanted, mut snapshots) = (self.budget.wanted(), handle.watch());
        while wanted.wait_for(|wanted| *wanted).await.is_ok() {
            let phase = snapshots.borrow_and_update().phase.clone();
            if builds() == 0 && matches!(phase, Phase::Running { leases: 0, idle_at: Some(_), asked: false }) {
                handle.give_way();
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("machine", &self.machine).field("need", &self.need).finish_non_exhaustive()
    }
}

impl Gate for Reservation {
    fn pass(&self, sizes: Sizes) -> BoxFuture<'_, Result<Box<dyn Any + Send>, Report>> {
        Box::pin(async move {
            let room = self.budget.demand(self.account, &self.machine, self.need(sizes.memory)).await?;
            Ok(Box::new(room) as Box<dyn Any + Send>)
        })
    }

    fn pass_now(&self, sizes: Sizes) -> Result<Box<dyn Any + Send>, Report> {
        let room: Room = self.budget.demand_now(self.account, &self.machine, self.need(sizes.memory))?;
        Ok(Box::new(room))
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.occupied.lock().await) })
    }

    fn shut(&self, why: &Report) -> Box<dyn Any + Send> {
        Box::new(self.budget.refuse(self.account, why))
    }

    fn close(&self, why: &Report) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.get_or_insert_with(|| self.budget.refuse(self.account, why));
    }
}

/// A hypervisor whose guests hold room in the budget.
pub struct Budgeted {
    /// Runs the guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Reserves their room.
    pub reservation: Arc<Reservation>,
}

impl Hypervisor for Budgeted {
    fn capabilities(&self) -> &Capabilities {
        self.hypervisor.capabilities()
    }

    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            let room = self.reservation.hold(spec.memory).await?;
            self.hypervisor.boot_holding(spec, Box::new((room, hold))).await
        })
    }

    fn restore_holding(
        &self,
        spec: MachineSpec,
        state: PathBuf,
        hold: Hold,
    ) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            let room = self.reservation.hold(spec.memory).await?;
            self.hypervisor.restore_holding(spec, state, Box::new((room, hold))).await
        })
    }
}
