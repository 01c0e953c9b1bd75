//! Machines of a library on disk, whose guests are in memory.

use super::Vms;
use crate::{budget::Budget, events::Events};
use dvn_config::GIB;
use dvn_host::machine_dir::StateDir;
use dvn_hypervisor::{
    Exit,
    sim::{Script, Sim},
};
use dvn_types::{
    Kind, MachineName, Report, Sizes,
    wire::{self, CreateRequest, RunRequest, SetRequest, State, Stopped},
};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

struct Lab {
    tmp: tempfile::TempDir,
    vms: Arc<Vms>,
    sim: Sim,
}

fn name(name: &str) -> MachineName {
    name.parse().unwrap()
}

fn new(machine: &str) -> CreateRequest {
    let (disk_size, medium, arch, cores) = (Some(1 << 20), None, None, Some(1));
    CreateRequest { name: name(machine), disk_size, medium, arch, cores, memory: Some(GIB) }
}

impl Lab {
    /// A computer of 2 GiB with these machines of 1 GiB each, and the builder `builder`.
    fn with(machines: &[&str]) -> Lab {
        let tmp = tempfile::tempdir().unwrap();
        let sim = Sim::new(Script::default());
        let lab = Lab { vms: Lab::open(&tmp, &sim), tmp, sim };
        for machine in machines {
            lab.vms.create(new(machine)).unwrap();
        }
        lab
    }

    fn open(tmp: &tempfile::TempDir, sim: &Sim) -> Arc<Vms> {
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let (events, its_sim) = (Arc::new(Events::default()), sim.clone());
        let budget = Arc::new(Budget::of(2 * GIB, Arc::clone(&events)));
        let declared = BTreeSet::from([name("builder")]);
        let backend = Box::new(move || Ok(Arc::new(its_sim.clone()) as _));
        Arc::new(Vms::open(&state, declared, backend, events, budget).unwrap())
    }

    async fn start(&self, machine: &str) -> Result<(), Report> {
        self.vms.start(&name(machine), Sizes::default(), &RunRequest::default()).await
    }

    fn state(&self, machine: &str) -> State {
        self.vms.get(&name(machine), false).unwrap().state
    }

    fn file(&self, machine: &str, file: &str) -> PathBuf {
        self.tmp.path().join("s/machines").join(machine).join(file)
    }
}

fn stopped(exit: Option<&str>) -> State {
    State::Stopped { last_exit: exit.map(str::to_owned) }
}

fn runs(state: &State) -> bool {
    matches!(state, State::Running { .. })
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_made_started_stopped_and_deleted() {
    let lab = Lab::with(&["one"]);
    assert_eq!(lab.state("one"), stopped(None));
    lab.start("one").await.unwrap();
    assert!(runs(&lab.state("one")));
    let refused = lab.vms.delete(&name("one")).unwrap_err();
    assert!(refused.kind == Kind::Busy && refused.message.contains("runs"), "{refused}");
    let how = lab.vms.stop(&name("one"), false).await.unwrap();
    assert_eq!(how, Stopped { exit: Some("powered-off".into()), discarded: false });
    assert_eq!(lab.state("one"), stopped(Some("powered-off")));
    lab.vms.delete(&name("one")).unwrap();
    assert_eq!(lab.vms.list(false).unwrap(), []);
    assert_eq!(lab.start("one").await.unwrap_err().kind, Kind::NotFound);
    let left = fs::read_dir(lab.tmp.path().join("s/run")).map_or(0, Iterator::count);
    assert_eq!(left, usize::from(left > 0), "at most the empty directory of its sockets");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_runs_on_is_killed_after_the_grace_period_and_the_answer_says_so() {
    let lab = Lab::with(&["one"]);
    lab.sim.rescript(|script| script.deaf_to_presses = usize::MAX);
    lab.start("one").await.unwrap();
    assert_eq!(lab.vms.stop(&name("one"), false).await.unwrap().exit.as_deref(), Some("killed"));
    assert_eq!(lab.vms.stop(&name("one"), false).await.unwrap(), Stopped::default(), "it is off already");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_continues_and_a_stop_discards_its_memory() {
    let lab = Lab::with(&["one"]);
    lab.start("one").await.unwrap();
    lab.vms.suspend(&name("one")).await.unwrap();
    assert_eq!(lab.state("one"), State::Suspended);
    // What the memory belongs to cannot be changed.
    let change = SetRequest { cores: Some(2), ..SetRequest::default() };
    assert_eq!(lab.vms.set(&name("one"), change.clone()).unwrap_err().kind, Kind::Busy);
    lab.start("one").await.unwrap();
    let counters = lab.sim.counters();
    assert_eq!((counters.boots.load(SeqCst), counters.restores.load(SeqCst)), (1, 1));
    assert!(!lab.file("one", "state.vzvmsave").exists(), "the memory is loaded once");
    lab.vms.suspend(&name("one")).await.unwrap();
    let how = lab.vms.stop(&name("one"), false).await.unwrap();
    assert_eq!((how, lab.state("one")), (Stopped { exit: None, discarded: true }, stopped(Some("suspended"))));
    lab.vms.set(&name("one"), change).unwrap();
    lab.start("one").await.unwrap();
    assert_eq!(counters.boots.load(SeqCst), 2);
}

/// As when the host's disk is full.
#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_be_noted_leaves_the_guest_running() {
    let lab = Lab::with(&["one"]);
    lab.sim.rescript(|script| script.boot = Duration::from_secs(5));
    let vms = Arc::clone(&lab.vms);
    let starting = tokio::spawn(async move { vms.start(&name("one"), Sizes::default(), &RunRequest::default()).await });
    while lab.sim.counters().boots.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fs::write(lab.file("one", "machine.json"), "{").unwrap();
    starting.await.unwrap().unwrap();
    assert_eq!(lab.sim.counters().alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_suspension_that_fails_leaves_the_guest_running() {
    let lab = Lab::with(&["one"]);
    lab.sim.rescript(|script| script.suspend_error = Some("the disk is full".into()));
    lab.start("one").await.unwrap();
    assert!(lab.vms.suspend(&name("one")).await.unwrap_err().message.contains("the disk is full"));
    assert!(runs(&lab.state("one")));
    assert!(!lab.file("one", "state.vzvmsave").exists());
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_suspended_machine_continues_by_itself_but_not_beside_its_original() {
    let lab = Lab::with(&["one"]);
    lab.start("one").await.unwrap();
    lab.vms.suspend(&name("one")).await.unwrap();
    lab.vms.clone_machine(&name("one"), &name("two")).unwrap();
    assert_eq!(lab.state("two"), State::Suspended);
    lab.start("one").await.unwrap();
    let refused = lab.start("two").await.unwrap_err();
    assert!(refused.kind == Kind::Busy && refused.message.contains("has the MAC address of one"), "{refused}");
    lab.vms.stop(&name("one"), true).await.unwrap();
    lab.start("two").await.unwrap();
    assert_eq!(lab.sim.counters().restores.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_waits_for_the_memory_of_others_and_says_so() {
    let lab = Lab::with(&["one", "two", "three"]);
    lab.start("one").await.unwrap();
    lab.start("two").await.unwrap();
    let vms = Arc::clone(&lab.vms);
    let third = tokio::spawn(async move { vms.start(&name("three"), Sizes::default(), &RunRequest::default()).await });
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let waits = lab.vms.get(&name("three"), false).unwrap().waits_for.unwrap();
    assert!(waits.starts_with("1 GiB of memory: one and two hold 2 of 2 GiB"), "{waits}");
    lab.vms.stop(&name("one"), false).await.unwrap();
    third.await.unwrap().unwrap();
    assert!(runs(&lab.state("three")));
}

#[tokio::test(start_paused = true)]
async fn a_stop_withdraws_a_start_that_waits_and_discards_nothing() {
    let lab = Lab::with(&["one", "two", "three"]);
    lab.start("three").await.unwrap();
    lab.vms.suspend(&name("three")).await.unwrap();
    lab.start("one").await.unwrap();
    lab.start("two").await.unwrap();
    let vms = Arc::clone(&lab.vms);
    let waiting =
        tokio::spawn(async move { vms.start(&name("three"), Sizes::default(), &RunRequest::default()).await });
    while lab.vms.get(&name("three"), false).unwrap().waits_for.is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What is asked for now would be forgotten, or the guest would be.
    let busy = [
        lab.vms.rename(&name("three"), &name("four")).map(drop).unwrap_err(),
        lab.vms.delete(&name("three")).unwrap_err(),
    ];
    assert!(
        busy.iter().all(|report| report.kind == Kind::Busy && report.message.contains("being started")),
        "{busy:?}"
    );
    let stopped = lab.vms.stop(&name("three"), false).await.unwrap();
    assert!(!stopped.discarded, "{stopped:?}");
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, Kind::Busy);
    assert_eq!(lab.state("three"), State::Suspended);
    lab.vms.stop(&name("one"), false).await.unwrap();
    assert_eq!(lab.state("three"), State::Suspended, "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn devices_are_those_of_the_start_that_boots() {
    let lab = Lab::with(&["one"]);
    let disk = lab.tmp.path().join("x.img");
    fs::write(&disk, "").unwrap();
    let extra = wire::ExtraDisk { path: disk.display().to_string(), read_only: true };
    let request = RunRequest { disks: vec![extra], ..RunRequest::default() };
    let disks = || lab.sim.guest().unwrap().spec().devices.disks.len();
    lab.vms.start(&name("one"), Sizes::default(), &request).await.unwrap();
    assert_eq!(disks(), 2);
    let refused = lab.vms.start(&name("one"), Sizes::default(), &request).await.unwrap_err();
    assert!(refused.kind == Kind::Busy && refused.message.contains("the devices that it has"), "{refused}");
    lab.start("one").await.unwrap();
    let vms = Arc::clone(&lab.vms);
    let stopping = tokio::spawn(async move { vms.stop(&name("one"), false).await });
    while !matches!(lab.state("one"), State::Stopping { .. }) {
        tokio::task::yield_now().await;
    }
    lab.start("one").await.unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(disks(), 1, "not those of the guest before");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_does_not_run_has_no_screen_no_agent_and_no_suspension() {
    let lab = Lab::with(&["one"]);
    for report in [
        lab.vms.suspend(&name("one")).await.unwrap_err(),
        lab.vms.pause(&name("one")).await.unwrap_err(),
        lab.vms.display(&name("one")).map(drop).unwrap_err(),
        lab.vms.agent_stream(&name("one")).await.map(drop).unwrap_err(),
        lab.vms.addresses(&name("one")).await.map(drop).unwrap_err(),
    ] {
        assert_eq!((report.kind, report.message.as_str()), (Kind::Busy, "one does not run"));
        assert_eq!(report.hints, ["start it: darwin-vz-nix start one"]);
    }
    assert_eq!(lab.vms.suspend(&name("two")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn machines_of_the_configuration_are_left_alone() {
    let lab = Lab::with(&["one"]);
    let builder = name("builder");
    for report in [
        lab.vms.create(new("builder")).unwrap_err(),
        lab.vms.clone_machine(&builder, &name("two")).unwrap_err(),
        lab.vms.clone_machine(&name("one"), &builder).unwrap_err(),
        lab.vms.set(&builder, SetRequest::default()).unwrap_err(),
        lab.vms.rename(&builder, &name("two")).unwrap_err(),
        lab.vms.rename(&name("one"), &builder).unwrap_err(),
        lab.vms.delete(&builder).unwrap_err(),
    ] {
        assert!(report.kind == Kind::Config && report.message.contains("the configuration declares"), "{report}");
    }
    assert_eq!(lab.vms.list(false).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_medium_is_attached_until_the_guest_has_powered_itself_off() {
    let lab = Lab::with(&[]);
    let iso = lab.tmp.path().join("x.iso");
    let mut image = vec![0; 40 * 2048];
    image[16 * 2048 + 1..][..5].copy_from_slice(b"CD001");
    fs::write(&iso, image).unwrap();
    let medium = Some(iso.display().to_string());
    lab.vms.create(CreateRequest { medium: medium.clone(), ..new("one") }).unwrap();
    let has = || lab.vms.get(&name("one"), false).unwrap().hardware.unwrap().medium;
    lab.start("one").await.unwrap();
    assert_eq!(lab.sim.guest().unwrap().spec().devices.disks.len(), 2);
    lab.vms.stop(&name("one"), true).await.unwrap();
    assert_eq!(has(), medium, "a guest that was killed may not be installed");
    lab.start("one").await.unwrap();
    lab.sim.guest().unwrap().end(Exit::PoweredOff);
    let ended = async {
        while has().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the machine is installed");
    lab.start("one").await.unwrap();
    assert_eq!(lab.sim.guest().unwrap().spec().devices.disks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_again_finds_the_machines_and_sweeps_what_a_crash_left() {
    let lab = Lab::with(&["one", "two"]);
    lab.start("one").await.unwrap();
    lab.vms.suspend(&name("one")).await.unwrap();
    fs::create_dir_all(lab.tmp.path().join("s/run/left")).unwrap();
    let again = Lab::open(&lab.tmp, &lab.sim);
    let states: Vec<_> = again.list(true).unwrap().into_iter().map(|vm| (vm.name.to_string(), vm.state)).collect();
    assert_eq!(states, [("one".to_owned(), State::Suspended), ("two".to_owned(), stopped(None))]);
    assert!(!lab.tmp.path().join("s/run/left").exists());
}
