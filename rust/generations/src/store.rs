//! Generations on disk.
//!
//! ```text
//! generations/
//!   ledger.json      all generations, their verdicts and which one boots; written atomically
//!   N/               the bundle of generation N
//!   new/             a bundle being fetched
//!   home/            the home directory of the `nix` that builds
//!   build.log[.1]    output of the last build
//! ```
//!
//! Rule: a bundle is added by one rename, and only then added to `ledger.json`; it is removed from `ledger.json` before
//! its files are removed. Files that `ledger.json` does not list are partial, and removed at the start.

use super::generation_state::GenerationState;
use dvn_host::{
    files::{private_dir, remove_all, state_error, write_atomic},
    regular_file,
};
use dvn_types::{Kind, Report};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const STATE_FILE: &str = "ledger.json";
const NEW: &str = "new";
const HOME: &str = "home";
const BUILD_LOG: &str = "build.log";

/// The directory of the generations. Created when something is stored.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Reads `ledger.json`. Changes nothing.
    pub fn examine(root: PathBuf) -> Result<(), Report> {
        Store { root }.read().map(drop)
    }

    /// Reads `ledger.json`, and removes files that it does not list. Also returns the generations that have a bundle.
    pub fn open(root: PathBuf) -> Result<(Store, GenerationState, BTreeSet<u32>), Report> {
        let store = Store { root };
        let state = store.read()?;
        let known: BTreeSet<u32> = state.generations().map(|(number, _)| number).collect();
        let mut there = BTreeSet::new();
        for entry in store.entries()? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match name.parse() {
                Ok(number) if known.contains(&number) => {
                    there.insert(number);
                }
                Err(_) if name == STATE_FILE || name == HOME || name.starts_with(BUILD_LOG) => {}
                // Something that a user moved aside.
                Err(_) if name.contains(".aside") => {}
                _ => remove_all(&entry)?,
            }
        }
        Ok((store, state, there))
    }

    fn read(&self) -> Result<GenerationState, Report> {
        let path = self.root.join(STATE_FILE);
        let text = match regular_file::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(GenerationState::default()),
            text => text.map_err(|e| state_error(&path, "cannot read", &e))?,
        };
        // Not treated as empty: that would delete generations that the user may want to go back to.
        serde_json::from_slice(&text).map_err(|error| {
            Report::new(Kind::State, format!("{} is damaged: {error}", path.display())).hint(
                "delete that directory's generations, which can be built again: darwin-vz-nix destroy --keep-keys",
            )
        })
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Report> {
        let read = || fs::read_dir(&self.root)?.map(|entry| entry.map(|entry| entry.path())).collect();
        match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            entries => entries.map_err(|e: io::Error| state_error(&self.root, "cannot read", &e)),
        }
    }

    /// Writes `ledger.json`.
    pub fn write(&self, state: &GenerationState) -> Result<(), Report> {
        private_dir(&self.root)?;
        let text = serde_json::to_vec_pretty(state).map_err(|e| Report::new(Kind::Internal, e.to_string()))?;
        write_atomic(&self.root.join(STATE_FILE), &text, 0o600)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bundle of a generation.
    pub fn bundle(&self, number: u32) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// The home directory for `nix`. Creates it.
    pub fn home(&self) -> Result<PathBuf, Report> {
        let home = self.root.join(HOME);
        private_dir(&self.root)?;
        private_dir(&home)?;
        Ok(home)
    }

    /// Path for the next bundle. Removes what is there.
    pub fn place(&self) -> Result<PathBuf, Report> {
        private_dir(&self.root)?;
        let new = self.root.join(NEW);
        remove_all(&new)?;
        Ok(new)
    }

    /// Syncs the new bundle to disk, and refuses what cannot be part of a bundle.
    pub fn settle(&self) -> Result<(), Report> {
        settle(&self.root.join(NEW))
    }

    /// Makes the new bundle that of a generation, which has none yet.
    pub fn adopt(&self, number: u32) -> Result<(), Report> {
        let (new, bundle) = (self.root.join(NEW), self.bundle(number));
        // From an attempt that could not be written to `ledger.json`.
        remove_all(&bundle)?;
        let rename = || {
            fs::rename(&new, &bundle)?;
            File::open(&self.root)?.sync_all()
        };
        rename().map_err(|e| state_error(&bundle, "cannot make", &e))
    }

    /// Removes the bundle of a generation that is no longer in `ledger.json`.
    pub fn remove(&self, number: u32) -> Result<(), Report> {
        remove_all(&self.bundle(number))
    }
}

/// Syncs a tree to disk, and refuses links: a link could point to any file of this host, which the guest would then get
/// as a disk, and the guest made the link.
fn settle(path: &Path) -> Result<(), Report> {
    let unread = |e| state_error(path, "cannot read", &e);
    let meta = fs::symlink_metadata(path).map_err(unread)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(unread)? {
            settle(&entry.map_err(unread)?.path())?;
        }
    } else if !meta.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(Report::new(
            Kind::Bundle,
            format!("{name:?} of the bundle is a link, and a bundle has only files"),
        )
        .hint("copy the file in the recipe instead of linking it"));
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(tmp: &tempfile::TempDir) -> (Store, GenerationState, BTreeSet<u32>) {
        Store::open(tmp.path().join("generations")).unwrap()
    }

    fn filled(tmp: &tempfile::TempDir) -> (Store, GenerationState) {
        let (store, mut state, _) = store(tmp);
        for name in ["a", "b"] {
            let new = store.place().unwrap();
            fs::create_dir(&new).unwrap();
            fs::write(new.join("guest.json"), name).unwrap();
            let number = state.upcoming();
            store.adopt(number).unwrap();
            assert_eq!(state.built(format!("/{name}.drv").into(), String::new(), 1), number);
            store.write(&state).unwrap();
        }
        (store, state)
    }

    #[test]
    fn nothing_is_made_before_there_is_something_to_keep() {
        let tmp = tempfile::tempdir().unwrap();
        let (_, state, there) = store(&tmp);
        assert_eq!((state, there), (GenerationState::default(), BTreeSet::new()));
        assert!(!tmp.path().join("generations").exists());
    }

    #[test]
    fn what_was_stored_is_found_again_and_the_rest_is_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let (first, state) = filled(&tmp);
        // A crash between the rename and the write, one during a copy, one during a removal.
        fs::create_dir(first.bundle(3)).unwrap();
        fs::create_dir_all(first.place().unwrap().join("half")).unwrap();
        first.remove(1).unwrap();
        first.home().unwrap();
        let (second, found, there) = store(&tmp);
        assert_eq!((found, there), (state, BTreeSet::from([2])));
        assert_eq!(fs::read_to_string(second.bundle(2).join("guest.json")).unwrap(), "b");
        assert!(!second.bundle(3).exists() && !tmp.path().join("generations/new").exists());
    }

    #[test]
    fn a_damaged_state_file_is_reported_and_nothing_is_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let (store, _) = filled(&tmp);
        fs::write(tmp.path().join("generations/ledger.json"), "{").unwrap();
        let error = Store::open(tmp.path().join("generations")).unwrap_err();
        assert!(error.message.contains("damaged"), "{error}");
        assert!(store.bundle(1).exists());
    }

    #[test]
    fn links_are_no_part_of_a_bundle() {
        let tmp = tempfile::tempdir().unwrap();
        let (store, ..) = store(&tmp);
        let new = store.place().unwrap();
        fs::create_dir(&new).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", new.join("system.img")).unwrap();
        let error = store.settle().unwrap_err();
        assert!(error.kind == Kind::Bundle && error.message.contains("system.img"), "{error}");
    }
}
