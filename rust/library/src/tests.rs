//! The library as a whole: what its verbs do to it, what they refuse, and what a crash leaves.

use crate::{
    NewMachine,
    change::Change,
    config::VmConfig,
    copy::Unwatched,
    library::{Library, State},
    record::Origin,
};
use dvn_types::{Arch, Kind, MachineName};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

struct Rig {
    dir: tempfile::TempDir,
    library: Library,
}

const DISK: u64 = 8 << 20;

fn name(text: &str) -> MachineName {
    text.parse().unwrap()
}

fn open(dir: &Path) -> Library {
    Library::open(&dir.join("machines"), &dir.join("staging")).unwrap()
}

fn new_machine() -> NewMachine {
    NewMachine { config: VmConfig::linux(Arch::Aarch64), origin: Origin::Blank, disk_size: DISK }
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        Rig { library: open(dir.path()), dir }
    }

    /// With these machines, each of which has booted once.
    fn with(self, names: &[&str]) -> Rig {
        for machine in names {
            let machine = self.library.create(&name(machine), &new_machine()).unwrap();
            self.library.note_start(&machine).unwrap();
            fs::write(machine.files.nvram(), "variables").unwrap();
        }
        self
    }

    fn names(&self) -> Vec<String> {
        let entries = self.library.list(&|_| false).unwrap();
        entries.iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.dir.path().join("staging")).map_or(0, Iterator::count)
    }
}

#[test]
fn a_machine_is_its_directory_and_a_clone_is_another_machine() {
    let rig = Rig::new().with(&["base"]);
    let base = rig.library.machine(&name("base")).unwrap();
    fs::write(base.files.disk(), "system").unwrap();
    let clone = rig.library.clone_machine(&name("base"), &name("copy"), &Unwatched).unwrap();
    assert_eq!(fs::read(clone.files.disk()).unwrap(), b"system");
    assert_eq!(fs::read(clone.files.nvram()).unwrap(), b"variables");
    assert_ne!(clone.config.mac_address, base.config.mac_address);
    assert_ne!(clone.record.id, base.record.id);
    assert_eq!(clone.record.origin, Origin::Clone { of: "base".into() });
    assert_eq!((clone.state, rig.staged()), (State::Stopped, 0));
    rig.library.rename(&name("copy"), &name("other name")).unwrap();
    assert_eq!(rig.names(), ["base", "other name"]);
    rig.library.delete(&name("base")).unwrap();
    assert_eq!((rig.names(), rig.staged()), (vec!["other name".to_owned()], 0));
    assert_eq!(fs::read(rig.library.machine(&name("other name")).unwrap().files.disk()).unwrap(), b"system");
}

#[test]
fn a_medium_stays_until_the_machine_is_installed_and_a_clone_of_it_has_none() {
    let rig = Rig::new();
    let new = NewMachine { origin: Origin::Iso { path: "/x.iso".into() }, ..new_machine() };
    let one = rig.library.create(&name("one"), &new).unwrap();
    let medium = |of: &str| rig.library.machine(&name(of)).unwrap().record.medium;
    assert_eq!(medium("one"), Some("/x.iso".into()));
    rig.library.clone_machine(&name("one"), &name("copy"), &Unwatched).unwrap();
    assert_eq!(medium("copy"), None);
    rig.library.note_installed(&one).unwrap();
    assert_eq!(medium("one"), None);
    rig.library.note_start(&one).unwrap();
    let broken = rig.library.machine(&name("one")).unwrap_err();
    assert!(broken.message.contains("variable store"), "it had one once it had started: {broken}");
}

#[test]
fn no_verb_replaces_a_machine() {
    let rig = Rig::new().with(&["one", "two"]);
    fs::write(rig.library.machine(&name("two")).unwrap().files.disk(), "precious").unwrap();
    let refused = [
        rig.library.create(&name("two"), &new_machine()).unwrap_err(),
        rig.library.clone_machine(&name("one"), &name("two"), &Unwatched).unwrap_err(),
        rig.library.rename(&name("one"), &name("two")).unwrap_err(),
    ];
    for report in refused {
        assert_eq!(report.kind, Kind::Busy);
        assert!(report.message.contains("two already"), "{report}");
        assert!(!report.hints.is_empty());
    }
    assert_eq!(fs::read(rig.library.machine(&name("two")).unwrap().files.disk()).unwrap(), b"precious");
    assert_eq!((rig.names().len(), rig.staged()), (2, 0));
}

#[test]
fn a_machine_that_runs_is_neither_changed_nor_cloned_nor_deleted() {
    let rig = Rig::new().with(&["one"]);
    let (_, lock) = rig.library.run(&name("one")).unwrap();
    assert_eq!(rig.library.machine(&name("one")).unwrap().state, State::Running { pid: std::process::id() });
    let change = Change { cores: Some(2), ..Change::default() };
    let refused = [
        rig.library.change(&name("one"), &change).unwrap_err(),
        rig.library.clone_machine(&name("one"), &name("two"), &Unwatched).unwrap_err(),
        rig.library.rename(&name("one"), &name("two")).unwrap_err(),
        rig.library.delete(&name("one")).unwrap_err(),
        rig.library.run(&name("one")).map(drop).unwrap_err(),
        rig.library.discard_saved_state(&name("one")).unwrap_err(),
    ];
    for report in refused {
        assert_eq!(report.kind, Kind::Busy, "{report}");
        assert!(report.message.contains("runs in process"), "{report}");
    }
    drop(lock);
    assert_eq!((rig.names(), rig.staged()), (vec!["one".to_owned()], 0));
    assert_eq!(rig.library.change(&name("one"), &change).unwrap().config.cpu_count, 2);
}

#[test]
fn a_machine_that_runs_is_not_deleted_when_its_record_is_damaged_meanwhile() {
    let rig = Rig::new().with(&["one"]);
    let (machine, lock) = rig.library.run(&name("one")).unwrap();
    fs::write(machine.files.record(), "{").unwrap();
    let refused = rig.library.delete(&name("one")).unwrap_err();
    assert!(refused.kind == Kind::Busy && refused.message.contains("runs in process"), "{refused}");
    drop(lock);
    rig.library.delete(&name("one")).unwrap();
    assert_eq!(rig.names(), [""; 0]);
}

#[test]
fn a_suspended_machine_is_cloned_with_what_its_memory_needs_and_not_changed() {
    let rig = Rig::new().with(&["one"]);
    let one = rig.library.machine(&name("one")).unwrap();
    fs::write(one.files.saved_state(), "memory").unwrap();
    assert_eq!(rig.library.machine(&name("one")).unwrap().state, State::Suspended);
    let refused = rig.library.change(&name("one"), &Change { cores: Some(2), ..Change::default() }).unwrap_err();
    assert!(refused.message.contains("suspended"), "{refused}");
    let clone = rig.library.clone_machine(&name("one"), &name("two"), &Unwatched).unwrap();
    assert_eq!((clone.state, clone.config.mac_address), (State::Suspended, one.config.mac_address));
    rig.library.discard_saved_state(&name("one")).unwrap();
    assert_eq!(rig.library.machine(&name("one")).unwrap().state, State::Stopped);
}

#[test]
fn a_disk_grows_and_never_shrinks_and_a_refused_change_changes_nothing() {
    let rig = Rig::new().with(&["one"]);
    let before = rig.library.machine(&name("one")).unwrap();
    let grown = rig.library.change(&name("one"), &Change { disk_size: Some(2 * DISK), ..Change::default() }).unwrap();
    assert_eq!(grown.disk_space().unwrap().apparent, 2 * DISK);
    for (size, says) in [(DISK, "cannot shrink"), (2 * DISK + 1, "sectors of 512")] {
        let change = Change { cores: Some(7), disk_size: Some(size), ..Change::default() };
        let refused = rig.library.change(&name("one"), &change).unwrap_err();
        assert!(refused.kind == Kind::Config && refused.message.contains(says), "{refused}");
    }
    for change in [Change { cores: Some(0), ..Change::default() }, Change { memory: Some(1), ..Change::default() }] {
        assert!(rig.library.change(&name("one"), &change).unwrap_err().message.contains("needs at least"));
    }
    let after = rig.library.machine(&name("one")).unwrap();
    assert_eq!(after.disk_space().unwrap().apparent, 2 * DISK);
    assert_eq!(after.config, before.config);
}

#[test]
fn set_keeps_what_it_was_not_asked_for() {
    let rig = Rig::new().with(&["one"]);
    let change =
        Change { display: Some("800x600pt".parse().unwrap()), display_refit: Some(false), ..Change::default() };
    rig.library.change(&name("one"), &change).unwrap();
    let change = Change { display: Some("1920x1080".parse().unwrap()), new_mac: true, ..Change::default() };
    let after = rig.library.change(&name("one"), &change).unwrap();
    assert_eq!((after.config.display.to_string().as_str(), after.config.display_refit), ("1920x1080pt", Some(false)));
}

#[test]
fn a_broken_machine_is_listed_with_its_reason_and_can_be_deleted() {
    let rig = Rig::new().with(&["good", "no-disk", "no-config", "bad-config", "bad-record", "link"]);
    let file = |machine: &str, file: &str| rig.dir.path().join("machines").join(machine).join(file);
    fs::remove_file(file("no-disk", "disk.img")).unwrap();
    fs::remove_file(file("no-config", "config.json")).unwrap();
    fs::write(file("bad-config", "config.json"), "{").unwrap();
    fs::write(file("bad-record", "machine.json"), "{").unwrap();
    fs::remove_file(file("link", "disk.img")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", file("link", "disk.img")).unwrap();
    let entries = rig.library.list(&|_| false).unwrap();
    assert_eq!(entries.len(), 6);
    for entry in entries {
        let broken = entry.name != "good";
        match entry.machine {
            Ok(_) => assert!(!broken, "{:?}", entry.name),
            Err(report) => {
                assert!(broken && report.kind == Kind::State && !report.hints.is_empty(), "{report:?}");
                rig.library.delete(&entry.name.as_os_str().try_into().unwrap()).unwrap();
            }
        }
    }
    assert_eq!((rig.names(), rig.staged()), (vec!["good".to_owned()], 0));
    assert!(Path::new("/etc/passwd").exists());
}

/// A builder that the configuration no longer declares: no verb of the library touches it.
#[test]
fn a_directory_of_another_kind_is_no_machine_and_is_never_deleted() {
    let rig = Rig::new().with(&["one"]);
    let builder = rig.dir.path().join("machines/builder");
    fs::create_dir(&builder).unwrap();
    fs::write(builder.join("data.img"), "cache").unwrap();
    assert_eq!(rig.names(), ["one"]);
    for refused in [
        rig.library.delete(&name("builder")).unwrap_err(),
        rig.library.rename(&name("builder"), &name("two")).unwrap_err(),
        rig.library.clone_machine(&name("builder"), &name("two"), &Unwatched).map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.kind, Kind::NotFound, "{refused}");
    }
    assert_eq!(rig.library.create(&name("builder"), &new_machine()).unwrap_err().kind, Kind::Busy);
    assert_eq!(fs::read(builder.join("data.img")).unwrap(), b"cache");
}

#[test]
fn a_machine_that_tart_made_gets_a_record_on_first_sight_and_keeps_it() {
    let rig = Rig::new().with(&["one"]);
    fs::remove_file(rig.library.machine(&name("one")).unwrap().files.record()).unwrap();
    let seen = rig.library.machine(&name("one")).unwrap().record;
    assert_eq!(seen.origin, Origin::Tart);
    assert_eq!(rig.library.machine(&name("one")).unwrap().record, seen);
}

#[test]
fn a_name_that_is_not_there_is_an_error_that_names_those_that_are() {
    let rig = Rig::new().with(&["one"]);
    for error in [
        rig.library.machine(&name("two")).map(drop).unwrap_err(),
        rig.library.delete(&name("two")).unwrap_err(),
        rig.library.clone_machine(&name("two"), &name("three"), &Unwatched).map(drop).unwrap_err(),
    ] {
        assert_eq!((error.kind, error.hints.as_slice()), (Kind::NotFound, ["there is: one".to_owned()].as_slice()));
    }
    assert_eq!(rig.staged(), 0);
}

/// What [`act_and_die`] does, in a process of its own.
const ACTS: [&str; 4] = ["create", "clone", "change", "delete"];

/// Part of the test below: does nothing unless that runs it.
#[test]
fn act_and_die() {
    let (Some(dir), Ok(act)) = (std::env::var_os("LIBRARY_TEST_DIR"), std::env::var("LIBRARY_TEST_ACT")) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let library = open(&dir);
    match act.as_str() {
        "create" => drop(library.create(&name("new"), &new_machine()).unwrap()),
        "clone" => drop(library.clone_machine(&name("one"), &name("new"), &Unwatched).unwrap()),
        "change" => {
            let change = Change { cores: Some(3), disk_size: Some(2 * DISK), ..Change::default() };
            library.change(&name("one"), &change).unwrap();
        }
        _ => library.delete(&name("one")).unwrap(),
    }
}

#[test]
fn a_crash_after_any_step_leaves_each_machine_whole_or_absent() {
    for act in ACTS {
        let mut outcomes = BTreeMap::new();
        for step in 0.. {
            let rig = Rig::new().with(&["one", "two"]);
            let one = rig.library.machine(&name("one")).unwrap();
            fs::write(one.files.nvram(), "its own variables").unwrap();
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::act_and_die"])
                .env("LIBRARY_TEST_DIR", rig.dir.path())
                .env("LIBRARY_TEST_ACT", act)
                .env("LIBRARY_DIES_AT", step.to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            let library = open(rig.dir.path());
            for entry in library.list(&|_| false).unwrap() {
                let machine = entry.machine.unwrap_or_else(|report| panic!("{act}, step {step}: {report}"));
                let nvram = fs::read_to_string(machine.files.nvram()).ok();
                let expected = match machine.name.as_str() {
                    "new" if act == "create" => None,
                    "new" | "one" => Some("its own variables"),
                    _ => Some("variables"),
                };
                assert_eq!(nvram.as_deref(), expected);
            }
            assert_eq!(rig.staged(), 0, "{act}, step {step}: the next start sweeps what is left");
            assert!(rig.names().contains(&"two".to_owned()));
            *outcomes.entry(rig.names()).or_insert(0) += 1;
            if status.success() {
                assert!(step > 1, "{act} has steps at which it can die");
                break;
            }
        }
        assert!(outcomes.len() <= 2, "{act} leaves the library as it was or as it is to be: {outcomes:?}");
    }
}

#[test]
fn two_that_make_the_same_machine_at_once_make_it_once() {
    let rig = Rig::new();
    let made: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| rig.library.create(&name("one"), &new_machine()).map(drop))).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    assert!(made.iter().filter_map(|made| made.as_ref().err()).all(|report| report.kind == Kind::Busy));
    assert_eq!((rig.names(), rig.staged()), (vec!["one".to_owned()], 0));
}
