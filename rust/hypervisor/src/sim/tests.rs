use super::*;
use crate::spec::Screen;

#[tokio::test(start_paused = true)]
async fn a_suspended_guest_is_restored_once() {
    let tmp = tempfile::tempdir().unwrap();
    let (sim, state) = (Sim::new(Script::default()), tmp.path().join("state"));
    let mut spec = MachineSpec::sample();
    spec.devices.display = Some(Screen { width: 1, height: 1 });
    let guest = sim.boot(spec.clone()).await.unwrap();
    assert_eq!(guest.display().unwrap().screenshot().await.unwrap(), PNG);
    guest.suspend(state.clone()).await.unwrap();
    assert_eq!((guest.exited().await, sim.counters().alive.load(SeqCst)), (Exit::Suspended, 0));

    sim.rescript(|script| script.restore_error = Some("no memory".into()));
    assert_eq!(sim.restore(spec.clone(), state.clone()).await.err().unwrap().message, "no memory");
    sim.rescript(|script| (script.restore_error, script.suspend_error) = (None, Some("disk full".into())));
    let guest = sim.restore(spec.clone(), state.clone()).await.unwrap();
    assert_eq!(sim.restore(spec, state.clone()).await.err().unwrap().kind, Kind::State, "it is used up");
    assert_eq!(guest.suspend(state.clone()).await.unwrap_err().message, "disk full");
    assert!(!state.exists() && sim.counters().alive.load(SeqCst) == 1, "it still runs");
    assert!(sim.boot(MachineSpec::sample()).await.unwrap().display().is_none());
}
