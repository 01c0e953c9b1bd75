//! The library: which machines there are, and in what state each is.

use crate::{
    config::VmConfig,
    lock::{Locks, RunLock},
    record::{Origin, Record},
    space::{self, Space},
    staging,
};
use dvn_host::{
    files::{private_dir, state_error, unless_missing, write_atomic},
    regular_file,
};
use dvn_types::{Kind, MachineName, Report, unix_ms};
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A directory of machines. Cheap to clone; the clones share what they know of running machines.
#[derive(Clone, Debug)]
pub struct Library {
    machines: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) locks: Locks,
    /// Held while a machine is changed, renamed or deleted.
    changing: Arc<Mutex<()>>,
}

/// The files of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    pub(crate) fn of(dir: &Path) -> Files {
        Files { dir: dir.to_owned() }
    }
    /// Whether there is any file that only a machine of a library has.
    fn has_any(&self) -> bool {
        let all = [self.config(), self.disk(), self.nvram(), self.record()];
        all.iter().any(|file| fs::symlink_metadata(file).is_ok())
    }
    /// The directory, which is the machine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// What it is made of.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }
    /// Its disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }
    /// Its EFI variable store, or the auxiliary storage of a Mac.
    pub fn nvram(&self) -> PathBuf {
        self.dir.join("nvram.bin")
    }
    /// The memory and devices of a suspended guest.
    pub fn saved_state(&self) -> PathBuf {
        self.dir.join("state.vzvmsave")
    }
    /// What the saved memory belongs to.
    pub fn saved_facts(&self) -> PathBuf {
        self.dir.join("state.vzvmsave.json")
    }
    /// What the guest printed on its serial console in the present or last boot.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }
    /// What this program keeps of it.
    pub fn record(&self) -> PathBuf {
        self.dir.join("machine.json")
    }
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Stopped,
    /// Its memory is saved on disk.
    Suspended,
    /// A process runs it.
    Running {
        /// That process.
        pid: u32,
    },
}

/// A machine as it was found.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: MachineName,
    /// Where its files are.
    pub files: Files,
    /// What it is made of.
    pub config: VmConfig,
    /// What this program keeps of it.
    pub record: Record,
    /// What it does.
    pub state: State,
}

impl Machine {
    /// What its disk takes. Blocks; a disk that was just written may take 100 ms.
    pub fn disk_space(&self) -> Result<Space, Report> {
        let disk = self.files.disk();
        let file = regular_file::open(&disk).and_then(|file| space::of(&file));
        file.map_err(|e| state_error(&disk, "cannot read", &e))
    }

    /// Refuses a machine that does anything.
    pub(crate) fn demand_stopped(&self, verb: &str) -> Result<(), Report> {
        match self.state {
            State::Stopped => Ok(()),
            State::Suspended => Err(Report::new(
                Kind::Busy,
                format!("cannot {verb} {}: it is suspended, and its saved memory fits only what it is now", self.name),
            )
            .hint(format!("run and stop it, or discard its saved state: darwin-vz-nix stop {}", self.name))),
            State::Running { .. } => self.demand_not_running(verb),
        }
    }

    pub(crate) fn demand_not_running(&self, verb: &str) -> Result<(), Report> {
        match self.state {
            State::Running { pid } => Err(runs_in(verb, &self.name, pid)),
            _ => Ok(()),
        }
    }
}

/// One directory of the library.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name on disk.
    pub name: OsString,
    /// The machine, or why it cannot be used.
    pub machine: Result<Machine, Report>,
}

impl Library {
    /// Opens the library whose machines are in one directory and which makes them in another one of the same file system. Makes
    /// both if need be, and removes what a crash left.
    pub fn open(machines: &Path, staging: &Path) -> Result<Library, Report> {
        private_dir(machines)?;
        staging::sweep(staging)?;
        Ok(Library {
            machines: machines.to_owned(),
            staging: staging.to_owned(),
            locks: Locks::default(),
            changing: Arc::default(),
        })
    }

    /// All machines by name, the broken ones with their reason. `skip` names directories that are not of the library.
    pub fn list(&self, skip: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, Report> {
        let fail = |e: io::Error| state_error(&self.machines, "cannot read", &e);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.machines).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if name.as_encoded_bytes().starts_with(b".") || name.to_str().is_some_and(skip) {
                continue;
            }
            if entry_of_another_kind(&self.machines.join(&name)) {
                continue;
            }
            let machine = MachineName::try_from(name.as_os_str())
                .map_err(|why| Report::new(Kind::State, why).hint("rename the directory"))
                .and_then(|name| self.look(&name));
            entries.push(Entry { name, machine });
        }
        entries.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(entries)
    }

    /// One machine. Its name must be spelled as on disk, also where the file system takes other spellings for the same.
    pub fn machine(&self, name: &MachineName) -> Result<Machine, Report> {
        let mut entries = fs::read_dir(&self.machines).map_err(|e| state_error(&self.machines, "cannot read", &e))?;
        match entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() == *name.as_str())) {
            true => self.look(name),
            false => Err(self.no_such(name)),
        }
    }

    fn look(&self, name: &MachineName) -> Result<Machine, Report> {
        let files = self.files(name);
        match fs::symlink_metadata(files.dir()) {
            Ok(meta) if meta.is_dir() && files.has_any() => {}
            // Something else that is kept here: a builder that the configuration no longer declares.
            Ok(meta) if meta.is_dir() => return Err(self.no_such(name)),
            Ok(_) => {
                return Err(Report::new(Kind::State, format!("{} is no directory", files.dir().display()))
                    .hint("move it away: a machine is a directory"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.no_such(name)),
            Err(e) => return Err(state_error(files.dir(), "cannot read", &e)),
        }
        let seen = self.locks.read(&files.config()).map_err(|report| match files.config().exists() {
            true => report,
            false => broken(name, "configuration", &files.config()),
        })?;
        let record = self.record(&files)?;
        let variables = record.has_started().then(|| ("variable store", files.nvram()));
        for (what, path) in [("disk", files.disk())].into_iter().chain(variables) {
            match regular_file::look(&path) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(broken(name, what, &path));
                }
                Err(e) => return Err(state_error(&path, "cannot read", &e)),
            }
        }
        let state = match seen.runs_in {
            Some(pid) => State::Running { pid },
            None if fs::symlink_metadata(files.saved_state()).is_ok() => State::Suspended,
            None => State::Stopped,
        };
        Ok(Machine { name: name.clone(), files, config: seen.config, record, state })
    }

    /// Takes a machine for running it: until the lock is dropped no process changes, clones or deletes it.
    pub fn run(&self, name: &MachineName) -> Result<(Machine, RunLock), Report> {
        let _changing = self.changing();
        let machine = self.machine(name)?;
        machine.demand_not_running("run")?;
        let (lock, config) = self.locks.run(&machine.files.config())?;
        Ok((Machine { config, ..machine }, lock))
    }

    /// Reads what is kept of a machine; where there is nothing yet, it begins now.
    fn record(&self, files: &Files) -> Result<Record, Report> {
        let path = files.record();
        match regular_file::read(&path) {
            Ok(bytes) => Record::parse(&bytes, &path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let record = Record::new(Origin::Tart);
                write_atomic(&path, &record.text()?, 0o600)?;
                Ok(record)
            }
            Err(e) => Err(state_error(&path, "cannot read", &e)),
        }
    }

    /// Notes that a machine starts now.
    pub fn note_start(&self, machine: &Machine) -> Result<(), Report> {
        self.note(machine, |record| record.started_unix_ms = Some(unix_ms()))
    }

    /// Notes that a machine is installed: its medium is not attached again.
    pub fn note_installed(&self, machine: &Machine) -> Result<(), Report> {
        self.note(machine, |record| record.medium = None)
    }

    fn note(&self, machine: &Machine, change: impl FnOnce(&mut Record)) -> Result<(), Report> {
        let _changing = self.changing();
        let mut record = self.record(&machine.files)?;
        change(&mut record);
        write_atomic(&machine.files.record(), &record.text()?, 0o600)
    }

    /// Throws a suspended guest's memory away, so that the machine boots anew.
    pub fn discard_saved_state(&self, name: &MachineName) -> Result<(), Report> {
        let _changing = self.changing();
        let machine = self.machine(name)?;
        machine.demand_not_running("discard the saved state of")?;
        // The memory goes first: without it, its record alone is not a state.
        for path in [machine.files.saved_state(), machine.files.saved_facts()] {
            unless_missing(fs::remove_file(&path)).map_err(|e| state_error(&path, "cannot remove", &e))?;
        }
        Ok(())
    }

    /// Where the files of a machine of this name are; it need not exist.
    pub fn files(&self, name: &MachineName) -> Files {
        Files::of(&self.machines.join(name))
    }

    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for a name that another machine has.
    pub(crate) fn taken(name: &MachineName) -> Report {
        Report::new(Kind::Busy, format!("there is a machine {name} already, and it is not replaced"))
            .hint(format!("choose another name, or delete it first: darwin-vz-nix delete {name}"))
    }

    fn no_such(&self, name: &MachineName) -> Report {
        let report = Report::new(Kind::NotFound, format!("there is no machine {name}"));
        let names = fs::read_dir(&self.machines).into_iter().flatten().flatten();
        let mut names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        match names.is_empty() {
            true => report.hint("the library is empty: make a machine with darwin-vz-nix create"),
            false => report.hint(format!("there is: {}", names.join(", "))),
        }
    }

    /// The MAC addresses of all machines that can be read.
    pub(crate) fn mac_addresses(&self) -> Result<Vec<dvn_types::MacAddress>, Report> {
        let machines = self.list(&|_| false)?.into_iter().filter_map(|entry| entry.machine.ok());
        Ok(machines.map(|machine| machine.config.mac_address).collect())
    }
}

/// The error for a machine that runs.
pub(crate) fn runs_in(verb: &str, name: &MachineName, pid: u32) -> Report {
    Report::new(Kind::Busy, format!("cannot {verb} {name}: it runs in process {pid}"))
        .hint(format!("stop it first: darwin-vz-nix stop {name}"))
}

/// Whether a directory has no file of a machine of a library.
fn entry_of_another_kind(dir: &Path) -> bool {
    dir.is_dir() && !Files::of(dir).has_any()
}

fn broken(name: &MachineName, what: &str, path: &Path) -> Report {
    Report::new(Kind::State, format!("the machine {name} is broken: its {what} {} is missing", path.display()))
        .hint("restore the file from a backup, or delete the machine")
}
