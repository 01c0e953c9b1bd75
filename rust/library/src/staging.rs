//! The directory in which machines are made before they appear, and into which they go to be deleted.

#[cfg(test)]
mod steps;

use dvn_host::files::{private_dir, remove_all, state_error};
use dvn_types::{Kind, Report};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// A directory that is being made or deleted. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    lock: PathBuf,
    /// Held until it is gone: so another process tells it from what a crash left.
    _held: File,
}

impl Staged {
    /// A new and empty one in `staging`.
    pub fn new(staging: &Path) -> Result<Staged, Report> {
        let staged = Staged::reserve(staging)?;
        private_dir(&staged.path)?;
        step();
        Ok(staged)
    }

    /// Takes the directory of a machine away, to be deleted when this is dropped.
    pub fn take(staging: &Path, machine: &Path) -> Result<Staged, Report> {
        let staged = Staged::reserve(staging)?;
        fs::rename(machine, &staged.path).map_err(|e| state_error(machine, "cannot delete", &e))?;
        step();
        sync_parent(machine)?;
        Ok(staged)
    }

    fn reserve(staging: &Path) -> Result<Staged, Report> {
        private_dir(staging)?;
        let path = staging.join(format!("{:032x}", rand::random::<u128>()));
        let lock = path.with_extension("lock");
        let held = File::create_new(&lock).map_err(|e| state_error(&lock, "cannot make", &e))?;
        let is_there = || lock.symlink_metadata().is_ok();
        if held.try_lock().is_err() || !is_there() {
            // A sweep came between the two calls and took it for something that a crash left.
            return Err(
                Report::new(Kind::Busy, format!("another process cleans up {}", staging.display())).hint("try again")
            );
        }
        step();
        Ok(Staged { path, lock, _held: held })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has it appear under its own name, whole, unless something is there.
    pub fn appear(self, at: &Path) -> Result<(), Appeared> {
        let fail = |e: io::Error| Appeared::Failed(state_error(at, "cannot make", &e));
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(fail)?;
        match renameat_with(CWD, &self.path, CWD, at, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(Appeared::Taken),
            // A file system without that call: a directory never replaces one that has files.
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => match fs::rename(&self.path, at) {
                Ok(()) => {}
                Err(e) if at.exists() => {
                    tracing::debug!("{}: {e}", at.display());
                    return Err(Appeared::Taken);
                }
                Err(e) => return Err(fail(e)),
            },
            Err(e) => return Err(fail(e.into())),
        }
        step();
        sync_parent(at).map_err(Appeared::Failed)
    }
}

/// Why a directory did not appear under its name.
#[derive(Debug)]
pub(crate) enum Appeared {
    /// Something has the name.
    Taken,
    /// For another reason.
    Failed(Report),
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(report) = remove_all(&self.path) {
            tracing::warn!("{report}; the next start of the daemon tries again");
            return;
        }
        step();
        if let Err(e) = fs::remove_file(&self.lock) {
            tracing::warn!("cannot remove {}: {e}", self.lock.display());
        }
    }
}

/// Removes what processes that ended have left in `staging`.
pub(crate) fn sweep(staging: &Path) -> Result<(), Report> {
    let entries = match fs::read_dir(staging) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| state_error(staging, "cannot read", &e))?,
    };
    for entry in entries {
        let lock = entry.map_err(|e| state_error(staging, "cannot read", &e))?.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            // A directory goes with its lock, which was there before it and goes after it. Anything else is not ours.
            continue;
        }
        match File::open(&lock).map(|file| file.try_lock().map(|()| file)) {
            Ok(Ok(_held)) => {
                remove_all(&lock.with_extension(""))?;
                fs::remove_file(&lock).map_err(|e| state_error(&lock, "cannot remove", &e))?;
            }
            Ok(Err(TryLockError::WouldBlock)) => {}
            Ok(Err(TryLockError::Error(e))) => return Err(state_error(&lock, "cannot lock", &e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(state_error(&lock, "cannot open", &e)),
        }
    }
    Ok(())
}

/// Has a rename in the directory of `path` survive a loss of power.
pub(crate) fn sync_parent(path: &Path) -> Result<(), Report> {
    let Some(parent) = path.parent() else { return Err(Report::new(Kind::Internal, "a machine has no directory")) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| state_error(parent, "cannot sync", &e))
}

/// A change on disk is done.
pub(crate) fn step() {
    #[cfg(test)]
    steps::reached();
}
