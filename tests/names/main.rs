//! Every Apple name that the Swift code uses exists in Apple's headers: `make check-names`.
//!
//! ```text
//!   swift/ (the shim) ─── uses ───▶ docs/vz-names.toml ─── each name ───▶ objc2-virtualization (from Apple's SDK)
//!   tests/virtualization-standin/ ─── declares ──┘  exactly the list
//! ```
//!
//! On Linux the shim is compiled against the stand-in, so the same mistake in both would not be found without this. It
//! needs neither Swift nor a Mac. `docs/decisions/` describes why there is a stand-in and what keeps it honest.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod apple;
mod check;
mod faults;
mod list;
mod spelling;
mod swift;

use apple::Apple;
use list::{List, OLDEST};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use swift::{declarations::declarations, lexer::tokens, uses::uses};

/// The compared sources, as text.
#[derive(Clone, Debug)]
pub struct Sources {
    shim: Vec<(String, String)>,
    stand_in: Vec<(String, String)>,
    list: String,
}

impl Sources {
    /// Those of this tree.
    pub fn read() -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |directory: &str| {
            let mut files = Vec::new();
            swift_files(&root.join(directory), &mut files);
            files.sort();
            assert!(!files.is_empty(), "there is no Swift below {directory}");
            let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
            files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
        };
        Sources {
            shim: read("swift/Sources"),
            stand_in: read("tests/virtualization-standin"),
            list: std::fs::read_to_string(root.join("docs/vz-names.toml")).unwrap(),
        }
    }

    /// All errors in them.
    pub fn complaints(&self, apple: &Apple) -> Vec<String> {
        let list = List::parse(&self.list);
        let declared = |sources: &[(String, String)]| {
            let of = |(file, text): &(String, String)| {
                declarations(&tokens(text)).into_iter().map(|d| (file.clone(), d)).collect::<Vec<_>>()
            };
            sources.iter().flat_map(of).collect::<Vec<_>>()
        };
        let (shim, stand_in) = (declared(&self.shim), declared(&self.stand_in));
        let own = |(_, text): &(String, String)| check::own_names(&tokens(text), &declarations(&tokens(text)));
        let own: BTreeSet<String> = self.shim.iter().flat_map(own).collect();
        let mut wrong = check::list(&list, apple);
        wrong.extend(check::stand_in(&stand_in, &list, apple));
        for (file, text) in &self.shim {
            wrong.extend(check::shim(file, &uses(&tokens(text), OLDEST), &own, &list, apple));
        }
        wrong.extend(check::delegates(&shim, &stand_in));
        wrong
    }
}

fn swift_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            swift_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "swift") {
            files.push(path);
        }
    }
}

#[test]
fn every_name_is_apples() {
    let wrong = Sources::read().complaints(&Apple::load());
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
}

/// Each of them says it in its own way, and one that says another version would be believed by those who read only that one.
#[test]
fn the_oldest_macos_is_the_same_everywhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, said) in [
        ("build.rs", format!("OLDEST_MACOS: &str = \"{OLDEST}.0\"")),
        (".cargo/config.toml", format!("MACOSX_DEPLOYMENT_TARGET = {{ value = \"{OLDEST}.0\"")),
        ("tests/tools/darwin/check_macho.py", format!("OLDEST_MACOS = ({OLDEST}, 0)")),
        ("docs/vz-names.toml", format!("if not {OLDEST}\n# or older")),
        ("README.md", format!("Apple silicon, macOS {OLDEST} or newer")),
        ("docs/guides/mac.md", format!("Apple silicon with macOS {OLDEST} or newer")),
        ("docs/nix.md", format!("Apple silicon and macOS {OLDEST} |")),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(&said), "{file} does not say {said:?}");
    }
}
