//! Every file and directory of the state directory, with another kind of file in its place: nothing hangs, and the daemon and its
//! guest's boot either succeed, with the file created again, or fail with one error that says what to do.

use crate::{budget::Budget, machine::Machine, options::RunOptions};
use dvn_config::{BuilderConfig, HostFacts, MachineConfig};
use dvn_generations::Generations;
use dvn_guest::{builder::BuilderGuest, bundle::fixture};
use dvn_host::{
    api_token::TokenFile,
    files::{remove_all, state_error},
    log_file::LogFile,
    machine_dir::{
        MachineDir, StateDir, StateLock,
        inventory::{self, Entry, Replaced},
    },
    regular_file, wrong_files as wrong,
};
use dvn_http::server;
use dvn_hypervisor::{Capabilities, Limits, console};
use dvn_lifecycle::GuestProvider;
use dvn_types::{Arch, Kind, MachineName, Report, Sizes};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// A daemon and its boot take some milliseconds; a hang would last for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    name: MachineName,
    config: Arc<MachineConfig>,
}

impl Lab {
    /// With every file that a first daemon and boot create.
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        fixture::x86_64(&dir.path().join("bundle"));
        fs::create_dir(dir.path().join("store")).unwrap();
        let builder = BuilderConfig {
            bundle: Some(dir.path().join("bundle")),
            share_store: true,
            store_dir: dir.path().join("store"),
            store_daemon: dir.path().join("no-daemon"),
            ..BuilderConfig::sample()
        };
        let config = Arc::new(MachineConfig { builder: builder.into(), ..MachineConfig::sample() });
        let lab = Lab { dir, name: "builder".parse().unwrap(), config };
        lab.stand().unwrap();
        lab
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn machine(&self) -> MachineDir {
        MachineDir::of(&self.root(), &self.name)
    }

    /// Does all that the daemon and a boot do with files, in another thread, so that a hang is noticed.
    fn stand(&self) -> Result<(), Report> {
        let (root, name, config) = (self.root(), self.name.clone(), Arc::clone(&self.config));
        let (done, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            done.send(runtime.block_on(stand(&root, name, config)))
        });
        outcome.recv_timeout(TIMEOUT).expect("it hangs")
    }
}

async fn stand(root: &Path, name: MachineName, config: Arc<MachineConfig>) -> Result<(), Report> {
    let state = StateDir::open(root)?;
    let log = state.daemon_log();
    LogFile::append(&log, 10).map_err(|e| state_error(&log, "cannot write", &e))?;
    LogFile::fresh(&log, 10).map_err(|e| state_error(&log, "cannot write", &e))?;
    let _lock = lock(&state)?;
    let options = RunOptions {
        search_path: "/nonexistent".into(),
        program: "/p".into(),
        flags: vec![],
        nix_environment: vec![],
        host: HostFacts::gather(),
        shown: Default::default(),
        hangs_up: true,
        detached: true,
    };
    let budget = Arc::new(Budget::of(u64::MAX, Arc::default()));
    let _machine = Machine::new(name.clone(), Arc::clone(&config), &state, &options, Arc::default(), budget)?;
    TokenFile::at(state.api_token())?;
    let _api = server::bind(&state.api_socket())?;

    let dir = state.machine(&name);
    let capabilities = Capabilities {
        backend: "none",
        accelerator: "none",
        archs: vec![Arch::X86_64],
        rosetta: false,
        nested: false,
        shares: true,
        pause: false,
        efi: Ok(()),
        display: Ok(()),
        forwards: Ok(()),
        suspend: Ok(vec![]),
        limits: Limits { cores: (1, 8), memory: (0, u64::MAX) },
        features: vec![],
    };
    let builder = Arc::clone(&config.builder);
    let generations = Arc::new(Generations::open(&dir, Arc::clone(&builder), &capabilities.archs)?);
    let provider = BuilderGuest::new(name, &config.hardware, builder, dir.clone(), capabilities, generations, None);
    let spec = GuestProvider::prepare(&provider, Sizes::default()).await?;
    console::log(&spec.console_log).map_err(|e| state_error(&spec.console_log, "cannot write", &e))?;
    // The log of a recipe's build, and the build's directory.
    dvn_host::files::private_dir(&dir.generations())?;
    LogFile::fresh(&dir.build_log(), 10).map_err(|e| state_error(&dir.build_log(), "cannot write", &e))?;
    Ok(())
}

/// Programs that other tests of this process start inherit its open files, and so its locks, until they execute.
fn lock(state: &StateDir) -> Result<StateLock, Report> {
    let begun = Instant::now();
    loop {
        match state.lock() {
            Err(report) if report.kind == Kind::Busy && begun.elapsed() < TIMEOUT / 2 => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

fn assert_refused(what: &str, path: &Path, outcome: Result<(), Report>) {
    let Err(report) = outcome else { panic!("{what}: it was taken") };
    assert_eq!(report.kind, Kind::State, "{what}: {report:?}");
    assert!(report.message.contains(&*path.to_string_lossy()), "{what}: {report:?}");
    assert!(!report.hints.is_empty(), "{what}: {report:?}");
}

#[test]
fn each_file_that_is_no_regular_one_is_refused_with_a_hint_or_made_anew_and_nothing_hangs() {
    let lab = Lab::new();
    let (store, generations) = (lab.machine().store_state(), lab.machine().generations());
    for Entry { path, replaced, .. } in inventory::files(&lab.root(), &lab.name) {
        for kind in wrong::KINDS {
            let what = format!("{kind} at {}", path.display());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            wrong::make(kind, &path);
            let outcome = lab.stand();
            match replaced {
                Replaced::Never => assert_refused(&what, &path, outcome),
                Replaced::Anew => {
                    outcome.unwrap_or_else(|report| panic!("{what}: {report}"));
                    assert!(regular_file::look(&path).is_ok() || fs::symlink_metadata(&path).is_err(), "{what}");
                }
            }
            // The record of store paths that the guest knows is deleted as a whole, with its directory. So is a file without a
            // generation's name among the generations, which here is the target of the link.
            let goes = path.starts_with(&store) || kind == "link" && path.starts_with(&generations);
            if !goes {
                wrong::assert_nothing_lost(kind, &path);
            }
            remove_all(&path).unwrap();
            lab.stand().unwrap_or_else(|report| panic!("after {what}: {report}"));
        }
    }
}

#[test]
fn each_directory_that_is_none_is_refused_with_a_hint_or_made_anew_and_nothing_hangs() {
    let lab = Lab::new();
    let machine = lab.machine();
    let needed = [lab.root(), lab.root().join("machines"), machine.root().to_owned(), machine.generations()];
    let anew = [machine.run_dir(), machine.store_state()];
    for (path, is_needed) in needed.iter().map(|path| (path, true)).chain(anew.iter().map(|path| (path, false))) {
        for kind in ["file"].into_iter().chain(wrong::KINDS).filter(|kind| !kind.ends_with("directory")) {
            let what = format!("{kind} at {}", path.display());
            match kind {
                "file" => {
                    remove_all(path).unwrap();
                    fs::write(path, "").unwrap();
                }
                kind => wrong::make(kind, path),
            }
            match (is_needed, lab.stand()) {
                (true, outcome) => assert_refused(&what, path, outcome),
                (false, outcome) => outcome.unwrap_or_else(|report| panic!("{what}: {report}")),
            }
            remove_all(path).unwrap();
            lab.stand().unwrap_or_else(|report| panic!("after {what}: {report}"));
        }
    }
}

/// The socket is not in the table of files: the daemon replaces any file in its place.
#[test]
fn any_file_in_place_of_the_apis_socket_is_replaced() {
    let lab = Lab::new();
    let path = StateDir::open(&lab.root()).unwrap().api_socket();
    for kind in ["file"].into_iter().chain(wrong::KINDS) {
        remove_all(&path).unwrap();
        match kind {
            "file" => fs::write(&path, "").unwrap(),
            kind => wrong::make(kind, &path),
        }
        lab.stand().unwrap_or_else(|report| panic!("{kind}: {report}"));
        wrong::assert_nothing_lost(kind, &path);
    }
}
