//! What the nix-darwin module writes, read by this program. The snapshots of tests/nix are what the module writes; a check there
//! keeps them true. So neither side can change its words alone.

use super::args::{Cli, Verb};
use crate::{
    activation::LAUNCHD_SOCKETS,
    config::{Config, File, GIB, HostFacts, Settings, Sources},
    machine_dir::StateDir,
    spec::Arch,
    ssh::keys::host_alias,
};
use clap::Parser;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The largest Mac that a configuration of the tests needs.
const MAC: HostFacts = HostFacts { cores: 16, memory: 64 * GIB, arch: Some(Arch::Aarch64), rosetta: true };

/// Each configuration in which the service is enabled: its name and what the module makes of it.
fn enabled() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nix/snapshots");
    let snapshots = fs::read_dir(&dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap())
    });
    let found: Vec<_> = snapshots.filter(|(_, value)| value["launchd"]["darwin-vz"].is_object()).collect();
    assert!(found.len() >= 8, "{found:?}");
    found
}

fn text(lines: &Value) -> String {
    lines.as_array().unwrap().iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect()
}

/// The command of ours in a line of shell: from this program's name up to a sign of the shell's.
fn words_of_ours(line: &str) -> Option<Vec<&str>> {
    let start = line.find("/nix/store/…-darwin-vz-nix/bin/darwin-vz-nix")?;
    let command = line[start..].split([';', ')', '|', '"']).next()?;
    Some(command.split_whitespace().collect())
}

fn parsed(line: &str) -> Cli {
    let words = words_of_ours(line).unwrap_or_else(|| panic!("nothing of ours in {line:?}"));
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"))
}

fn settings(value: &Value) -> Settings {
    let file = File::parse(Path::new("/etc/darwin-vz-nix/config.toml"), &text(&value["configFile"]), None).unwrap();
    let sources = Sources {
        flags: vec![],
        env: vec![],
        file,
        machine: None,
        cwd: "/".into(),
        home: None,
        default_state_dir: "/nowhere".into(),
    };
    Config::load(sources).unwrap().settings(&MAC).unwrap()
}

#[test]
fn launchd_starts_the_daemon_with_arguments_that_it_knows() {
    for (name, value) in enabled() {
        let arguments = &value["launchd"]["darwin-vz"]["ProgramArguments"];
        let line = arguments.as_array().unwrap().last().unwrap().as_str().unwrap();
        // That configuration has a script of its own before it.
        if name == "ephemeral" {
            assert!(line.ends_with("-darwin-vz-nix-ephemeral"), "{line}");
            continue;
        }
        let cli = parsed(line);
        assert!(matches!(cli.verb, Verb::Run(_)), "{name}: {line}");
        assert!(cli.global.config.unwrap().ends_with("…-darwin-vz-nix.toml"), "{name}: {line}");
    }
}

#[test]
fn the_configuration_file_fits_the_job() {
    for (name, value) in enabled() {
        let job = &value["launchd"]["darwin-vz"];
        let settings = settings(&value);
        let machine = settings.machines.values().next().unwrap();
        assert_eq!(settings.state_dir, PathBuf::from(job["WorkingDirectory"].as_str().unwrap()), "{name}");
        // launchd's socket is recognised by its address, among those of one name.
        let sockets = job["Sockets"].as_object().unwrap();
        assert_eq!(sockets.keys().collect::<Vec<_>>(), [LAUNCHD_SOCKETS], "{name}");
        let socket = &sockets[LAUNCHD_SOCKETS];
        let (host, port) = (socket["SockNodeName"].as_str().unwrap(), socket["SockServiceName"].as_str().unwrap());
        assert_eq!(machine.listen.to_string(), format!("{host}:{port}"), "{name}");
        assert!(
            job["ExitTimeOut"].as_u64().unwrap() > machine.stop_grace.as_secs(),
            "{name}: launchd would kill a stop"
        );
        assert!(job.get("KeepAlive").is_none(), "{name}: a service that cannot start would be started for ever");
        assert_eq!(machine.idle_timeout.is_none(), name == "always-on" || name == "everything", "{name}");
    }
}

#[test]
fn ssh_is_told_the_names_and_files_that_the_program_has() {
    for (name, value) in enabled() {
        let block = text(&value["etc"]["ssh/ssh_config.d/100-darwin-vz-nix.conf"]);
        let settings = settings(&value);
        let (machine, own) = settings.machines.iter().next().unwrap();
        // Opening makes the directory, so the layout is asked of one that may be made.
        let tmp = tempfile::tempdir().unwrap();
        let key = StateDir::open(&tmp.path().join("s")).unwrap().machine(machine).user_key();
        let key = settings.state_dir.join(key.strip_prefix(tmp.path().join("s")).unwrap());
        let says = |line: String| assert!(block.lines().any(|l| l.trim() == line), "{name}: no {line:?} in\n{block}");
        says(format!("Host {}", host_alias(machine)));
        says(format!("HostKeyAlias {}", host_alias(machine)));
        says(format!("Port {}", own.listen.port()));
        if name != "everything" {
            says(format!("IdentityFile {}", key.display()));
        }
    }
}

#[test]
fn other_calls_of_the_program_are_calls_that_it_knows() {
    let mut doors = 0;
    for (name, value) in enabled() {
        let activation = text(&value["activation"]["postActivation"]);
        let line = activation.lines().find(|line| words_of_ours(line).is_some()).unwrap();
        assert!(matches!(parsed(line).verb, Verb::NixConfig(_)), "{name}: {line}");
        let door = text(&value["connectProgram"]);
        if let Some(line) = door.lines().find(|line| words_of_ours(line).is_some()) {
            let cli = parsed(line);
            assert!(matches!(cli.verb, Verb::Connect(_)), "{name}: {line}");
            // Both are named, so that root's own configuration is not asked (rust/cli/connect.rs).
            assert!(cli.global.state_dir.is_some() && cli.global.machine.is_some(), "{name}: {line}");
            doors += 1;
        }
    }
    assert!(doors > 0);
}
