//! A preparation that takes no time, for tests which are about something else.

use super::{Became, Preparation, Ready};
use crate::{
    api::types::StartRequest,
    error::Report,
    guest::agent::Agent,
    hypervisor::{Guest, Verb},
    spec::MachineSpec,
};
use std::{future, sync::Arc};

/// A preparation that takes no time.
pub struct InMemory(Agent);

impl InMemory {
    /// Its guests have this agent.
    pub fn with(agent: Agent) -> Self {
        InMemory(agent)
    }
}

impl Preparation for InMemory {
    fn prepare(&self, _: StartRequest) -> Verb<'_, Result<MachineSpec, Report>> {
        Box::pin(future::ready(Ok(MachineSpec::sample())))
    }
    fn await_ready(&self, _: Arc<dyn Guest>) -> Verb<'_, Result<Ready, Report>> {
        let (kernel, data_disk) = (String::new(), String::new());
        Box::pin(future::ready(Ok(Ready { phases: vec![], kernel, data_disk, agent: self.0.clone() })))
    }
    fn explain(&self, cause: Report) -> Verb<'_, Report> {
        Box::pin(future::ready(cause))
    }
    fn hear(&self, _: Became) {}
}
