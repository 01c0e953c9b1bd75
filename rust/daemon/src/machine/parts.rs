//! The parts of a [`Machine`](super::Machine): of the builder's machine, and of one in memory for tests.

use super::{host_awake::PowerAssertion, provision};
use crate::{budget::Budget, options::RunOptions};
use dvn_config::MachineConfig;
use dvn_generations::{Generations, Nix, TimeLimits};
use dvn_guest::{
    boots::Boots,
    builder::{BuilderGuest, WarmConnection},
    sharing::Sharing,
};
use dvn_host::machine_dir::{MachineDir, StateDir};
use dvn_hypervisor::Hypervisor;
use dvn_lifecycle::GuestProvider;
use dvn_types::{MachineName, Report};
use std::sync::Arc;

/// The parts of a machine.
pub struct Parts {
    /// Runs the guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes the guests ready.
    pub provider: Arc<dyn GuestProvider>,
    /// Holds the connection that confirmed a boot, until a client takes it.
    pub warm: WarmConnection,
    /// The text of the direct door's program.
    pub connect_program: Vec<u8>,
    /// Keeps the host awake while the guest is in use, if the host has a program for that.
    pub assertion: Option<PowerAssertion>,
    /// The guest systems that can boot besides the configured bundle.
    pub generations: Arc<Generations>,
    /// The records of its boots.
    pub boots: Boots,
    /// The host's `nix`.
    pub nix: Nix,
    /// The host's store in its guests, if it is shared.
    pub sharing: Option<Arc<Sharing>>,
    /// The memory for all machines together.
    pub budget: Arc<Budget>,
}

impl Parts {
    /// Creates what is missing in the directory of a builder's machine, and collects the parts.
    pub(super) fn make(
        name: &MachineName,
        config: &MachineConfig,
        state: &StateDir,
        options: &RunOptions,
        budget: Arc<Budget>,
    ) -> Result<(MachineDir, Parts), Report> {
        let (hardware, builder) = (&config.hardware, &config.builder);
        let accelerator = hardware.accelerator.as_deref();
        let hypervisor = dvn_hypervisor::for_this_host(hardware.backend, &options.search_path, accelerator)?;
        let dir = state.make_machine(name)?;
        let connect_program = provision::connect_program(options, name)?;
        provision::provision(&dir, name, &connect_program)?;
        let sharing = Sharing::new(name, builder, &dir)?;
        let capabilities = hypervisor.capabilities().clone();
        let generations = Arc::new(Generations::open(&dir, Arc::clone(builder), &capabilities.archs)?);
        let provider = BuilderGuest::new(
            name.clone(),
            hardware,
            Arc::clone(builder),
            dir.clone(),
            capabilities,
            Arc::clone(&generations) as _,
            sharing.clone(),
        );
        let (warm, boots) = (provider.warm(), provider.boots());
        let nix = Nix {
            programs: builder.nix.clone(),
            search_path: options.search_path.clone(),
            environment: options.nix_environment.clone(),
            address: dir.direct_address(),
            log: dir.build_log(),
            time_limits: TimeLimits::default(),
        };
        let assertion = PowerAssertion::find(&options.search_path);
        let parts = Parts {
            hypervisor,
            provider: Arc::new(provider),
            warm,
            connect_program,
            assertion,
            generations,
            boots,
            nix,
            sharing,
            budget,
        };
        Ok((dir, parts))
    }
}

#[cfg(test)]
impl Parts {
    /// The parts of a machine whose guest is in memory and has this agent.
    pub fn in_memory(
        sim: dvn_hypervisor::sim::Sim,
        agent: Arc<dyn dvn_hypervisor::GuestAgent>,
        dir: &MachineDir,
        config: &MachineConfig,
    ) -> Result<Parts, Report> {
        Ok(Parts {
            hypervisor: Arc::new(sim),
            provider: Arc::new(dvn_lifecycle::InMemory::with(agent).with_memory(config.hardware.memory)),
            warm: WarmConnection::default(),
            connect_program: Vec::new(),
            assertion: None,
            generations: Arc::new(Generations::open(dir, Arc::clone(&config.builder), &[])?),
            boots: Boots::of(dir),
            nix: Nix {
                programs: None,
                search_path: "".into(),
                environment: vec![],
                address: dir.direct_address(),
                log: dir.build_log(),
                time_limits: TimeLimits::default(),
            },
            sharing: None,
            budget: Arc::new(Budget::of(u64::MAX, Arc::default())),
        })
    }
}
