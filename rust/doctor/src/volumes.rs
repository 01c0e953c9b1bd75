//! Volumes: whether the store's is case-sensitive, and whether the state's has free space.

use super::{finding::Finding, needs, subject::Subject};
use bytesize::ByteSize;
use dvn_guest::disk::{LEAST_FREE, no_room};
use dvn_host::machine_dir::MachineDir;
use dvn_types::Kind;
use std::{ffi::OsString, fs, io, path::Path};

/// With less free space, the first large build fills the volume.
const LITTLE_FREE: u64 = 2 << 30;

/// Number of store entries to search for one whose name contains a letter.
const ENOUGH: usize = 100;

/// The check `store-case`.
pub async fn store_case(subject: &Subject) -> Finding {
    match needs::settings(subject) {
        Ok(settings) if settings.builder.share_store => {
            let store_dir = &settings.builder.store_dir;
            judge_case(probe_case(store_dir, |path| fs::symlink_metadata(path).map(drop)), store_dir)
        }
        Ok(_) => Finding::not_applicable("the store is not shared with the guest"),
        Err(finding) => finding,
    }
}

/// The result of looking a name up in the other case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Case {
    Distinguished,
    Ignored {
        name: OsString,
    },
    /// No entry has a letter.
    Unknown,
}

/// Looks an entry up in the other case. Writes nothing.
fn probe_case(dir: &Path, look: impl Fn(&Path) -> io::Result<()>) -> io::Result<Case> {
    let names: Vec<OsString> =
        fs::read_dir(dir)?.take(ENOUGH).map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    let swapped = names.iter().find_map(|name| {
        let other: String = name.to_str()?.chars().map(swap).collect();
        // A case-sensitive volume may contain both names.
        (other.as_str() != name && !names.iter().any(|known| known == other.as_str())).then_some((name, other))
    });
    let Some((name, other)) = swapped else { return Ok(Case::Unknown) };
    match look(&dir.join(other)) {
        Ok(()) => Ok(Case::Ignored { name: name.clone() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Case::Distinguished),
        Err(error) => Err(error),
    }
}

fn swap(letter: char) -> char {
    if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
}

fn judge_case(probe: io::Result<Case>, dir: &Path) -> Finding {
    let shown = dir.display();
    match probe {
        Ok(Case::Distinguished) => Finding::ok(format!("{shown} is case-sensitive")),
        Ok(Case::Ignored { name }) => {
            let evidence =
                format!("{shown} is not case-sensitive: it also finds {} in the other case", name.to_string_lossy());
            Finding::warning(evidence)
                .hint("Nix renames files there that differ only in case, and a guest sees the new names")
                .hint("set share-store to false if builds fail for missing files")
        }
        Ok(Case::Unknown) => Finding::not_applicable(format!("{shown} has no entry to test with")),
        Err(error) => Finding::failed(Kind::Host, format!("{shown} cannot be read: {error}"))
            .hint("check the setting store-dir, or set share-store to false"),
    }
}

/// The check `disk-space`.
pub async fn disk_space(subject: &Subject) -> Finding {
    // Before the first start the directory does not exist, but its volume does.
    let volume = subject.state_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(volume) {
        Ok(stat) => {
            let machine = MachineDir::of(&subject.state_dir, &subject.machine);
            judge_space(stat.f_bavail.saturating_mul(stat.f_frsize), &subject.state_dir, &machine)
        }
        Err(error) => Finding::warning(format!("the free space of {} cannot be read: {error}", volume.display())),
    }
}

fn judge_space(free: u64, state_dir: &Path, machine: &MachineDir) -> Finding {
    let evidence = format!("{} free for {}", shown(free), state_dir.display());
    let hint = "free some space on that volume, or use a state directory on another volume: --state-dir";
    match free {
        _ if free < LEAST_FREE => {
            let report = no_room(machine, free);
            report.hints.into_iter().fold(Finding::failed(report.kind, report.message), Finding::hint)
        }
        _ if free < LITTLE_FREE => Finding::warning(format!("only {evidence}")).hint(hint),
        _ => Finding::ok(evidence),
    }
}

/// A size for people.
pub fn shown(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    #[test]
    fn a_case_insensitive_volume_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let exactly = |path: &Path| fs::symlink_metadata(path).map(drop);
        assert_eq!(probe_case(dir.path(), exactly).unwrap(), Case::Unknown);
        fs::write(dir.path().join("123"), "").unwrap();
        assert_eq!(probe_case(dir.path(), exactly).unwrap(), Case::Unknown);
        fs::write(dir.path().join("0abc-hello"), "").unwrap();
        assert_eq!(probe_case(dir.path(), exactly).unwrap(), Case::Distinguished);
        let ignored = probe_case(dir.path(), |_| Ok(())).unwrap();
        assert_eq!(ignored, Case::Ignored { name: "0abc-hello".into() });
        fs::write(dir.path().join("0ABC-HELLO"), "").unwrap();
        assert_eq!(
            probe_case(dir.path(), |_| Ok(())).unwrap(),
            Case::Unknown,
            "both names exist, so neither shows anything"
        );
    }

    #[test]
    fn case_is_judged() {
        let judged = |probe| judge_case(probe, Path::new("/nix/store"));
        assert_eq!(judged(Ok(Case::Distinguished)).outcome, Outcome::Ok);
        assert_eq!(judged(Ok(Case::Ignored { name: "a".into() })).outcome, Outcome::Warning);
        assert_eq!(judged(Ok(Case::Unknown)).outcome, Outcome::NotApplicable);
        assert_eq!(judged(Err(io::ErrorKind::NotFound.into())).outcome, Outcome::Failed);
    }

    #[test]
    fn a_full_volume_fails_and_a_small_rest_warns() {
        let judged = |free| judge_space(free, Path::new("/s"), &MachineDir::at(Path::new("/s/machines/m")));
        assert_eq!(judged(8 << 30), Finding::ok("8.0 GiB free for /s"));
        assert_eq!(judged(LITTLE_FREE - 1).outcome, Outcome::Warning);
        let full = judged(LEAST_FREE - 1);
        assert_eq!((full.outcome, full.kind), (Outcome::Failed, Some(Kind::State)));
        assert!(full.evidence.ends_with("are missing") && full.hints.len() == 1, "{full:?}");
    }
}
