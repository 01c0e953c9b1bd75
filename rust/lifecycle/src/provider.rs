//! The trait that prepares a machine's guest. The code that knows what kind of guest it is implements it.

use dvn_hypervisor::{Exit, Guest, GuestAgent, spec::MachineSpec};
use dvn_types::{Report, Sizes, TimelinePhase};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Makes one machine's guest ready: everything but the hypervisor's part.
///
/// The supervisor never waits for two calls of `prepare` at once. A boot that is cancelled meanwhile waits a while for the
/// end of `prepare` ([`OVERDUE`](super::boot::OVERDUE)) and then drops its future. The implementation must ensure that the
/// next call does not touch the same files meanwhile. A panic in a method counts as its failure.
pub trait GuestProvider: Send + Sync + 'static {
    /// Checks the bundle, and makes the disk and the boot payload. Leaves nothing behind on an error.
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>>;
    /// Waits for a guest that was just booted; resolves when it answers on all its ports. Called as soon as
    /// [`dvn_hypervisor::Hypervisor::boot`] has resolved; dropped if the guest is killed or ends first.
    fn await_ready(&self, guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>>;
    /// Adds further evidence (the last lines of the console) to the cause of a boot's failure. Called only for boots that had
    /// a guest: without one, the console still has the output of an earlier guest.
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report>;
    /// Called with what happens to the boot that was prepared last. Must not block.
    fn on_boot_event(&self, event: BootEvent);
}

/// What happens to a boot, for its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEvent {
    /// Its guest answers.
    Ready,
    /// It failed, for this reason. May come twice: the first reason counts. The guest may still exist.
    Failed(Report),
    /// Its guest has ended.
    Ended(Exit),
}

/// The facts about a guest that answers.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The phases of the boot, seen by the guest (`guest: kernel`, …) and by the host. Their `at_ms` count milliseconds from
    /// the call of [`GuestProvider::await_ready`]; earlier ones are at 0. If there is no phase `ready`, the supervisor adds it
    /// at the end.
    pub phases: Vec<TimelinePhase>,
    /// The guest's kernel release.
    pub kernel: String,
    /// What was done with the data disk: `formatted`, `kept` or `rebuilt`.
    pub data_disk: String,
    /// The guest's agent, if it has one.
    pub agent: Option<Arc<dyn GuestAgent>>,
}
