//! The two requests to power off, under a paused clock: the power button, and the agent.

use super::{InMemory, Phase, handle::Handle, spawn, virtual_time::POLICY};
use dvn_hypervisor::{
    Exit,
    sim::{Script, Sim},
    sim_agent,
};
use dvn_protocol::messages::{Answer, Ask};
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::time::Instant;

/// What an agent does when it is asked to shut down.
#[derive(Clone, Copy)]
enum Agents {
    PowerOff,
    Refuse,
    AreSilent,
}

/// A running machine whose hypervisor follows the script.
async fn running(script: Script, agents: Agents) -> (Sim, Handle) {
    let sim = Sim::new(script);
    let hypervisor = sim.clone();
    let agent = sim_agent::that_may_say(move |ask| match (ask, agents) {
        (Ask::ShutDown, Agents::PowerOff) => {
            hypervisor.guest().unwrap().end(Exit::PoweredOff);
            Some(Answer::Done)
        }
        (Ask::ShutDown, Agents::AreSilent) => None,
        _ => Some(Answer::Builds { running: 0 }),
    });
    let machine = spawn("builder".parse().unwrap(), Arc::new(sim.clone()), Arc::new(InMemory::with(agent)), POLICY);
    drop(machine.acquire().await.unwrap());
    (sim, machine)
}

fn deaf() -> Script {
    Script { deaf_to_presses: usize::MAX, ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_react_to_its_button_yet_is_stopped_by_its_agent() {
    for script in [deaf(), Script { verbs_wedged: true, ..deaf() }] {
        let (sim, machine) = running(script, Agents::PowerOff).await;
        let asked = Instant::now();
        machine.stop(false).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(machine.snapshot().phase, Phase::Stopped { last: Some(Exit::PoweredOff) });
        assert_eq!(sim.counters().kills.load(SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_button_does_not_wait_for_the_agent() {
    for agents in [Agents::Refuse, Agents::AreSilent] {
        let (sim, machine) = running(Script::default(), agents).await;
        let asked = Instant::now();
        machine.stop(false).await.unwrap();
        assert_eq!(asked.elapsed(), Script::default().power_off);
        assert_eq!(sim.counters().kills.load(SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reacts_to_neither_is_killed_after_the_grace() {
    let (sim, machine) = running(deaf(), Agents::AreSilent).await;
    let asked = Instant::now();
    machine.stop(false).await.unwrap();
    assert_eq!((asked.elapsed(), sim.counters().kills.load(SeqCst)), (POLICY.grace, 1));
    assert_eq!(machine.snapshot().phase, Phase::Stopped { last: Some(Exit::Killed) });
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_idle_time_is_over_is_asked_in_the_same_way() {
    let (sim, machine) = running(deaf(), Agents::PowerOff).await;
    let mut phases = machine.watch();
    let stopped = phases.wait_for(|snapshot| snapshot.phase.is_at_rest()).await.unwrap().phase.clone();
    assert_eq!(stopped, Phase::Stopped { last: Some(Exit::PoweredOff) });
    assert_eq!(sim.counters().kills.load(SeqCst), 0);
}
