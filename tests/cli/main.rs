//! The program as a user runs it: its words, its exit codes, and what it asks of a daemon.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod builders;
#[path = "../common/mod.rs"]
mod common;
mod completions;
mod daemon;
mod doctor;
mod help;
mod json;
mod settings;
mod ssh_block;
mod terminal;
mod token;
mod verbs;

use std::path::Path;

/// The program with nothing of this computer's own settings, in a directory of the test's.
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
        // A program that hangs fails its test, and does not hang the others.
        .timeout(std::time::Duration::from_secs(60))
        .args(args);
    command
}

/// The verbs that the help shows.
pub fn verbs(dir: &Path) -> Vec<String> {
    let text = run(dir, &["--help"]);
    let (_, list) = text.split_once("Commands:\n").unwrap();
    list.lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap().into())
        .collect()
}

/// Exit code and both outputs as one text, with `[DIR]` for the test's directory.
pub fn run(dir: &Path, args: &[&str]) -> String {
    told(dir, program(dir, args))
}

/// As [`run`], for a command with more to it.
pub fn told(dir: &Path, mut command: assert_cmd::Command) -> String {
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
