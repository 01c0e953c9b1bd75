//! The state directory: whether Nix and ssh can use its path, which users can enter, replace or write it, and whether
//! socket paths fit. The rules are the daemon's own (`machine_dir`).

use super::{
    finding::{Finding, Outcome},
    repair::Repair,
    subject::Subject,
};
use dvn_host::{
    files::{UNFINISHED, state_error},
    machine_dir::LONGEST_SOCKET_PATH,
    naming, trust,
};
use dvn_types::{Kind, Report};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A directory that must be private.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    NoDirectory,
    Unreadable(String),
    Directory { mode: u32, owner: u32 },
}

impl Directory {
    fn look(path: &Path) -> Directory {
        let found = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                Found::Directory { mode: meta.permissions().mode() & 0o7777, owner: meta.uid() }
            }
            Ok(_) => Found::NoDirectory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unreadable(error.to_string()),
        };
        Directory { path: path.to_owned(), found }
    }
}

/// The check `state-directory`.
pub async fn directory(subject: &Subject) -> Finding {
    let root = subject.state_dir.as_path();
    let (machines, machine) = (root.join("machines"), subject.dir());
    let paths = [root, &machines, machine.root()];
    let directories = paths.map(Directory::look);
    let judged = judge(&directories, subject.user, subject.daemon.is_ok());
    if judged.outcome == Outcome::Failed {
        return judged;
    }
    // Root judges a service's directory from the view of that service's user.
    let owner = directories.iter().find_map(|directory| match directory.found {
        Found::Directory { owner, .. } => Some(owner),
        _ => None,
    });
    let dangers = trust::dangers(machine.root(), owner.unwrap_or(subject.user));
    let dangers = dangers.iter().map(|danger| (danger.forbids(), danger.report(root)));
    let unwritable = || paths.iter().find_map(|path| can_write(path).err());
    judge_way(judged, naming::check(root).err(), dangers.collect(), unwritable)
}

/// What the daemon would refuse about its path, the directories above it, or its volume; else a warning; else the
/// earlier finding.
fn judge_way(
    before: Finding,
    unnamable: Option<Report>,
    dangers: Vec<(bool, Report)>,
    unwritable: impl FnOnce() -> Option<Report>,
) -> Finding {
    if let Some(report) = unnamable {
        return report.into();
    }
    if let Some((_, report)) = dangers.iter().find(|(forbids, _)| *forbids) {
        return report.clone().into();
    }
    if let Some(report) = unwritable() {
        return report.into();
    }
    match dangers.into_iter().next() {
        Some((_, report)) => report.hints.into_iter().fold(Finding::warning(report.message), Finding::hint),
        None => before,
    }
}

/// Tries to write there, or where the directory would be made: volumes, flags and permissions can forbid writing in too
/// many ways to predict. The test file is removed at once, and its name is one that the daemon sweeps.
fn can_write(dir: &Path) -> Result<(), Report> {
    let (place, what) = match dir.is_dir() {
        true => (dir, "cannot write in"),
        false => {
            let there = dir.ancestors().find(|dir| dir.is_dir());
            (there.unwrap_or(Path::new("/")), "cannot make the directory")
        }
    };
    let tried = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(place);
    tried.map(drop).map_err(|error| state_error(dir, what, &error))
}

fn judge(directories: &[Directory], user: u32, daemon_answers: bool) -> Finding {
    let mut owner = None;
    let mut open = Vec::new();
    for Directory { path, found } in directories {
        let shown = path.display();
        match found {
            Found::Nothing => {}
            Found::NoDirectory => {
                return Finding::failed(Kind::State, format!("{shown} is not a directory"))
                    .hint("move it away, or name another directory with --state-dir");
            }
            Found::Unreadable(why) => {
                return Finding::failed(Kind::State, format!("{shown} cannot be examined: {why}"))
                    .hint("run this as the user whose daemon it is, or as root");
            }
            Found::Directory { mode, owner: theirs } => {
                if *theirs != user && user != 0 {
                    return Finding::failed(
                        Kind::State,
                        format!("{shown} belongs to user {theirs}, and this is user {user}"),
                    )
                    .hint("run this as that user or as root, or name another directory with --state-dir");
                }
                owner = owner.or(Some((shown, *theirs)));
                if mode & 0o077 != 0 {
                    open.push((path, *mode));
                }
            }
        }
    }
    let Some((root, owner)) = owner else {
        return Finding::ok("there is none yet; the first start makes it");
    };
    if let Some((path, mode)) = open.first() {
        let evidence =
            format!("{} is open to other users (mode {mode:04o}), and it holds private keys", path.display());
        let finding = Finding::failed(Kind::State, evidence).hint(format!("close it: chmod 700 {}", path.display()));
        return open.iter().fold(finding, |finding, (path, _)| {
            finding.repair(Repair::Close { path: path.to_path_buf(), mode: 0o700 })
        });
    }
    if owner != user && !daemon_answers {
        return Finding::warning(format!("{root} belongs to user {owner}, and this is root"))
            .hint(format!("only that user can run a daemon there: sudo -u '#{owner}' darwin-vz-nix …"));
    }
    Finding::ok(format!("{root} belongs to user {owner} and is closed to others"))
}

/// The check `socket-paths`.
pub async fn socket_paths(subject: &Subject) -> Finding {
    judge_socket(&subject.dir().longest_socket())
}

fn judge_socket(longest: &Path) -> Finding {
    let length = longest.as_os_str().len();
    let evidence = format!("the longest has {length} bytes of at most {LONGEST_SOCKET_PATH}");
    if length <= LONGEST_SOCKET_PATH {
        return Finding::ok(evidence);
    }
    Finding::failed(Kind::State, format!("{evidence}: {}", longest.display()))
        .hint("use a state directory with a shorter path: --state-dir")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn of(mode: u32, owner: u32) -> Vec<Directory> {
        let directory = |path: &str, mode| Directory { path: path.into(), found: Found::Directory { mode, owner } };
        let nothing = Directory { path: "/s/machines/builder".into(), found: Found::Nothing };
        vec![directory("/s", mode), directory("/s/machines", 0o700), nothing]
    }

    #[test]
    fn a_directory_of_ones_own_closed_to_others_is_fine() {
        assert_eq!(judge(&of(0o700, 7), 7, false), Finding::ok("/s belongs to user 7 and is closed to others"));
        let nothing = Directory { path: "/s".into(), found: Found::Nothing };
        assert_eq!(judge(&[nothing], 7, false).outcome, Outcome::Ok);
    }

    #[test]
    fn an_open_one_is_closed_by_a_repair() {
        let finding = judge(&of(0o755, 7), 7, false);
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::State)));
        assert!(finding.evidence.contains("0755"), "{finding:?}");
        assert_eq!(finding.repairs, [Repair::Close { path: "/s".into(), mode: 0o700 }]);
    }

    #[test]
    fn another_users_directory_is_left_alone() {
        let finding = judge(&of(0o755, 7), 8, false);
        assert_eq!((finding.outcome, finding.repairs.len()), (Outcome::Failed, 0), "{finding:?}");
        assert_eq!(judge(&of(0o700, 7), 0, true).outcome, Outcome::Ok, "root examines a running service's directory");
        assert_eq!(judge(&of(0o700, 7), 0, false).outcome, Outcome::Warning);
    }

    #[test]
    fn a_file_in_its_place_is_reported() {
        for (found, expected) in [(Found::NoDirectory, "not a directory"), (Found::Unreadable("why".into()), "why")] {
            let finding = judge(&[Directory { path: "/s".into(), found }], 7, false);
            assert!(finding.outcome == Outcome::Failed && finding.evidence.contains(expected), "{finding:?}");
        }
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("file"), "").unwrap();
        assert_eq!(Directory::look(&tmp.path().join("file")).found, Found::NoDirectory);
        assert_eq!(Directory::look(&tmp.path().join("none")).found, Found::Nothing);
    }

    #[test]
    fn a_socket_must_fit() {
        assert_eq!(judge_socket(Path::new(&"x".repeat(LONGEST_SOCKET_PATH))).outcome, Outcome::Ok);
        assert_eq!(judge_socket(Path::new(&"x".repeat(LONGEST_SOCKET_PATH + 1))).outcome, Outcome::Failed);
    }

    /// `doctor` refuses what the daemon refuses.
    #[tokio::test]
    async fn the_path_and_the_way_to_it_are_judged_as_the_daemon_does() {
        let tmp = tempfile::tempdir().unwrap();
        let set_mode = |mode| fs::set_permissions(tmp.path().join("way"), fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir(tmp.path().join("way")).unwrap();
        for (name, mode, outcome) in [
            ("s", 0o755, Outcome::Ok),
            ("a b", 0o755, Outcome::Failed),
            ("50%", 0o755, Outcome::Failed),
            ("s", 0o777, Outcome::Failed),
            ("s", 0o1777, Outcome::Ok),
            ("s", 0o775, Outcome::Warning),
        ] {
            set_mode(mode);
            let dir = tmp.path().join("way").join(name);
            let finding = directory(&Subject::unknown(&dir)).await;
            assert_eq!(finding.outcome, outcome, "{name} {mode:o}: {finding:?}");
            assert!(!dir.exists(), "the check creates nothing");
            let opened = dvn_host::machine_dir::StateDir::open(&dir).map(drop);
            assert_eq!(opened.is_err(), outcome == Outcome::Failed, "{name} {mode:o}: {opened:?}");
            let _ = fs::remove_dir(dir);
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_is_named() {
        // Not even root can make a directory there.
        for place in ["/proc/state", "/proc/self/fd/state"] {
            let finding = directory(&Subject::unknown(Path::new(place))).await;
            let expected = format!("cannot make the directory {place}: ");
            assert!(finding.outcome == Outcome::Failed && finding.evidence.starts_with(&expected), "{finding:?}");
            assert!(!finding.hints.is_empty(), "{finding:?}");
            let refused = dvn_host::machine_dir::StateDir::open(Path::new(place)).unwrap_err();
            assert!(refused.message.starts_with(&expected) && !refused.hints.is_empty(), "{refused:?}");
        }
    }
}
