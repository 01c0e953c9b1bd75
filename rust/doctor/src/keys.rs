//! A machine's keys: permissions, damage, and whether the derived files match.

use super::{finding::Finding, repair::Repair, subject::Subject};
use dvn_guest::ssh::keys::{known_hosts_line, public_half};
use dvn_host::{files::state_error, machine_dir::MachineDir, regular_file};
use dvn_types::{Kind, MachineName, Report};
use std::{io, os::unix::fs::PermissionsExt, path::PathBuf};

#[derive(Clone, Debug)]
struct Key {
    path: PathBuf,
    found: Found,
}

#[derive(Clone, Debug)]
enum Found {
    Nothing,
    Unusable(Report),
    /// With its public half, or what is wrong with it.
    Key {
        mode: u32,
        public: Result<String, String>,
    },
}

impl Key {
    fn look(path: PathBuf) -> Key {
        let read = || {
            let mode = regular_file::look(&path)?.permissions().mode();
            Ok::<_, io::Error>((regular_file::read_to_string(&path)?, mode))
        };
        let found = match read() {
            Ok((text, mode)) => Found::Key { mode: mode & 0o7777, public: public_half(&text) },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unusable(state_error(&path, "cannot read", &error)),
        };
        Key { path, found }
    }

    fn public(&self) -> Option<&str> {
        match &self.found {
            Found::Key { public: Ok(public), .. } => Some(public),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Facts {
    dir: PathBuf,
    machine: MachineName,
    user: Key,
    host: Key,
    /// The contents of `id_ed25519.pub` and `known_hosts`.
    public: Derived,
    known_hosts: Derived,
}

#[derive(Clone, Debug)]
struct Derived {
    path: PathBuf,
    /// Its text, or why it cannot be read.
    text: Result<String, String>,
}

impl Derived {
    fn look(path: PathBuf) -> Derived {
        let text = match regular_file::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("is missing".to_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        Derived { path, text }
    }
}

impl Facts {
    fn gather(dir: &MachineDir, machine: &MachineName) -> Facts {
        Facts {
            dir: dir.root().to_owned(),
            machine: machine.clone(),
            user: Key::look(dir.user_key()),
            host: Key::look(dir.host_key()),
            public: Derived::look(dir.user_public_key()),
            known_hosts: Derived::look(dir.known_hosts()),
        }
    }

    fn remake(&self) -> Repair {
        Repair::Keys { dir: self.dir.clone(), machine: self.machine.clone() }
    }

    fn none_yet(&self) -> bool {
        [&self.user, &self.host].iter().all(|key| matches!(key.found, Found::Nothing))
    }
}

/// The check `keys`.
pub async fn keys(subject: &Subject) -> Finding {
    judge_keys(&Facts::gather(&subject.dir(), &subject.machine))
}

/// The check `known-hosts`.
pub async fn known_hosts(subject: &Subject) -> Finding {
    judge_known_hosts(&Facts::gather(&subject.dir(), &subject.machine))
}

/// The pinned line, for the checks of ssh's configuration; `None` while there is no host key.
pub fn pinned_line(dir: &MachineDir, machine: &MachineName) -> Option<String> {
    let key = Key::look(dir.host_key());
    key.public().map(|public| known_hosts_line(machine, public))
}

fn judge_keys(facts: &Facts) -> Finding {
    if facts.none_yet() {
        return Finding::not_applicable("there are none yet; the first start makes them");
    }
    for key in [&facts.user, &facts.host] {
        let shown = key.path.display();
        match &key.found {
            Found::Unusable(report) => return report.clone().into(),
            Found::Key { mode, .. } if mode & 0o077 != 0 => {
                return Finding::failed(Kind::State, format!("{shown} can be read by other users (mode {mode:04o})"))
                    .hint(format!("close it: chmod 600 {shown}"))
                    .hint("if other users may have read it, make new keys: `darwin-vz-nix destroy`")
                    .repair(Repair::Close { path: key.path.clone(), mode: 0o600 });
            }
            Found::Key { public: Err(why), .. } => {
                return Finding::failed(Kind::State, format!("{shown} is damaged: {why}"))
                    .hint("move it away, and the next start makes a new one; then run `nix-config` again")
                    .repair(Repair::Aside { path: key.path.clone() })
                    .repair(facts.remake());
            }
            Found::Nothing | Found::Key { .. } => {}
        }
    }
    if let Some(missing) = [&facts.user, &facts.host].into_iter().find(|key| matches!(key.found, Found::Nothing)) {
        return Finding::failed(Kind::State, format!("{} is missing", missing.path.display()))
            .hint("the next start makes a new one; a running guest keeps the old one")
            .repair(facts.remake());
    }
    judge_derived(facts, &facts.public, facts.user.public().map(|public| format!("{public}\n")), "the private key")
        .unwrap_or_else(|| Finding::ok("both private keys are whole and closed to others"))
}

fn judge_known_hosts(facts: &Facts) -> Finding {
    let Some(public) = facts.host.public() else {
        return Finding::not_applicable("there is no host key to compare it with: see the check keys");
    };
    let expected = known_hosts_line(&facts.machine, public);
    judge_derived(facts, &facts.known_hosts, Some(expected), "the guest's host key")
        .unwrap_or_else(|| Finding::ok(format!("{} pins the guest's host key alone", facts.known_hosts.path.display())))
}

/// The fault of a derived file, if it has one. The next start of the daemon rewrites the file.
fn judge_derived(facts: &Facts, derived: &Derived, expected: Option<String>, source: &str) -> Option<Finding> {
    let expected = expected?;
    let text = match &derived.text {
        Ok(text) if *text == expected => return None,
        text => text.as_deref(),
    };
    let shown = derived.path.display();
    let text = match text {
        Ok(text) => text,
        Err(why) => {
            return Some(
                Finding::failed(Kind::State, format!("{shown} {why}"))
                    .hint("the next start of the daemon writes it")
                    .repair(facts.remake()),
            );
        }
    };
    let what = if text.contains(expected.trim_end()) { "says more than" } else { "does not belong to" };
    Some(
        Finding::failed(Kind::State, format!("{shown} {what} {source}: {}", foreign_line(text, &expected)))
            .hint("the next start of the daemon rewrites it")
            .repair(Repair::Aside { path: derived.path.clone() })
            .repair(facts.remake()),
    )
}

/// The first line that does not belong there, short enough to show.
fn foreign_line(text: &str, expected: &str) -> String {
    let foreign = text.lines().enumerate().find(|(_, line)| *line != expected.trim_end());
    match foreign {
        Some((number, line)) => {
            let shown: String = line.chars().take(60).collect();
            let more = if shown.len() < line.len() { "…" } else { "" };
            format!("line {} is {shown:?}{more}", number + 1)
        }
        None => "its end of line is missing, or a line is repeated".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_guest::ssh::keys::Keys;
    use std::fs;

    fn builder() -> MachineName {
        "builder".parse().unwrap()
    }

    /// Keys with a fault that `judge` finds and the repairs remove.
    fn fault(plant: impl FnOnce(&MachineDir), judge: fn(&Facts) -> Finding) -> (Finding, tempfile::TempDir) {
        let tmp = tempfile::tempdir().unwrap();
        Keys::ensure(&MachineDir::at(tmp.path()), &builder()).unwrap();
        let dir = MachineDir::at(tmp.path());
        for judge in [judge_keys, judge_known_hosts] {
            assert_eq!(judge(&Facts::gather(&dir, &builder())).outcome, Outcome::Ok);
        }
        plant(&dir);
        let finding = judge(&Facts::gather(&dir, &builder()));
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::State)), "{finding:?}");
        for repair in &finding.repairs {
            repair.apply().unwrap();
        }
        let after = judge(&Facts::gather(&dir, &builder()));
        assert_eq!(after.outcome, Outcome::Ok, "{after:?}");
        (finding, tmp)
    }

    #[test]
    fn an_open_key_is_closed() {
        let open = |dir: &MachineDir| {
            fs::set_permissions(dir.user_key(), fs::Permissions::from_mode(0o644)).unwrap();
        };
        let (finding, _) = fault(open, judge_keys);
        assert!(finding.evidence.contains("id_ed25519 can be read by other users (mode 0644)"), "{finding:?}");
    }

    #[test]
    fn a_damaged_key_is_moved_aside_and_kept() {
        let (finding, tmp) = fault(|dir| fs::write(dir.host_key(), "damage").unwrap(), judge_keys);
        assert!(finding.evidence.contains("damaged"), "{finding:?}");
        assert_eq!(fs::read_to_string(tmp.path().join("ssh_host_ed25519_key.aside-1")).unwrap(), "damage");
    }

    #[test]
    fn halves_that_do_not_belong_together_and_missing_ones_are_found() {
        let (finding, _) = fault(|dir| fs::write(dir.user_public_key(), "ssh-ed25519 BBBB\n").unwrap(), judge_keys);
        assert!(finding.evidence.contains("does not belong to the private key"), "{finding:?}");
        let (finding, _) = fault(|dir| fs::remove_file(dir.user_key()).unwrap(), judge_keys);
        assert!(finding.evidence.contains("missing"), "{finding:?}");
    }

    #[test]
    fn a_foreign_line_in_known_hosts_is_found_and_kept_aside() {
        let plant = |dir: &MachineDir| {
            let mut text = fs::read_to_string(dir.known_hosts()).unwrap();
            text.push_str("darwin-vz-builder ssh-ed25519 FOREIGN\n");
            fs::write(dir.known_hosts(), text).unwrap();
        };
        let (finding, tmp) = fault(plant, judge_known_hosts);
        assert!(finding.evidence.contains(r#"line 2 is "darwin-vz-builder ssh-ed25519 FOREIGN""#), "{finding:?}");
        assert!(fs::read_to_string(tmp.path().join("known_hosts.aside-1")).unwrap().contains("FOREIGN"));
        let (finding, _) = fault(|dir| fs::remove_file(dir.known_hosts()).unwrap(), judge_known_hosts);
        assert!(finding.evidence.contains("missing"), "{finding:?}");
    }

    #[test]
    fn before_the_first_start_there_is_nothing_to_look_at() {
        let tmp = tempfile::tempdir().unwrap();
        let facts = Facts::gather(&MachineDir::at(tmp.path()), &builder());
        assert_eq!(judge_keys(&facts).outcome, Outcome::NotApplicable);
        assert_eq!(judge_known_hosts(&facts).outcome, Outcome::NotApplicable);
        assert_eq!(pinned_line(&MachineDir::at(tmp.path()), &builder()), None);
    }

    #[test]
    fn a_file_that_is_not_regular_is_reported_at_once_and_derived_files_are_made_anew() {
        use dvn_host::wrong_files;
        for kind in wrong_files::KINDS {
            let (finding, tmp) = fault(|dir| wrong_files::make(kind, &dir.known_hosts()), judge_known_hosts);
            assert!(finding.evidence.contains("not a regular file"), "{kind}: {finding:?}");
            wrong_files::assert_nothing_lost(kind, &tmp.path().join("known_hosts"));
            let (finding, tmp) = fault(|dir| wrong_files::make(kind, &dir.user_public_key()), judge_keys);
            assert!(finding.evidence.contains("not a regular file"), "{kind}: {finding:?}");
            wrong_files::assert_nothing_lost(kind, &tmp.path().join("id_ed25519.pub"));
            for key in [MachineDir::user_key, MachineDir::host_key] {
                let tmp = tempfile::tempdir().unwrap();
                let dir = MachineDir::at(tmp.path());
                Keys::ensure(&dir, &builder()).unwrap();
                wrong_files::make(kind, &key(&dir));
                let finding = judge_keys(&Facts::gather(&dir, &builder()));
                assert_eq!((finding.outcome, finding.repairs.len()), (Outcome::Failed, 0), "{kind}: {finding:?}");
                assert!(finding.hints[0].starts_with("move it away"), "{kind}: {finding:?}");
            }
        }
    }
}
