//! A provider that takes no time, for tests of other parts.

use super::provider::{BootEvent, GuestProvider, Ready};
use dvn_hypervisor::{Guest, GuestAgent, spec::MachineSpec};
use dvn_types::{Report, Sizes};
use futures_util::future::BoxFuture;
use std::{future, sync::Arc};

/// A provider that takes no time.
pub struct InMemory(Arc<dyn GuestAgent>);

impl InMemory {
    /// A provider whose guests have this agent.
    pub fn with(agent: Arc<dyn GuestAgent>) -> Self {
        InMemory(agent)
    }
}

impl GuestProvider for InMemory {
    fn prepare(&self, _: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        Box::pin(future::ready(Ok(MachineSpec::sample())))
    }
    fn await_ready(&self, _: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        let (kernel, data_disk) = (String::new(), String::new());
        Box::pin(future::ready(Ok(Ready { phases: vec![], kernel, data_disk, agent: Some(self.0.clone()) })))
    }
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        Box::pin(future::ready(cause))
    }
    fn on_boot_event(&self, _: BootEvent) {}
}
