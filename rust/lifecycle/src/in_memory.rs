//! A provider that takes no time, for tests of other parts.

use super::provider::{BootEvent, GuestProvider, Ready};
use dvn_hypervisor::{Guest, GuestAgent, spec::MachineSpec};
use dvn_types::{Report, Sizes};
use futures_util::future::BoxFuture;
use std::{future, sync::Arc};

/// A provider that takes no time.
pub struct InMemory {
    agent: Arc<dyn GuestAgent>,
    memory: u64,
}

impl InMemory {
    /// A provider whose guests have this agent.
    pub fn with(agent: Arc<dyn GuestAgent>) -> Self {
        InMemory { agent, memory: MachineSpec::sample().memory }
    }

    /// The same, with guests of this memory in bytes.
    #[must_use]
    pub fn with_memory(self, memory: u64) -> Self {
        InMemory { memory, ..self }
    }
}

impl GuestProvider for InMemory {
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        let sample = MachineSpec::sample();
        let (cores, memory) = (sizes.cores.unwrap_or(sample.cores), sizes.memory.unwrap_or(self.memory));
        Box::pin(future::ready(Ok(MachineSpec { cores, memory, ..sample })))
    }
    fn await_ready(&self, _: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        let (kernel, data_disk) = (String::new(), String::new());
        Box::pin(future::ready(Ok(Ready { phases: vec![], kernel, data_disk, agent: Some(self.agent.clone()) })))
    }
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        Box::pin(future::ready(cause))
    }
    fn on_boot_event(&self, _: BootEvent) {}
}
