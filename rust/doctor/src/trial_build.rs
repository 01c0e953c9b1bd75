//! A trivial build through the direct door, by this computer's Nix with local builds disabled. It uses a temporary
//! store, so that this computer's store and Nix daemon are not involved.

use super::{finding::Finding, guest, opened_bundle, program::Said, shell, subject::Subject};
use dvn_types::Kind;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// An emulated guest is slow, and so is creating a store.
const TIMEOUT: Duration = Duration::from_secs(120);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

struct Facts {
    /// What Nix printed.
    nix: Said,
    /// The build's output: the kernel release and the boot id.
    result: Option<String>,
    /// The guest's boot id, read through ssh.
    guest_boot: String,
    took: Duration,
}

/// The check `build`.
pub async fn check(subject: &Subject) -> Finding {
    let Some(nix) = subject.find("nix") else {
        return Finding::not_applicable("there is no nix on this computer to build with");
    };
    let Some(bundle) = opened_bundle::fit(subject).await else {
        return Finding::not_applicable("the bundle is wrong: see the check bundle");
    };
    let mut shell = match guest::shell(subject).await {
        Ok(shell) => shell,
        Err(finding) => return finding,
    };
    let failed = |why: String| Finding::failed(Kind::Guest, why);
    let guest_boot = match shell.run(&format!("cat {BOOT_ID}"), shell::TIMEOUT).await {
        Ok(output) => output.text,
        Err(why) => return failed(why),
    };
    let builders = match subject.this_program().args(["nix-config", "--only", "builders"]).run().await {
        Ok(said) if said.succeeded() => said.stdout.trim().to_owned(),
        Ok(said) => return failed(format!("`nix-config` failed: {}", said.complaint())),
        Err(why) => return failed(why),
    };
    let store = match Store::new(subject.dir().root()) {
        Ok(store) => store,
        Err(error) => return Finding::failed(Kind::State, format!("a temporary store cannot be made: {error}")),
    };
    let begun = SystemTime::now();
    let nix = nix
        // Not --print-out-paths, which is new in 2.9.
        .args(["build", "--extra-experimental-features", "nix-command", "--impure", "--no-link", "--json"])
        .args(["--store", &format!("local?root={}", store.path().display())])
        .args(["--max-jobs", "0", "--builders", &builders])
        .args(["--option", "substitute", "false", "--option", "builders-use-substitutes", "false"])
        .args(["--expr", &derivation(&format!("{}-linux", bundle.arch), begun)])
        .timeout(TIMEOUT);
    match nix.run().await {
        Ok(nix) => {
            let took = begun.elapsed().unwrap_or_default();
            let result = output(&nix.stdout).and_then(|path| store.read(&path));
            judge(&Facts { nix, result, guest_boot, took })
        }
        Err(why) => failed(why),
    }
}

/// The output path of one derivation, from `nix build --json`.
fn output(json: &str) -> Option<String> {
    let built: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(built[0]["outputs"]["out"].as_str()?.to_owned())
}

/// Unique each time, so that Nix cannot reuse an old result.
fn derivation(system: &str, now: SystemTime) -> String {
    let nonce = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!(
        "derivation {{ name = \"darwin-vz-nix-doctor\"; system = \"{system}\"; builder = \"/bin/sh\"; nonce = \"{nonce}\"; \
         args = [ \"-c\" \"read -r kernel </proc/sys/kernel/osrelease; read -r boot <{BOOT_ID}; echo \\\"$kernel $boot\\\" >$out\" ]; }}"
    )
}

fn judge(facts: &Facts) -> Finding {
    let hint = "see the guest's side: `darwin-vz-nix logs`, `darwin-vz-nix logs --console`";
    if !facts.nix.succeeded() {
        let why = last_error(&facts.nix.stderr).unwrap_or_else(|| facts.nix.complaint());
        return Finding::failed(Kind::Guest, format!("Nix could not build: {why}")).hint(hint);
    }
    let result = facts.result.as_deref().map(str::trim).unwrap_or_default();
    match result.split_once(' ') {
        Some((kernel, boot)) if boot == facts.guest_boot => Finding::ok(format!(
            "built in the guest with Linux {kernel}, boot {boot}, in {:.1} s",
            facts.took.as_secs_f64()
        )),
        Some((_, boot)) => Finding::failed(
            Kind::Config,
            format!("it was built elsewhere: boot {boot}, while the guest's is {}", facts.guest_boot),
        )
        .hint("this computer's Nix builds for that system itself, or uses another builder"),
        None => Finding::failed(Kind::Guest, format!("the result is {result:?}")).hint(hint),
    }
}

/// The last error that Nix prints, with its continuation lines; the text may follow on lines below a bare `error:`. A
/// failure to use the builder comes first.
fn last_error(stderr: &str) -> Option<String> {
    let stderr = without_colours(stderr);
    let lines: Vec<_> = stderr.lines().map(str::trim).collect();
    let at = lines.iter().rposition(|line| line.starts_with("error:"))?;
    let rest = lines[at + 1..].iter().skip_while(|line| lines[at] == "error:" && line.is_empty());
    let rest = rest.take_while(|line| !line.is_empty());
    let error = std::iter::once(&lines[at]).chain(rest).copied().collect::<Vec<_>>().join(" ");
    let builder = lines.iter().rev().find(|line| line.starts_with("cannot build on "));
    let text = builder.map_or_else(|| error.clone(), |builder| format!("{builder}; {error}"));
    Some(if text.chars().count() > MOST { text.chars().take(MOST).chain(['…']).collect() } else { text })
}

/// Maximum characters of an error that are shown.
const MOST: usize = 600;

/// Removes terminal colour sequences.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let ended = |part: &str| part.find(|c: char| c.is_ascii_alphabetic()).map(|end| part[end + 1..].to_owned());
    parts.fold(first, |text, part| text + &ended(part).unwrap_or_default())
}

/// A store for one build, removed afterwards with the read-only files that Nix made in it.
struct Store(tempfile::TempDir);

impl Store {
    fn new(parent: &Path) -> io::Result<Store> {
        tempfile::Builder::new().prefix("doctor-").tempdir_in(parent).map(Store)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file behind a store path.
    fn read(&self, store_path: &str) -> Option<String> {
        fs::read_to_string(self.path().join(store_path.trim_start_matches('/'))).ok()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A directory that cannot be opened makes the removal fail, which is ignored.
        let _ = open_up(self.path());
    }
}

/// Makes directories writable, so that they can be removed.
fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn facts(code: i32, stderr: &str, result: Option<&str>) -> Facts {
        Facts {
            nix: Said { code: Some(code), stdout: "/nix/store/abc-x\n".to_owned(), stderr: stderr.to_owned() },
            result: result.map(str::to_owned),
            guest_boot: "b-1".to_owned(),
            took: Duration::from_millis(1234),
        }
    }

    #[test]
    fn a_build_in_the_guest_is_recognised_by_its_boot_id() {
        let finding = judge(&facts(0, "", Some("6.1.0 b-1\n")));
        assert_eq!(finding, Finding::ok("built in the guest with Linux 6.1.0, boot b-1, in 1.2 s"));
        let elsewhere = judge(&facts(0, "", Some("6.8.0 b-2\n")));
        assert_eq!((elsewhere.outcome, elsewhere.kind), (Outcome::Failed, Some(Kind::Config)));
        for result in [None, Some(""), Some("odd")] {
            assert_eq!(judge(&facts(0, "", result)).outcome, Outcome::Failed, "{result:?}");
        }
    }

    #[test]
    fn the_output_is_found_in_what_every_version_of_nix_prints() {
        let old = r#"[{"drvPath":"/nix/store/abc-x.drv","outputs":{"out":"/nix/store/abc-x"}}]"#;
        let new = r#"[{"drvPath":"/nix/store/abc-x.drv","outputs":{"out":"/nix/store/abc-x"},"startTime":1796033532,"stopTime":1796033532}]"#;
        for json in [old, new] {
            assert_eq!(output(&format!("{json}\n")).as_deref(), Some("/nix/store/abc-x"));
        }
        for nothing in ["", "[]", "[{}]", "null"] {
            assert_eq!(output(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn nixs_last_error_is_reported() {
        let stderr = "warning: x\nerror: build of '/nix/store/a.drv' failed\n       … while\n       error: Cannot build. Reason: required system\n";
        let finding = judge(&facts(1, stderr, None));
        assert_eq!(finding.evidence, "Nix could not build: error: Cannot build. Reason: required system");
        assert!(judge(&facts(1, "", None)).evidence.contains("exit code 1"));
    }

    #[test]
    fn an_error_is_reported_with_its_text_wherever_nix_puts_it() {
        for (stderr, expected) in [
            (
                "error:\n       Unable to start any build;\n       remote machines lack a feature.\n\n       For more run 'man'\n",
                "error: Unable to start any build; remote machines lack a feature.",
            ),
            ("error:\n\n  it is below a gap\n", "error: it is below a gap"),
            ("\x1b[31;1merror:\x1b[0m\n  \x1b[35;1mred\x1b[0m words\n", "error: red words"),
            (
                "cannot build on 'ssh-ng://x': error: no way\nerror: gave up\n",
                "cannot build on 'ssh-ng://x': error: no way; error: gave up",
            ),
            ("error:\n       … while reading\n\n       error: unexpected EOF\n", "error: unexpected EOF"),
        ] {
            assert_eq!(judge(&facts(1, stderr, None)).evidence, format!("Nix could not build: {expected}"));
        }
        assert!(last_error(&format!("error: {}", "x".repeat(5000))).unwrap().len() < 700);
    }

    #[test]
    fn no_two_builds_are_the_same() {
        let [first, second] = [1, 2].map(|second| derivation("x86_64-linux", UNIX_EPOCH + Duration::from_secs(second)));
        assert_ne!(first, second);
    }

    #[test]
    fn a_store_goes_away_with_what_is_read_only_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::new(parent.path()).unwrap();
        let dir = store.path().join("nix/store");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("abc-x"), "text").unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
        assert_eq!(store.read("/nix/store/abc-x").as_deref(), Some("text"));
        drop(store);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
