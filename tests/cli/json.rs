//! `--json`: for every verb that reports facts, and for its errors.

use super::{common::Server, program, run, verbs};
use serde_json::Value;

/// Verbs without it, and why.
const WITHOUT: [(&str, &str); 11] = [
    ("ssh", "its output is the guest's"),
    ("connect", "its output is the guest's"),
    ("logs", "a log is lines of text"),
    ("run", "its output is the guest's"),
    ("exec", "its output is the guest's"),
    ("screenshot", "its output is an image"),
    ("tart", "Tart's flags: --format json"),
    ("daemon", "it prints only its log"),
    ("destroy", "nothing is left to tell of"),
    ("completions", "a script for a shell"),
    ("", "the program itself"),
];

#[test]
fn every_verb_has_it_or_a_reason() {
    let dir = crate::common::private_dir();
    for verb in verbs(dir.path()) {
        let has = run(dir.path(), &[&verb, "-h"]).contains(" --json ");
        let excused = WITHOUT.iter().any(|(without, _)| *without == verb);
        assert!(has != excused, "{verb}: {has}");
    }
}

#[test]
fn what_it_prints_is_one_value_with_the_facts() {
    let server = Server::new();
    std::fs::write(server.path().join("config.toml"), "cores = 1\n").unwrap();
    for (args, pointer, expected) in [
        (&["start"][..], "/state", "running"),
        (&["pause"], "/state", "paused"),
        (&["resume"], "/state", "running"),
        (&["stop"], "/state", "stopped"),
        (&["status"], "/machines/0/name", "builder"),
        (&["status", "--connections"], "/connections/0/door", "nix"),
        (&["generations"], "/generations/1/verdict", "bad"),
        (&["generations", "rollback", "0"], "/generations/1/verdict", "bad"),
        (&["config"], "/machines/builder/cores/value", "1"),
        (&["config", "--daemon"], "/daemon/log-level/value", "info"),
        (&["doctor", "settings"], "/checks/0/name", "settings"),
        (&["doctor", "--list"], "/0/name", "settings"),
    ] {
        let output = program(server.path(), &[args, &["--json"]].concat()).output().unwrap();
        let json: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
        assert_eq!(json.pointer(pointer).and_then(Value::as_str), Some(expected), "{args:?}: {json}");
    }
    let output = program(server.path(), &["nix-config", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, section) in [("builders", "builders"), ("ssh", "ssh"), ("knownHosts", "known-hosts")] {
        let alone = program(server.path(), &["nix-config", "--only", section]).output().unwrap();
        assert_eq!(json[key].as_str().unwrap(), String::from_utf8(alone.stdout).unwrap(), "{section}");
    }
}

#[test]
fn errors_are_json_on_stdout_and_text_on_stderr() {
    let dir = crate::common::private_dir();
    for args in [
        &["status"][..],
        &["stop"],
        &["pause"],
        &["resume"],
        &["generations"],
        &["generations", "build"],
        &["config", "--daemon"],
    ] {
        let output = program(dir.path(), &[args, &["--json"]].concat()).output().unwrap();
        let json: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
        assert_eq!((&json["kind"], output.status.code()), (&Value::from("not-running"), Some(4)), "{args:?}");
        assert!(output.stderr.starts_with(b"error: no daemon answers"), "{args:?}");
    }
}
