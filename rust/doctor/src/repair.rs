//! The repairs of `--fix`. Each is data, so that it can be described before it is made. None deletes anything: a faulty
//! file is renamed, and its new name says so.

use dvn_guest::ssh::keys::Keys;
use dvn_host::{
    files::{move_aside, state_error},
    machine_dir::MachineDir,
    regular_file,
};
use dvn_types::{MachineName, Report};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

/// A repair without risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Removes other users' permissions.
    Close {
        /// File or directory.
        path: PathBuf,
        /// Its new mode.
        mode: u32,
    },
    /// Renames a file, within its directory.
    Aside {
        /// The file.
        path: PathBuf,
    },
    /// Makes a machine's missing keys and the files derived from them.
    Keys {
        /// The machine's directory.
        dir: PathBuf,
        /// Its name.
        machine: MachineName,
    },
}

impl Repair {
    /// What it would do.
    pub fn intent(&self) -> String {
        match self {
            Repair::Close { path, mode } => format!("chmod {mode:o} {}", path.display()),
            Repair::Aside { path } => format!("move {} aside", path.display()),
            Repair::Keys { dir, .. } => format!("make the missing key files in {}", dir.display()),
        }
    }

    /// Makes the repair, and returns what was done, one step each.
    pub fn apply(&self) -> Result<Vec<String>, Report> {
        match self {
            Repair::Close { path, mode } => {
                let closed = fs::set_permissions(path, Permissions::from_mode(*mode));
                closed.map_err(|error| state_error(path, "cannot change the mode of", &error))?;
                Ok(vec![format!("set the mode of {} to {mode:04o}", path.display())])
            }
            Repair::Aside { path } => {
                let moved = move_aside(path).map_err(|error| state_error(path, "cannot move aside", &error))?;
                Ok(vec![format!("moved {} to {}", path.display(), moved.display())])
            }
            Repair::Keys { dir, machine } => make_keys(&MachineDir::at(dir), machine),
        }
    }
}

/// The new files get the directory's owner: root repairs a service's keys, too.
fn make_keys(dir: &MachineDir, machine: &MachineName) -> Result<Vec<String>, Report> {
    let all = || [dir.user_key(), dir.user_public_key(), dir.host_key(), dir.known_hosts()];
    let before = all().map(|path| regular_file::read(&path).ok());
    Keys::ensure(dir, machine)?;
    let owner = fs::metadata(dir.root()).map_err(|error| state_error(dir.root(), "cannot read", &error))?;
    let mut done = Vec::new();
    for (path, before) in all().into_iter().zip(before) {
        let failed = |error| state_error(&path, "cannot give to its owner", &error);
        let file = fs::metadata(&path).map_err(failed)?;
        if file.uid() != owner.uid() {
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
        }
        if regular_file::read(&path).ok() != before {
            done.push(format!("wrote {}", path.display()));
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_aside_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["first", "second"] {
            fs::write(&path, text).unwrap();
            Repair::Aside { path: path.clone() }.apply().unwrap();
            assert!(!path.exists());
        }
        assert_eq!(fs::read_to_string(dir.path().join("key.aside-1")).unwrap(), "first");
        assert_eq!(fs::read_to_string(dir.path().join("key.aside-2")).unwrap(), "second");
        let error = Repair::Aside { path }.apply().unwrap_err();
        assert!(error.message.contains("cannot move aside"), "{error}");
    }

    #[test]
    fn keys_are_completed_and_those_that_are_there_stay() {
        let dir = tempfile::tempdir().unwrap();
        let machine: MachineName = "builder".parse().unwrap();
        let repair = Repair::Keys { dir: dir.path().to_owned(), machine };
        assert_eq!(repair.apply().unwrap().len(), 4);
        let user = fs::read(dir.path().join("id_ed25519")).unwrap();
        fs::remove_file(dir.path().join("known_hosts")).unwrap();
        assert_eq!(repair.apply().unwrap(), [format!("wrote {}", dir.path().join("known_hosts").display())]);
        assert_eq!(fs::read(dir.path().join("id_ed25519")).unwrap(), user);
        assert!(repair.apply().unwrap().is_empty());
    }
}
