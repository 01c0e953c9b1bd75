//! Reserves a machine's share of the [`Budget`]: its demands wait here for room, and its guest holds the room until it is gone.
//!
//! The rule: a demand waits before the lifecycle receives it. So the boot timeout does not run meanwhile, and a client that
//! disconnects withdraws its demand. A boot without a demand that holds room waits in [`Hypervisor::boot`], within the boot
//! timeout.

use crate::budget::{Budget, Need, Room};
use dvn_hypervisor::{Capabilities, Display, Exit, Guest, GuestListener, GuestStream, Hypervisor, spec::MachineSpec};
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
    /// Why demands are refused, once the machine is shutting down.
    closed: Mutex<Option<Report>>,
}

impl Reservation {
    /// For a machine whose guest takes this many bytes of memory unless a start requests another size.
    pub fn new(budget: Arc<Budget>, machine: MachineName, memory: u64) -> Reservation {
        // The only kind so far.
        let need = Need { memory, kind: GuestKind::Linux };
        Reservation { budget, machine, need, closed: Mutex::default() }
    }

    /// What the machine's boot waits for, if one does.
    pub fn waits_for(&self) -> Option<String> {
        self.budget.waits_for(&self.machine)
    }

    async fn admit(&self, memory: Option<u64>) -> Result<Room, Report> {
        let need = Need { memory: memory.unwrap_or(self.need.memory), ..self.need };
        self.budget.admit(&self.machine, need).await
    }

    fn closed(&self) -> Option<Report> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
            match self.closed() {
                Some(why) => Err(why),
                None => Ok(Box::new(self.admit(sizes.memory).await?) as Box<dyn Any + Send>),
            }
        })
    }

    fn turn_away(&self, why: &Report) {
        self.budget.turn_away(&self.machine, why);
    }

    fn close(&self, why: &Report) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.clone());
        self.turn_away(why);
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

    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            // Resolves at once if the demand still holds the room.
            let room = self.reservation.admit(Some(spec.memory)).await?;
            Ok(ReservingGuest::wrap(self.hypervisor.boot(spec).await?, room))
        })
    }

    fn restore(&self, spec: MachineSpec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            let room = self.reservation.admit(Some(spec.memory)).await?;
            Ok(ReservingGuest::wrap(self.hypervisor.restore(spec, state).await?, room))
        })
    }
}

/// A guest that holds room until it is gone.
struct ReservingGuest {
    guest: Arc<dyn Guest>,
    room: Mutex<Option<Room>>,
}

impl ReservingGuest {
    fn wrap(guest: Arc<dyn Guest>, room: Room) -> Arc<dyn Guest> {
        Arc::new(ReservingGuest { guest, room: Mutex::new(Some(room)) })
    }
}

impl Guest for ReservingGuest {
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.guest.request_stop()
    }
    fn kill(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.guest.kill()
    }
    fn pause(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.guest.pause()
    }
    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.guest.resume()
    }
    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>> {
        self.guest.connect(port)
    }
    fn listen(&self, port: u32) -> Result<GuestListener, Report> {
        self.guest.listen(port)
    }
    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(async move {
            let exit = self.guest.exited().await;
            // Even if a lease still refers to the guest.
            let room = self.room.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(room);
            exit
        })
    }
    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        self.guest.suspend(state)
    }
    fn display(&self) -> Option<Arc<dyn Display>> {
        self.guest.display()
    }
}
