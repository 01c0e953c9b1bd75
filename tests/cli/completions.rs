//! Shell completions.

use super::{common::Server, program, run, verbs};
use std::{path::Path, process::Command};

/// What bash offers for these words, the last of which is incomplete.
fn offered(dir: &Path, words: &[&str]) -> Vec<String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_darwin-vz-nix"));
    let script = r#"source <(darwin-vz-nix completions bash)
        complete -p darwin-vz-nix | grep -q -- '-F _darwin_vz_nix_names ' || exit 1
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _darwin_vz_nix_names "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    // Used for its environment only.
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash", "darwin-vz-nix"]).args(words).current_dir(dir).env_clear();
    let path = std::env::var("PATH").unwrap();
    bash.env("PATH", format!("{}:{path}", bin.parent().unwrap().display()))
        .env("HOME", dir)
        .env("DARWIN_VZ_NIX_CONFIG", dir.join("config.toml"))
        .env("DARWIN_VZ_NIX_STATE_DIR", dir);
    let output = bash.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn scripts_know_the_verbs() {
    let dir = crate::common::private_dir();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), &["completions", shell]);
        assert!(script.starts_with("exit 0\n") && !script.contains("--- stderr"), "{shell}: {script}");
        for verb in verbs(dir.path()) {
            assert!(script.contains(&verb), "{verb} is not in {shell}'s");
        }
    }
}

#[test]
fn bash_completes_verbs_machines_and_generations() {
    let server = Server::new();
    let dir = server.path();
    std::fs::write(dir.join("config.toml"), "[machines.builder]\n[machines.ci]\nlisten = \"127.0.0.1:31123\"\n")
        .unwrap();
    assert_eq!(offered(dir, &["sta"]), ["start", "status"]);
    assert_eq!(offered(dir, &["--machine", ""]), ["builder", "ci"]);
    assert_eq!(offered(dir, &["status", "--machine", "c"]), ["ci"]);
    // Those of the library too, as a shell reads them.
    server.fake.library.lock().unwrap().extend(["My VM", "$(touch bad)", "ci-2"].map(crate::common::vm));
    assert_eq!(offered(dir, &["start", "c"]), ["ci", "ci-2"]);
    assert_eq!(offered(dir, &["exec", "My"]), ["My\\ VM"]);
    assert_eq!(offered(dir, &["delete", "ci-2", "My\\ V"]), ["My\\ VM"]);
    assert_eq!(offered(dir, &["logs", "--console", "$"]), ["\\$\\(touch\\ bad\\)"]);
    assert!(!dir.join("bad").exists(), "a name is never executed");
    assert!(offered(dir, &["delete", "--j"]).contains(&"--json".to_owned()));
    assert_eq!(offered(dir, &["generations", "rollback", ""]), ["0", "1"]);
    assert_eq!(offered(dir, &["generations", "delete", "0", "1"]), ["1"]);
    assert!(offered(dir, &["generations", "delete", "--j"]).contains(&"--json".to_owned()));
    assert_eq!(offered(dir, &["generations", "rol"]), ["rollback"]);
    // Settings: their names, and their values where they are few.
    assert_eq!(offered(dir, &["daemon", "--store"]), ["--store-dir", "--store-daemon"]);
    assert_eq!(offered(dir, &["daemon", "--backend", ""]), ["auto", "qemu", "vz"]);
    assert_eq!(offered(dir, &["--log-level", "de"]), ["debug"]);
    drop(server);
}

#[test]
fn completion_prints_no_error() {
    let dir = crate::common::private_dir();
    std::fs::write(dir.path().join("config.toml"), "nonsense").unwrap();
    for what in ["machines", "generations"] {
        assert_eq!(run(dir.path(), &["complete", what]), "exit 0\n");
    }
}

/// These shells may be missing here, so the test searches their scripts for the necessary parts.
#[test]
fn zsh_and_fish_ask_for_names() {
    let dir = crate::common::private_dir();
    let output = |shell: &str| {
        let output = program(dir.path(), &["completions", shell]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let zsh = output("zsh");
    for (argument, completer) in [
        ("'--machine=", ":_darwin-vz-nix_machines'"),
        ("':name ", ":_darwin-vz-nix_machines'"),
        ("'::name ", ":_darwin-vz-nix_machines'"),
        ("'*::names ", ":_darwin-vz-nix_machines'"),
        ("':source ", ":_darwin-vz-nix_machines'"),
        ("':old_name ", ":_darwin-vz-nix_machines'"),
        ("'::to ", ":_darwin-vz-nix_generations'"),
        ("'*::numbers ", ":_darwin-vz-nix_generations'"),
    ] {
        let lines: Vec<_> = zsh.lines().filter(|line| line.starts_with(argument)).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(completer)), "{argument}: {lines:?}");
    }
    let at = |text: &str| zsh.find(text).unwrap_or_else(|| panic!("{text}"));
    assert!(at("\n_darwin-vz-nix_machines() {") < at("if [ \"$funcstack[1]\""), "made before it is used");
    let fish = output("fish");
    assert!(fish.contains("-l machine -x -a '(darwin-vz-nix complete machines"), "{fish}");
    assert!(fish.contains("(darwin-vz-nix complete generations"), "{fish}");
}
