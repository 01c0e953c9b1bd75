//! Generations on disk.
//!
//! ```text
//! generations/
//!   ledger.json      what there is, how it fared and what boots; the one source of truth, written whole
//!   N/               the bundle of generation N
//!   new/             a bundle on its way in
//!   home/            the home directory of the `nix` that builds
//!   build.log[.1]    what it said
//! ```
//!
//! The rule that holds here: a bundle comes in by one rename and is in the ledger only after that, and it leaves the ledger
//! before it is removed. What is on disk and not in the ledger is half-made or half-gone, and swept at the start.

use super::ledger::Ledger;
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

const LEDGER: &str = "ledger.json";
const NEW: &str = "new";
const HOME: &str = "home";
const BUILD_LOG: &str = "build.log";

/// The directory. Made when something is to be kept in it.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Reads the ledger, and changes nothing.
    pub fn examine(root: PathBuf) -> Result<(), Report> {
        Store { root }.read().map(drop)
    }

    /// Reads the ledger, and sweeps what is not in it. Also says which generations have a bundle.
    pub fn open(root: PathBuf) -> Result<(Store, Ledger, BTreeSet<u32>), Report> {
        let store = Store { root };
        let ledger = store.read()?;
        let known: BTreeSet<u32> = ledger.generations().map(|(number, _)| number).collect();
        let mut there = BTreeSet::new();
        for entry in store.entries()? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match name.parse() {
                Ok(number) if known.contains(&number) => {
                    there.insert(number);
                }
                Err(_) if name == LEDGER || name == HOME || name.starts_with(BUILD_LOG) => {}
                // What a user moved away because it was in the way.
                Err(_) if name.contains(".aside") => {}
                _ => remove_all(&entry)?,
            }
        }
        Ok((store, ledger, there))
    }

    fn read(&self) -> Result<Ledger, Report> {
        let path = self.root.join(LEDGER);
        let text = match regular_file::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            text => text.map_err(|e| state_error(&path, "cannot read", &e))?,
        };
        // Not taken for an empty one: that would delete what the user may want to go back to.
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

    /// Keeps the ledger.
    pub fn write(&self, ledger: &Ledger) -> Result<(), Report> {
        private_dir(&self.root)?;
        let text = serde_json::to_vec_pretty(ledger).map_err(|e| Report::new(Kind::Internal, e.to_string()))?;
        write_atomic(&self.root.join(LEDGER), &text, 0o600)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bundle of a generation.
    pub fn bundle(&self, number: u32) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// The home directory of a `nix`, made.
    pub fn home(&self) -> Result<PathBuf, Report> {
        let home = self.root.join(HOME);
        private_dir(&self.root)?;
        private_dir(&home)?;
        Ok(home)
    }

    /// Where the next bundle is to be made; nothing is there.
    pub fn place(&self) -> Result<PathBuf, Report> {
        private_dir(&self.root)?;
        let new = self.root.join(NEW);
        remove_all(&new)?;
        Ok(new)
    }

    /// Waits until what was made there is on disk, and refuses what is no part of a bundle.
    pub fn settle(&self) -> Result<(), Report> {
        settle(&self.root.join(NEW))
    }

    /// Makes it the bundle of a generation, which has none yet.
    pub fn adopt(&self, number: u32) -> Result<(), Report> {
        let (new, bundle) = (self.root.join(NEW), self.bundle(number));
        // Of an attempt that could not be written into the ledger.
        remove_all(&bundle)?;
        let rename = || {
            fs::rename(&new, &bundle)?;
            File::open(&self.root)?.sync_all()
        };
        rename().map_err(|e| state_error(&bundle, "cannot make", &e))
    }

    /// Removes the bundle of a generation that is in the ledger no more.
    pub fn remove(&self, number: u32) -> Result<(), Report> {
        remove_all(&self.bundle(number))
    }
}

/// Waits until a tree is on disk, and refuses what no bundle has. A link could lead to any file of this host, which the guest
/// would then be given as a disk: and the guest made it.
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
            format!("{name:?} of the bundle is a link, and a bundle has files alone"),
        )
        .hint("copy the file in the recipe, instead of linking it"));
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(tmp: &tempfile::TempDir) -> (Store, Ledger, BTreeSet<u32>) {
        Store::open(tmp.path().join("generations")).unwrap()
    }

    fn filled(tmp: &tempfile::TempDir) -> (Store, Ledger) {
        let (store, mut ledger, _) = store(tmp);
        for name in ["a", "b"] {
            let new = store.place().unwrap();
            fs::create_dir(&new).unwrap();
            fs::write(new.join("guest.json"), name).unwrap();
            let number = ledger.upcoming();
            store.adopt(number).unwrap();
            assert_eq!(ledger.built(format!("/{name}.drv").into(), String::new(), 1), number);
            store.write(&ledger).unwrap();
        }
        (store, ledger)
    }

    #[test]
    fn nothing_is_made_before_there_is_something_to_keep() {
        let tmp = tempfile::tempdir().unwrap();
        let (_, ledger, there) = store(&tmp);
        assert_eq!((ledger, there), (Ledger::default(), BTreeSet::new()));
        assert!(!tmp.path().join("generations").exists());
    }

    #[test]
    fn what_is_kept_is_found_again_and_the_rest_is_swept() {
        let tmp = tempfile::tempdir().unwrap();
        let (first, ledger) = filled(&tmp);
        // A crash between rename and ledger, one in the middle of a copy, one in the middle of a removal.
        fs::create_dir(first.bundle(3)).unwrap();
        fs::create_dir_all(first.place().unwrap().join("half")).unwrap();
        first.remove(1).unwrap();
        first.home().unwrap();
        let (second, found, there) = store(&tmp);
        assert_eq!((found, there), (ledger, BTreeSet::from([2])));
        assert_eq!(fs::read_to_string(second.bundle(2).join("guest.json")).unwrap(), "b");
        assert!(!second.bundle(3).exists() && !tmp.path().join("generations/new").exists());
    }

    #[test]
    fn a_damaged_ledger_is_told_and_nothing_is_swept() {
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
