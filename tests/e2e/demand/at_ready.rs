//! The first moment of a ready guest: each way to power it off works alone, so no request of the host is lost. Below
//! the supervisor, which would use all ways and repeat them.

use crate::lab::{Lab, TIMEOUT};
use dvn_config::{Config, File, HostFacts, MachineConfig, Sources};
use dvn_generations::Generations;
use dvn_guest::builder::BuilderGuest;
use dvn_host::machine_dir::{MachineDir, StateDir};
use dvn_hypervisor::{Exit, Guest};
use dvn_lifecycle::{GuestProvider, Ready};
use dvn_protocol::messages::Ask;
use dvn_types::MachineName;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The number of boots for each way.
const BOOTS: usize = 2;

/// Time for a guest to end its processes and leave its disk clean, emulated and beside other tests.
const POWERS_OFF_WITHIN: Duration = Duration::from_secs(60);

/// A machine without a daemon.
struct Bare {
    lab: Lab,
    name: MachineName,
    config: MachineConfig,
    dir: MachineDir,
}

impl Bare {
    fn new() -> Bare {
        let lab = Lab::new("");
        let sources = Sources {
            flags: vec![],
            env: vec![],
            file: File::read(&lab.dir.path().join("config.toml"), true, None).unwrap(),
            machine: None,
            cwd: lab.dir.path().to_owned(),
            home: None,
            default_state_dir: lab.state(),
        };
        let settings = Config::load(sources).unwrap().settings(&HostFacts::gather()).unwrap();
        let (name, config) = settings.machines.into_iter().next().unwrap();
        let dir = StateDir::open(&lab.state()).unwrap().make_machine(&name).unwrap();
        Bare { lab, name, config, dir }
    }

    async fn boot(&self) -> (Arc<dyn Guest>, Ready) {
        let path = self.lab.path.as_ref();
        let (hardware, builder) = (&self.config.hardware, &self.config.builder);
        let hypervisor =
            dvn_hypervisor::for_this_host(hardware.backend, path, hardware.accelerator.as_deref()).unwrap();
        let capabilities = hypervisor.capabilities().clone();
        let generations = Generations::open(&self.dir, Arc::clone(builder), &capabilities.archs).unwrap();
        let provider = BuilderGuest::new(
            self.name.clone(),
            hardware,
            Arc::clone(builder),
            self.dir.clone(),
            capabilities,
            Arc::new(generations),
            None,
        );
        let provider: &dyn GuestProvider = &provider;
        let guest = hypervisor.boot(provider.prepare(Default::default()).await.unwrap()).await.unwrap();
        let ready = timeout(TIMEOUT, provider.await_ready(guest.clone())).await.expect("ready in time").unwrap();
        (guest, ready)
    }
}

async fn powers_off(bare: &Bare, how: &str, guest: Arc<dyn Guest>) {
    let exit = timeout(POWERS_OFF_WITHIN, guest.exited()).await;
    let console = || std::fs::read_to_string(bare.dir.console_log()).unwrap_or_default();
    assert_eq!(exit.ok(), Some(Exit::PoweredOff), "{how} alone: {}", console());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_press_of_the_button_and_one_word_to_the_agent_are_heard() {
    let bare = Bare::new();
    let mut disks = Vec::new();
    for _ in 0..BOOTS {
        let (guest, ready) = bare.boot().await;
        guest.request_stop().await.unwrap();
        powers_off(&bare, "the button", guest).await;
        disks.push(ready.data_disk);

        let (guest, ready) = bare.boot().await;
        // The guest may be off before its answer has come.
        let _ = ready.agent.as_ref().unwrap().ask(Ask::ShutDown).await;
        powers_off(&bare, "the agent", guest).await;
        disks.push(ready.data_disk);
    }
    assert_eq!(disks, ["formatted", "kept", "kept", "kept"]);
}
