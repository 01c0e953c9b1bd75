//! Starts a machine's actor.

use super::{
    actor::Actor,
    handle::{Gate, Handle},
    machine::Policy,
    provider::GuestProvider,
    snapshot::Snapshot,
};
use dvn_hypervisor::Hypervisor;
use dvn_types::MachineName;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Starts the supervisor of a machine, which stays stopped until the first demand.
///
/// When the last [`Handle`] is dropped, the guest is killed and the task ends. Must be called within a tokio runtime.
pub fn spawn(
    name: MachineName,
    hypervisor: Arc<dyn Hypervisor>,
    preparation: Arc<dyn GuestProvider>,
    policy: Policy,
) -> Handle {
    spawn_gated(None, name, hypervisor, preparation, policy)
}

/// The same for a machine whose demands pass this gate.
pub fn spawn_gated(
    gate: Option<Arc<dyn Gate>>,
    name: MachineName,
    hypervisor: Arc<dyn Hypervisor>,
    preparation: Arc<dyn GuestProvider>,
    policy: Policy,
) -> Handle {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (publisher, snapshots) = watch::channel(Snapshot::default());
    let (agent, agents) = watch::channel(None);
    let mut actor = Actor::new(name, hypervisor, preparation, policy, inbox, commands.downgrade(), (publisher, agent));
    actor.gate.clone_from(&gate);
    tokio::spawn(actor.run());
    Handle::new(gate, commands, snapshots, agents)
}
