//! `doctor`: named checks of everything that a build on a machine depends on.
//!
//! ```text
//!              gather (reads, asks, runs programs)        judge (pure)
//!  Subject ──────────────────────────────────────▶ facts ──────────────▶ Finding ──▶ Repair, if the user says --fix
//! ```
//!
//! The rules: one half of a check gathers facts and the other judges them, so each verdict has tests, even where the
//! program that supplies the facts exists only on a Mac. Whether a check applies follows from data (a missing program,
//! a feature that the backend lacks), never from the name of a system. Without `--fix` nothing is changed; a repair
//! deletes nothing, and reports what it did.

mod boots;
mod broken;
mod bundle;
mod check;
mod checks;
mod daemon;
mod data_disk;
mod finding;
mod guest;
mod keys;
mod launchd;
mod machines;
mod needs;
mod network;
mod nix_conf;
mod opened_bundle;
mod port;
mod program;
mod repair;
mod service;
mod settings;
mod shell;
mod signature;
mod ssh_config;
mod ssh_conflicts;
mod ssh_options;
mod state;
mod state_files;
mod subject;
mod trial_build;
mod trim;
mod volumes;

pub use check::{Check, Examined};
pub use checks::ALL;
pub use finding::{Finding, Outcome};
pub use repair::Repair;
pub use subject::{Observer, Subject};

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn names_are_words_with_dashes_and_unique() {
        let mut names: Vec<_> = ALL.iter().map(|check| check.name).collect();
        assert!(
            names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')),
            "{names:?}"
        );
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[tokio::test]
    async fn wrong_settings_are_one_fault_and_looking_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::unknown(&dir.path().join("s"));
        let mut failed = Vec::new();
        for check in ALL {
            let examined = check.examine(&subject, true).await;
            assert!(!examined.finding.evidence.is_empty(), "{}", check.name);
            if examined.finding.outcome == Outcome::Failed {
                failed.push(check.name);
            }
            let expected = if check.deep { Outcome::NotApplicable } else { examined.finding.outcome };
            assert_eq!(examined.finding.outcome, expected, "{}: {:?}", check.name, examined.finding);
        }
        assert_eq!(failed, ["settings"]);
        assert!(!subject.state_dir.exists());
    }

    #[tokio::test]
    async fn a_repair_is_made_only_on_request_and_the_rest_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let set_mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let subject = Subject::unknown(dir.path());
        let Some(check) = ALL.iter().find(|check| check.name == "state-directory") else { panic!("it is there") };
        set_mode(0o755);
        let seen = check.examine(&subject, false).await;
        assert_eq!((seen.finding.outcome, seen.finding.repairs.len(), seen.repaired.len()), (Outcome::Failed, 1, 0));
        let repaired = check.examine(&subject, true).await;
        let done = format!("set the mode of {} to 0700", dir.path().display());
        assert_eq!((repaired.finding.outcome, repaired.repaired), (Outcome::Ok, vec![done]));
    }

    #[test]
    fn deep_checks_come_last() {
        assert!(ALL.is_sorted_by_key(|check| check.deep), "a fault that needs no guest is reported before one starts");
    }
}
