//! What each signal does to a daemon: an ordinary end of a terminal or a session stops it cleanly, all others do
//! nothing.

use super::{pid_of_the_daemon, plain, run, send, wait};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Those with which a terminal, a session or a service manager ends a program.
const ENDS: [&str; 4] = ["HUP", "INT", "QUIT", "TERM"];

/// All others that can be caught, except those of crashed programs. Numbers are those of real-time signals.
const NOTHING: [&str; 25] = [
    "PIPE", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU", "XFSZ", "TSTP", "TTIN", "TTOU", "POLL", "PWR", "STKFLT",
    "WINCH", "URG", "CONT", "CHLD", "TRAP", "SYS", "ABRT", "34", "40", "50", "64",
];

fn settings(dir: &Path) {
    fs::write(dir.join("config.toml"), "listen = \"127.0.0.1:0\"\n").unwrap();
}

fn in_the_foreground(dir: &Path, mut command: Command) -> Child {
    settings(dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait("the daemon to answer", || run(dir, &["status"]).starts_with("exit 0\n"));
    child
}

fn ended_cleanly(dir: &Path) {
    let log = fs::read_to_string(dir.join("daemon.log")).unwrap();
    assert!(log.contains("stopping, as a signal asked"), "{log}");
    assert!(!dir.join("api.sock").exists());
    assert!(run(dir, &["status"]).starts_with("exit 4\n"));
}

#[test]
fn what_ends_a_terminal_or_a_session_stops_the_daemon_cleanly() {
    for signal in ENDS {
        let dir = crate::common::private_dir();
        let mut daemon = in_the_foreground(dir.path(), plain(dir.path(), &["daemon"]));
        send(daemon.id(), signal);
        let status = daemon.wait().unwrap();
        assert!(status.success(), "{signal}: {status}");
        ended_cleanly(dir.path());
    }
}

#[test]
fn every_other_signal_does_nothing_to_a_daemon_however_it_was_started() {
    let dir = crate::common::private_dir();
    let mut foreground = in_the_foreground(dir.path(), plain(dir.path(), &["daemon"]));
    assert_still_answers(dir.path(), foreground.id());
    send(foreground.id(), "TERM");
    assert!(foreground.wait().unwrap().success());

    let dir = crate::common::private_dir();
    settings(dir.path());
    let _daemon = super::Launched(dir.path());
    run(dir.path(), &["start"]);
    assert_still_answers(dir.path(), pid_of_the_daemon(dir.path()));
}

/// It answers after each, and was neither halted nor replaced.
fn assert_still_answers(dir: &Path, pid: u32) {
    for signal in NOTHING {
        send(pid, signal);
        let text = run(dir, &["status", "--json"]);
        assert!(text.starts_with("exit 0\n"), "{signal}: {text}");
        assert_eq!(pid_of_the_daemon(dir), pid, "{signal}");
    }
}

/// The terminal's other end is closed: a hangup, and writing to it fails from now on.
#[test]
fn a_terminal_that_is_closed_stops_the_daemon_on_it_cleanly() {
    let dir = crate::common::private_dir();
    let program = plain(dir.path(), &["daemon"]);
    let mut script = Command::new("script");
    script.args(["-qec", &format!("exec {} daemon", env!("CARGO_BIN_EXE_darwin-vz-nix")), "/dev/null"]).env_clear();
    script.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(dir.path());
    let mut terminal = in_the_foreground(dir.path(), script);
    let pid = pid_of_the_daemon(dir.path());
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    wait("the daemon to end", || !Path::new(&format!("/proc/{pid}")).exists());
    ended_cleanly(dir.path());
}

#[test]
fn a_daemon_that_was_started_to_outlive_its_terminal_does() {
    let dir = crate::common::private_dir();
    let program = plain(dir.path(), &["daemon"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", r#"trap "" HUP; exec "$@""#, "sh"]).arg(program.get_program()).args(program.get_args());
    nohup.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut daemon = in_the_foreground(dir.path(), nohup);
    send(daemon.id(), "HUP");
    assert!(run(dir.path(), &["status"]).starts_with("exit 0\n"));
    assert!(daemon.try_wait().unwrap().is_none());
    send(daemon.id(), "TERM");
    assert!(daemon.wait().unwrap().success());
}
