//! Colours, animations, pipes and signals: what appears on a terminal only.

use super::{common::Server, run};
use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_darwin-vz-nix");

/// A command without this computer's own settings, with only these variables.
fn clean(name: &str, dir: &Path, variables: &[(&str, &str)]) -> Command {
    let config = dir.join("config.toml");
    if !config.exists() {
        std::fs::write(&config, "").unwrap();
    }
    let mut command = Command::new(name);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .env("HOME", dir)
        .env("DARWIN_VZ_NIX_STATE_DIR", dir)
        .env("DARWIN_VZ_NIX_CONFIG", config)
        .envs(variables.iter().copied())
        .current_dir(dir);
    command
}

/// What the program writes on its own terminal, stdout and stderr as they come.
fn on_a_terminal(dir: &Path, variables: &[(&str, &str)], args: &str) -> String {
    let mut script = clean("script", dir, variables);
    // There are two programs of this name.
    let version = Command::new("script").arg("--version").output().unwrap();
    let line = format!("exec '{PROGRAM}' {args}");
    match String::from_utf8_lossy(&version.stdout).contains("util-linux") {
        true => script.args(["-qec", &line, "/dev/null"]),
        false => script.args(["-q", "/dev/null", "sh", "-c", &line]),
    };
    let output = script.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

const XTERM: (&str, &str) = ("TERM", "xterm");
const RED: &str = "\x1b[1;31merror:\x1b[0m ";

#[test]
fn a_terminal_gets_colours_unless_they_are_switched_off() {
    let dir = crate::common::private_dir();
    let coloured = |variables: &[(&str, &str)], args: &str| {
        let text = on_a_terminal(dir.path(), variables, args);
        assert!(text.contains("no daemon answers"), "{text:?}");
        assert_eq!(text.contains(RED), text.contains('\x1b'), "{text:?}");
        text.contains(RED)
    };
    assert!(coloured(&[XTERM], "status"));
    assert!(!coloured(&[XTERM, ("NO_COLOR", "1")], "status"));
    assert!(!coloured(&[("TERM", "dumb")], "status"));
    assert!(!coloured(&[XTERM], "--color never status"));
    assert!(!coloured(&[XTERM], "status --color=never"));
}

#[test]
fn a_pipe_gets_no_escape_codes_unless_they_are_forced() {
    let server = Server::new();
    for args in [
        &["status"][..],
        &["start"],
        &["stop"],
        &["generations"],
        &["config"],
        &["doctor", "settings", "state-directory"],
        &["capabilities"],
        &["token"],
        &["--machine", "nobody", "status"],
        &["sttus"],
        &["--help"],
        &["-v", "status"],
    ] {
        for variables in [&[XTERM][..], &[("TERM", "dumb")], &[XTERM, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]] {
            let output = clean(PROGRAM, server.path(), variables).args(args).output().unwrap();
            assert!(
                !output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b),
                "{args:?} {variables:?}: {output:?}"
            );
        }
    }
    let error = |variables: &[(&str, &str)], args: &[&str]| {
        let output = clean(PROGRAM, server.path(), variables).args(args).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = ["--machine", "nobody", "stop"];
    assert!(error(&[("CLICOLOR_FORCE", "1")], &unknown).starts_with(RED));
    assert!(error(&[], &[&["--color", "always"], &unknown[..]].concat()).starts_with(RED));
}

#[test]
fn waiting_is_shown_by_a_moving_line_or_by_a_plain_one() {
    let server = Server::new();
    let moving = on_a_terminal(server.path(), &[XTERM], "start");
    assert!(moving.contains("builder: starting (") && moving.contains('\x1b'), "{moving:?}");
    assert!(moving.contains("\r\x1b[2K") && moving.contains("builder runs"), "it is wiped when it is done: {moving:?}");
    let dumb = on_a_terminal(server.path(), &[("TERM", "dumb")], "start");
    assert!(dumb.contains("builder: starting\r\n") && !dumb.contains('\x1b'), "{dumb:?}");
    let piped = run(server.path(), &["start"]);
    assert!(piped.ends_with("--- stderr\nbuilder: starting\n"), "{piped}");
}

#[test]
fn a_reader_that_stops_early_causes_no_error() {
    let server = Server::new();
    let shell = |line: &str| {
        let output = clean("sh", server.path(), &[]).args(["-c", line, "sh", PROGRAM]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for args in ["status", "config", "completions bash", "--help", "doctor --list"] {
        let (first, said) = shell(&format!("{{ \"$1\" {args}; echo $? >code; }} | head -n 1"));
        let code = std::fs::read_to_string(server.path().join("code")).unwrap();
        assert_eq!((first.lines().count(), said.as_str(), code.trim()), (1, "", "0"), "{args}");
    }
    // The reader of its messages is gone; it waits all the same.
    shell("{ \"$1\" start 2>&1 >/dev/null; echo $? >code; } | true");
    assert_eq!(std::fs::read_to_string(server.path().join("code")).unwrap().trim(), "0");
    assert_eq!(server.calls().len(), 1);
}

#[test]
fn an_interrupt_ends_it_at_once_and_quietly() {
    let server = Server::new();
    let mut child = clean(PROGRAM, server.path(), &[])
        .args(["status", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("MACHINE"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.signal(), output.stderr.as_slice()), (Some(2), &b""[..]));
}

#[test]
fn every_verb_reports_a_missing_daemon_alike() {
    let dir = crate::common::private_dir();
    let expected = run(dir.path(), &["status"]);
    assert!(
        expected.starts_with("exit 4\n") && expected.contains("hint: start one with `darwin-vz-nix start`"),
        "{expected}"
    );
    for args in [
        &["status", "--watch"][..],
        &["status", "--connections"],
        &["stop"],
        &["stop", "--force"],
        &["stop", "--daemon"],
        &["pause"],
        &["resume"],
        &["logs"],
        &["logs", "--console"],
        &["logs", "--build", "--follow"],
        &["generations"],
        &["generations", "rollback"],
        &["generations", "build"],
        &["generations", "delete", "1"],
        &["config", "--daemon"],
        &["stop", "My VM"],
        &["suspend", "My VM"],
        &["ip", "My VM"],
        &["ip", "My VM", "--wait", "9"],
        &["screenshot", "My VM"],
        &["exec", "My VM", "true"],
        &["logs", "My VM"],
    ] {
        assert_eq!(run(dir.path(), args), expected, "{args:?}");
    }
}
