//! Who runs a machine: a lock on its `config.json`, as Tart takes it.
//!
//! The lock is a POSIX record lock of the whole file. It has two traps. It belongs to the process, so it keeps no other task of
//! the same process out. And it is lost when the process closes *any* descriptor of that file. So [`Locks`] knows which
//! machines this process runs, and hands out what their files said instead of opening them.

use crate::config::{self, VmConfig};
use dvn_host::{files::state_error, regular_file};
use dvn_types::{Kind, Report};
use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The file, whatever its name.
type Key = (u64, u64);

/// The machines that this process runs. Cheap to clone; all users of a library in one process share one.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<HashMap<Key, VmConfig>>>);

/// A machine's configuration, and which process runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The configuration; that of the running guest where this process runs it.
    pub config: VmConfig,
    /// The process that runs it: this one's number, or another's.
    pub runs_in: Option<u32>,
}

/// Proof that this process, and one owner in it, runs a machine. Dropping it gives the machine up.
#[derive(Debug)]
pub struct RunLock {
    locks: Locks,
    key: Key,
    file: Option<File>,
}

impl Locks {
    /// Reads a `config.json`, and finds out who runs the machine.
    pub fn read(&self, path: &Path) -> Result<Seen, Report> {
        let fail = |e: io::Error| state_error(path, "cannot read", &e);
        // Held until the file is closed again: a lock that is taken meanwhile would be lost.
        let running = self.running();
        let key = key(path).map_err(fail)?;
        if let Some(config) = running.get(&key) {
            return Ok(Seen { config: config.clone(), runs_in: Some(std::process::id()) });
        }
        let file = regular_file::open(path).map_err(fail)?;
        let runs_in = holder(&file).map_err(fail)?;
        Ok(Seen { config: parse(&file, path)?, runs_in })
    }

    /// The process that runs a machine, whatever its `config.json` says; none if the file is missing.
    pub fn holder(&self, path: &Path) -> Result<Option<u32>, Report> {
        let fail = |e: io::Error| state_error(path, "cannot read", &e);
        let running = self.running();
        let key = match key(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            key => key.map_err(fail)?,
        };
        if running.contains_key(&key) {
            return Ok(Some(std::process::id()));
        }
        regular_file::open(path).and_then(|file| holder(&file)).map_err(fail)
    }

    /// Takes a machine for running it.
    pub fn run(&self, path: &Path) -> Result<(RunLock, VmConfig), Report> {
        let fail = |e: io::Error| state_error(path, "cannot lock", &e);
        let busy = |pid: Option<u32>| {
            let by = pid.map_or(String::new(), |pid| format!(": process {pid} has it"));
            Report::new(Kind::Busy, format!("the machine of {} runs already{by}", path.display()))
        };
        let mut running = self.running();
        if running.contains_key(&key(path).map_err(fail)?) {
            return Err(busy(Some(std::process::id())));
        }
        let file = regular_file::open_as(path, OpenOptions::new().read(true).write(true)).map_err(fail)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(busy(None)),
            Err(e) => return Err(fail(e.into())),
        }
        let config = parse(&file, path)?;
        let meta = file.metadata().map_err(fail)?;
        let key = (meta.dev(), meta.ino());
        running.insert(key, config.clone());
        Ok((RunLock { locks: self.clone(), key, file: Some(file) }, config))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, VmConfig>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        let mut running = self.locks.running();
        running.remove(&self.key);
        // Before another owner can lock the file: its close drops all locks of this process.
        drop(self.file.take());
    }
}

fn key(path: &Path) -> io::Result<Key> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// The other process that has the file locked.
fn holder(file: &File) -> io::Result<Option<u32>> {
    let lock = fcntl_getlk(file, &Flock::from(FlockType::WriteLock))?;
    Ok(lock.and_then(|lock| lock.pid).and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()))
}

fn parse(file: &File, path: &Path) -> Result<VmConfig, Report> {
    let mut bytes = Vec::new();
    file.take(config::LONGEST + 1).read_to_end(&mut bytes).map_err(|e| state_error(path, "cannot read", &e))?;
    if bytes.len() as u64 > config::LONGEST {
        let why = format!("{} cannot be used: it is longer than {} bytes", path.display(), config::LONGEST);
        return Err(Report::new(Kind::State, why));
    }
    VmConfig::parse(&bytes, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_types::Arch;
    use std::{
        path::PathBuf,
        process::{Command, Stdio},
    };

    fn config_in(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("config.json");
        std::fs::write(&path, VmConfig::linux(Arch::Aarch64).text().unwrap()).unwrap();
        path
    }

    /// Whether a process of its own could take the lock.
    fn another_process_can_lock(path: &Path) -> bool {
        let exe = std::env::current_exe().unwrap();
        let tried = Command::new(exe)
            .args(["--exact", "lock::tests::as_another_process", "--nocapture"])
            .env("LOCK_TEST_PATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        tried.success()
    }

    /// Part of the tests below: does nothing unless it is run by them.
    #[test]
    fn as_another_process() {
        if let Some(path) = std::env::var_os("LOCK_TEST_PATH") {
            let path = PathBuf::from(path);
            let locks = Locks::default();
            let seen = locks.read(&path).unwrap();
            let locked = locks.run(&path).is_ok();
            assert_eq!(seen.runs_in.is_none(), locked, "what is seen and what can be had must agree");
            assert!(locked);
        }
    }

    #[test]
    fn a_machine_runs_once_in_this_process_and_in_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = config_in(&dir);
        let locks = Locks::default();
        let (lock, config) = locks.run(&path).unwrap();
        assert_eq!(locks.run(&path).unwrap_err().kind, Kind::Busy);
        // Reading it does not lose the lock.
        let seen = locks.read(&path).unwrap();
        assert_eq!(seen, Seen { config, runs_in: Some(std::process::id()) });
        assert!(!another_process_can_lock(&path));
        drop(lock);
        assert_eq!(locks.read(&path).unwrap().runs_in, None);
        assert!(another_process_can_lock(&path));
    }
}
