//! The program as a user runs it: its output, its exit codes, and its requests to a daemon.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod builders;
#[path = "../common/mod.rs"]
mod common;
mod completions;
mod daemon;
mod doctor;
mod exec;
mod help;
mod help_library;
#[cfg(target_os = "linux")]
mod inheritance;
mod json;
mod library;
mod run;
mod settings;
#[cfg(target_os = "linux")]
mod signals;
mod ssh_block;
mod state;
mod tart;
mod terminal;
mod token;
mod unauthenticated;
mod verbs;

use std::path::Path;

/// The program without this computer's own settings, in a directory of the test.
pub fn program(dir: &Path, args: &[&str]) -> assert_cmd::Command {
    let config = dir.join("config.toml");
    if !config.exists() {
        std::fs::write(&config, "").unwrap();
    }
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_darwin-vz-nix"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("DARWIN_VZ_NIX_CONFIG", config)
        .env("DARWIN_VZ_NIX_STATE_DIR", dir)
        .current_dir(dir)
        // A program that hangs fails its test, and does not block the others.
        .timeout(std::time::Duration::from_secs(60))
        .args(args);
    command
}

/// The same as a plain command, to run beside the test.
pub fn plain(dir: &Path, args: &[&str]) -> std::process::Command {
    let prepared = program(dir, args);
    let mut command = std::process::Command::new(prepared.get_program());
    command.args(prepared.get_args()).env_clear().current_dir(dir);
    command.envs(prepared.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Ends the daemon of that state directory, however the test ends.
pub struct Launched<'a>(pub &'a Path);

impl Drop for Launched<'_> {
    fn drop(&mut self) {
        let _ = program(self.0, &["stop", "--daemon"]).output();
    }
}

/// The process that answers as the daemon of that state directory.
pub fn pid_of_the_daemon(dir: &Path) -> u32 {
    let text = run(dir, &["status", "--json"]);
    let json = text.strip_prefix("exit 0\n--- stdout\n").unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str::<serde_json::Value>(json).unwrap()["pid"].as_u64().unwrap().try_into().unwrap()
}

/// Sends a signal, by its name or number.
pub fn send(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success(), "{signal}");
}

/// Waits until the condition holds.
pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < give_up, "gave up waiting for {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The verbs that the help shows, in their groups: those with an indent, several on a line.
pub fn verbs(dir: &Path) -> Vec<String> {
    let text = run(dir, &["--help"]);
    let (_, groups) = text.split_once("COMMAND>\n\n").unwrap();
    let (groups, _) = groups.split_once("\nOptions of every command:\n").unwrap();
    groups
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .flat_map(|line| line.split("  ").next().unwrap().split(", "))
        .map(str::to_owned)
        .collect()
}

/// Exit code and both outputs as one text, with `[DIR]` for the test's directory.
pub fn run(dir: &Path, args: &[&str]) -> String {
    transcript(dir, program(dir, args))
}

/// As [`run`], for a prepared command.
pub fn transcript(dir: &Path, mut command: assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    let mut text = format!("exit {}\n", output.status.code().map_or("by a signal".to_owned(), |code| code.to_string()));
    for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
        if !bytes.is_empty() {
            let bytes = String::from_utf8(bytes).unwrap();
            text.push_str(&format!("--- {name}\n{}\n", bytes.trim_end()));
        }
    }
    text.replace(&dir.display().to_string(), "[DIR]")
}
