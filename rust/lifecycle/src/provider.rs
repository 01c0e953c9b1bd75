//! What makes a machine's guest ready: given to the lifecycle by those who know what the guest is.

use dvn_hypervisor::{Exit, Guest, GuestAgent, spec::MachineSpec};
use dvn_types::{Report, Sizes, TimelinePhase};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// How one machine's guest is made ready, apart from the hypervisor.
///
/// The supervisor never waits for two calls of `prepare`. A boot that is cancelled meanwhile waits a while for its end
/// ([`OVERDUE`](super::boot::OVERDUE)) and then drops it: the implementation sees to it that the next one does not touch the same files. A panic in any of these counts as its failure.
pub trait GuestProvider: Send + Sync + 'static {
    /// Checks the bundle, makes the disk and the boot payload. Nothing is left behind on an error.
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>>;
    /// Takes over a guest that was just booted; resolves when it answers on all its ports. Called at once when
    /// [`dvn_hypervisor::Hypervisor::boot`] has resolved; dropped when the guest is killed or ends first.
    fn await_ready(&self, guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>>;
    /// Adds what is known beside the cause (the last lines of the console) to a boot's failure. Called only for boots
    /// that had a guest: before, the console still tells of another one.
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report>;
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
    /// from the call of [`GuestProvider::await_ready`]; what was earlier is at 0. A last point `ready` is added where
    /// there is none.
    pub phases: Vec<TimelinePhase>,
    /// The guest's kernel release.
    pub kernel: String,
    /// What became of the data disk: `formatted`, `kept`, `rebuilt`.
    pub data_disk: String,
    /// The guest's agent, if it has one.
    pub agent: Option<Arc<dyn GuestAgent>>,
}
