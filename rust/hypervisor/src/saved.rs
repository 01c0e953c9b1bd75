//! The saved state of a suspended machine: its memory in one file, and beside it a record of the configuration and
//! disks that the memory belongs to.
//!
//! ```text
//!  STATE.partial ── saved, guest paused ──▶ STATE.json, then STATE ── guest ended ─ … ─ loaded ──▶ both removed, guest resumed
//! ```
//!
//! The rule: memory is loaded once, and only if the disks are unchanged. A guest that resumes with a disk that has
//! changed since would destroy the file system on it. A guest ends only once its state is complete: until then it can go on.

use crate::spec::{Boot, MachineSpec};
use dvn_host::{files, regular_file};
use dvn_types::{Kind, Report};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Format version of the record.
const VERSION: u32 = 1;

/// What must be unchanged when the memory is loaded, by name.
pub type Facts = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    facts: Facts,
    /// The machine's identifier, for backends that have one.
    identity: Option<String>,
}

/// The facts of this machine and its disks as they are now.
pub fn facts(backend: &str, spec: &MachineSpec, more: &[(&str, String)]) -> Result<Facts, Report> {
    let mut facts = Facts::from([
        ("backend".to_owned(), backend.to_owned()),
        ("architecture".to_owned(), spec.arch.to_string()),
        ("number of cores".to_owned(), spec.cores.to_string()),
        ("memory in bytes".to_owned(), spec.memory.to_string()),
    ]);
    let devices = &spec.devices;
    facts.insert("network".to_owned(), format!("{:?}", devices.nics));
    facts.insert("shares".to_owned(), format!("{:?}", devices.shares));
    let others = (devices.display, devices.vsock, devices.rosetta, devices.nested);
    facts.insert("display, vsock, rosetta, nested virtualization".to_owned(), format!("{others:?}"));
    for (index, disk) in spec.disks().enumerate() {
        let how = format!("{:?}, read-only {}, {}", disk.bus, disk.read_only, stamp(disk.path)?);
        facts.insert(format!("disk {index}"), how);
    }
    match &spec.boot {
        Boot::Linux { .. } => {}
        Boot::Efi { variables } => {
            facts.insert("EFI variable store".to_owned(), stamp(variables)?);
        }
    }
    facts.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Ok(facts)
}

/// Size and time of the last write: changes whenever the file is written.
fn stamp(path: &Path) -> Result<String, Report> {
    let meta = fs::metadata(path).map_err(|e| files::state_error(path, "cannot look at", &e))?;
    let written = |meta: &Metadata| format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    Ok(format!("{} bytes, written at {}", meta.len(), written(&meta)))
}

/// A state that is being saved. Dropping it before [`Saving::finish`] removes it.
pub struct Saving {
    state: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl Saving {
    /// Starts to save a state. Removes an older state, which is invalid because the machine has run since.
    ///
    /// Fails if there is a file but no record of a saved state: it could be a disk, or settings beside one.
    pub fn begin(state: &Path) -> Result<Saving, Report> {
        let record = record_of(state);
        let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
        if (is_there(state) || is_there(&record)) && !is_record(&record) {
            let message = format!("cannot save the guest in {}: the file there is not a saved guest", state.display());
            return Err(Report::new(Kind::State, message).hint("give another path, or move that file away"));
        }
        forget(state)?;
        let saving = Saving { state: state.to_owned(), partial: beside(state, ".partial"), finished: false };
        remove(&saving.partial)?;
        Ok(saving)
    }

    /// The file to write the memory to. It does not exist yet.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Completes the state of a guest that is paused and whose memory is written. The facts are those of the paused guest.
    pub fn finish(mut self, facts: Facts, identity: Option<String>) -> Result<(), Report> {
        let cannot = |e: io::Error| files::state_error(&self.state, "cannot save the guest in", &e);
        let record = Record { version: VERSION, facts, identity };
        let json = serde_json::to_vec_pretty(&record).map_err(|e| cannot(e.into()))?;
        File::open(&self.partial).and_then(|file| file.sync_all()).map_err(cannot)?;
        files::write_atomic(&record_of(&self.state), &json, 0o600)?;
        fs::rename(&self.partial, &self.state).map_err(cannot)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for file in [&self.partial, &record_of(&self.state)] {
            if let Err(error) = remove(file) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Checks a saved state against the machine as it is now. Returns the identifier that the machine had.
pub fn check(state: &Path, now: &Facts) -> Result<Option<String>, Report> {
    let no_state = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Report::new(Kind::State, format!("no guest is saved in {}", state.display()))
            .hint("boot the machine instead"),
        _ => files::state_error(state, "cannot read the saved guest", &e),
    };
    regular_file::look(state).map_err(no_state)?;
    let json = regular_file::read(&record_of(state)).map_err(no_state)?;
    let record: Record = serde_json::from_slice(&json).map_err(|e| no_state(e.into()))?;
    if record.version != VERSION {
        return Err(refusal(
            state,
            &format!("its record has version {}, and this program reads {VERSION}", record.version),
        ));
    }
    let names = record.facts.keys().chain(now.keys());
    for name in names {
        let (then, now) = (record.facts.get(name), now.get(name));
        if then != now {
            let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "none".to_owned());
            return Err(refusal(state, &format!("{name} was {}, and is {} now", show(then), show(now))));
        }
    }
    Ok(record.identity)
}

/// The error for a state that does not match: loading it would do harm.
fn refusal(state: &Path, why: &str) -> Report {
    let message = format!("the guest saved in {} cannot be restored: {why}", state.display());
    Report::new(Kind::State, message)
        .hint("undo that change, or boot the machine instead; the content of its memory is lost then")
}

/// Removes a state, if there is one. The memory goes first: without it, a record alone is not a state.
pub fn forget(state: &Path) -> Result<(), Report> {
    remove(state)?;
    remove(&record_of(state))
}

fn remove(file: &Path) -> Result<(), Report> {
    files::unless_missing(fs::remove_file(file)).map_err(|e| files::state_error(file, "cannot remove", &e))
}

/// Whether a file is the record of a saved state, of this version or another.
fn is_record(path: &Path) -> bool {
    regular_file::read(path).is_ok_and(|json| serde_json::from_slice::<Record>(&json).is_ok())
}

fn record_of(state: &Path) -> PathBuf {
    beside(state, ".json")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disks::SystemDisk, spec::Devices};
    use std::time::{Duration, SystemTime};

    fn machine(dir: &Path) -> MachineSpec {
        fs::write(dir.join("disk.img"), [0; 512]).unwrap();
        fs::write(dir.join("nvram.bin"), [0; 64]).unwrap();
        MachineSpec {
            boot: Boot::Efi { variables: dir.join("nvram.bin") },
            devices: Devices { disks: vec![SystemDisk::new(dir.join("disk.img"), false)], ..Devices::default() },
            ..MachineSpec::sample()
        }
    }

    fn save(spec: &MachineSpec, state: &Path) {
        let saving = Saving::begin(state).unwrap();
        fs::write(saving.path(), "memory").unwrap();
        saving.finish(facts("test", spec, &[]).unwrap(), Some("me".into())).unwrap();
    }

    #[test]
    fn a_state_is_there_when_it_is_whole_and_gone_when_it_is_spent() {
        let tmp = tempfile::tempdir().unwrap();
        let (spec, state) = (machine(tmp.path()), tmp.path().join("state"));
        let now = || facts("test", &spec, &[]).unwrap();
        assert!(check(&state, &now()).unwrap_err().message.starts_with("no guest is saved"));
        drop(Saving::begin(&state).unwrap());
        let half = Saving::begin(&state).unwrap();
        fs::write(half.path(), "half").unwrap();
        drop(half);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2, "the disk and the variables alone");
        save(&spec, &state);
        assert_eq!(check(&state, &now()).unwrap().as_deref(), Some("me"));
        drop(Saving::begin(&state).unwrap());
        assert!(check(&state, &now()).is_err(), "the machine has run since");
        save(&spec, &state);
        forget(&state).unwrap();
        forget(&state).unwrap();
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_state_is_refused_beside_anything_else_than_what_it_remembers() {
        let tmp = tempfile::tempdir().unwrap();
        let (spec, state) = (machine(tmp.path()), tmp.path().join("state"));
        save(&spec, &state);
        let why = |spec: &MachineSpec, more: &[(&str, String)]| {
            let refusal = check(&state, &facts("test", spec, more).unwrap()).unwrap_err();
            assert!(refusal.kind == Kind::State && !refusal.hints.is_empty(), "{refusal:?}");
            refusal.message
        };
        assert!(why(&MachineSpec { cores: 7, ..spec.clone() }, &[]).contains("number of cores was 1, and is 7 now"));
        assert!(why(&spec, &[("firmware", "9 bytes".into())]).contains("firmware was none"));
        let mut other = spec.clone();
        other.devices.disks[0].read_only = true;
        assert!(why(&other, &[]).contains("disk 0"));
        // As after a write. The time is set, since a fast test may write within the clock's resolution.
        let disk = File::options().write(true).open(tmp.path().join("disk.img")).unwrap();
        disk.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        assert!(why(&spec, &[]).contains("disk 0"));
        fs::remove_file(tmp.path().join("disk.img")).unwrap();
        assert!(facts("test", &spec, &[]).unwrap_err().message.contains("disk.img"));
    }

    #[test]
    fn a_file_that_is_no_state_is_never_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let spec = machine(tmp.path());
        fs::create_dir(tmp.path().join("dir")).unwrap();
        for path in [spec.devices.disks[0].path.clone(), tmp.path().join("nvram.bin"), tmp.path().join("dir")] {
            let refusal = Saving::begin(&path).err().unwrap();
            assert!(refusal.kind == Kind::State && refusal.message.ends_with("is not a saved guest"), "{refusal}");
            assert!(path.exists());
        }
        // Nor with JSON of another kind beside it, nor that JSON where nothing else is.
        for path in [spec.devices.disks[0].path.clone(), tmp.path().join("new")] {
            fs::write(record_of(&path), "{\"name\": \"settings\"}").unwrap();
            let was_there = path.exists();
            assert_eq!(Saving::begin(&path).err().unwrap().kind, Kind::State);
            assert!(record_of(&path).exists() && path.exists() == was_there);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let (spec, state) = (machine(tmp.path()), tmp.path().join("state"));
        save(&spec, &state);
        let now = facts("test", &spec, &[]).unwrap();
        for record in [&b"{}"[..], b"\xff", br#"{"version":2,"facts":{},"identity":null}"#] {
            fs::write(record_of(&state), record).unwrap();
            assert_eq!(check(&state, &now).unwrap_err().kind, Kind::State);
        }
    }
}
