//! Checks that this program accepts what the nix-darwin module writes, from the snapshots of tests/nix, which a check
//! there keeps up to date. So neither side can change its format alone.

use crate::{
    commands::nix_config::{Builder, Door, Guest},
    grammar::{Cli, Verb},
};
use clap::Parser;
use dvn_config::{Config, File, GIB, HostFacts, Settings, Sources};
use dvn_guest::ssh::{block::connect_timeout, keys::host_alias};
use dvn_host::{
    activation::{self, Inherited},
    machine_dir::{MachineDir, StateDir},
};
use dvn_types::Arch;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::{
    collections::HashMap,
    ffi::CStr,
    fs,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// A Mac that is large enough for all configurations of the tests.
const MAC: HostFacts = HostFacts { cores: 16, memory: 64 * GIB, arch: Some(Arch::Aarch64), rosetta: true, nix: true };

/// The configurations in which the service is enabled: the name and the module's output.
fn enabled() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/nix/snapshots");
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

/// This program's command in a line of shell: from the program's name to a shell operator.
fn own_command(line: &str) -> Option<Vec<&str>> {
    let start = line.find("/nix/store/…-darwin-vz-nix/bin/darwin-vz-nix")?;
    let command = line[start..].split([';', ')', '|', '"']).next()?;
    Some(command.split_whitespace().collect())
}

fn parsed(line: &str) -> Cli {
    let words = own_command(line).unwrap_or_else(|| panic!("no command of this program in {line:?}"));
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
fn launchd_starts_the_daemon_with_valid_arguments() {
    for (name, value) in enabled() {
        let arguments = &value["launchd"]["darwin-vz"]["ProgramArguments"];
        let line = arguments.as_array().unwrap().last().unwrap().as_str().unwrap();
        let cli = parsed(line);
        assert!(matches!(cli.verb, Verb::Daemon(_)), "{name}: {line}");
        assert!(cli.global.config.unwrap().ends_with("…-darwin-vz-nix.toml"), "{name}: {line}");
    }
}

#[test]
fn the_configuration_file_matches_the_job() {
    for (name, value) in enabled() {
        let job = &value["launchd"]["darwin-vz"];
        let settings = settings(&value);
        let machine = settings.machines.values().next().unwrap();
        assert_eq!(settings.state_dir, PathBuf::from(job["WorkingDirectory"].as_str().unwrap()), "{name}");
        assert!(
            job["ExitTimeOut"].as_u64().unwrap() > machine.lifecycle.stop_grace.as_secs(),
            "{name}: launchd would kill a stop"
        );
        assert!(job.get("KeepAlive").is_none(), "{name}: a service that cannot start would be started for ever");
        assert_eq!(machine.builder.ephemeral, name == "ephemeral", "{name}");
        assert_eq!(machine.hardware.nested, name == "virtual-machines", "{name}");
        assert_eq!(machine.lifecycle.idle_timeout.is_none(), name == "always-on" || name == "everything", "{name}");
    }
}

#[test]
fn the_ssh_block_has_the_programs_names_and_files() {
    for (name, value) in enabled() {
        let block = text(&value["etc"]["ssh/ssh_config.d/100-darwin-vz-nix.conf"]);
        let settings = settings(&value);
        let (machine, own) = settings.machines.iter().next().unwrap();
        // Opening creates the directory, so the layout is read from a temporary one.
        let tmp = tempfile::tempdir().unwrap();
        let key = StateDir::open(&tmp.path().join("s")).unwrap().machine(machine).user_key();
        let key = settings.state_dir.join(key.strip_prefix(tmp.path().join("s")).unwrap());
        let contains =
            |line: String| assert!(block.lines().any(|l| l.trim() == line), "{name}: no {line:?} in\n{block}");
        contains(format!("Host {}", host_alias(machine)));
        contains(format!("HostKeyAlias {}", host_alias(machine)));
        contains(format!("Port {}", own.builder.listen.port()));
        if name != "everything" {
            contains(format!("IdentityFile {}", key.display()));
        }
    }
}

/// The program's own output for a machine with these settings.
fn builder(settings: &Settings) -> Builder {
    let (machine, own) = settings.machines.iter().next().unwrap();
    let dir = MachineDir::of(&settings.state_dir, machine);
    Builder {
        machine: machine.clone(),
        guest: Guest { arch: Arch::Aarch64, user: "builder".to_owned() },
        rosetta: own.builder.rosetta,
        nested: own.hardware.nested,
        cores: own.hardware.cores,
        listen: own.builder.listen.to_string(),
        connect_timeout: connect_timeout(&own.lifecycle),
        direct_address: dir.direct_address(),
        user_key: dir.user_key(),
        known_hosts: dir.known_hosts(),
    }
}

#[test]
fn module_and_program_write_the_same_ssh_block() {
    // The files' paths differ, and the program quotes them.
    let elsewhere = |line: &&str| !["IdentityFile", "UserKnownHostsFile"].contains(&line.split(' ').next().unwrap());
    for (name, value) in enabled() {
        let module = text(&value["etc"]["ssh/ssh_config.d/100-darwin-vz-nix.conf"]);
        let program = builder(&settings(&value)).ssh_block();
        let options = |block: &str| -> Vec<String> {
            let lines = block.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.filter(elsewhere).map(str::to_owned).collect()
        };
        assert_eq!(options(&module), options(&program), "{name}");
    }
}

#[test]
fn module_and_program_write_the_same_builder_line() {
    let mut seen = 0;
    for (name, value) in enabled() {
        // This configuration sets the builder itself.
        if name == "everything" {
            continue;
        }
        let strings = |list: &Value| {
            let strings: Vec<_> = list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect();
            strings.join(",")
        };
        // In the order of /etc/nix/machines: systems, key, jobs, speed, features.
        let module: Vec<String> = match &value["nix"] {
            Value::Object(nix) => {
                let machine = &nix["buildMachines"][0];
                let key = machine["sshKey"].as_str().unwrap_or("-").to_owned();
                let [jobs, speed] = ["maxJobs", "speedFactor"].map(|number| machine[number].to_string());
                vec![strings(&machine["systems"]), key, jobs, speed, strings(&machine["supportedFeatures"])]
            }
            _ => {
                let lines = text(&value["etc"]["nix/machines"]);
                let ours = lines.lines().find(|line| line.contains("darwin-vz")).unwrap();
                ours.split_whitespace().skip(1).take(5).map(str::to_owned).collect()
            }
        };
        let door = if value["connectProgram"].as_array().unwrap().is_empty() { Door::Ssh } else { Door::Direct };
        let line = builder(&settings(&value)).line(door, "ssh-ed25519 AAAA");
        let program: Vec<_> = line.split_whitespace().skip(1).take(5).map(str::to_owned).collect();
        assert_eq!(module, program, "{name}");
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn a_disabled_service_leaves_no_files_of_the_program() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/nix/snapshots/disabled-without-disk.json");
    let value: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let script = text(&value["activation"]["postActivation"]);
    let words: Vec<_> = script.split_whitespace().map(|word| word.trim_end_matches('*')).collect();
    let tmp = tempfile::tempdir().unwrap();
    let state = StateDir::open(&tmp.path().join("s")).unwrap();
    let _lock = state.lock().unwrap();
    state.make_machine(&"builder".parse().unwrap()).unwrap();
    let made = fs::read_dir(state.root()).unwrap().map(|entry| entry.unwrap().path());
    for path in made.chain([state.api_socket(), state.api_token(), state.daemon_log()]) {
        let there = Path::new("/var/lib/darwin-vz").join(path.file_name().unwrap());
        assert!(words.contains(&there.to_str().unwrap()), "{there:?} stays:\n{script}");
    }
}

#[test]
fn the_modules_other_commands_are_valid() {
    let mut doors = 0;
    for (name, value) in enabled() {
        let activation = text(&value["activation"]["postActivation"]);
        let line = activation.lines().find(|line| own_command(line).is_some()).unwrap();
        assert!(matches!(parsed(line).verb, Verb::NixConfig(_)), "{name}: {line}");
        let door = text(&value["connectProgram"]);
        if let Some(line) = door.lines().find(|line| own_command(line).is_some()) {
            let cli = parsed(line);
            assert!(matches!(cli.verb, Verb::Connect(_)), "{name}: {line}");
            // Both are given, so root's configuration is not read (rust/cli/src/commands/connect.rs).
            assert!(cli.global.state_dir.is_some() && cli.global.machine.is_some(), "{name}: {line}");
            doors += 1;
        }
    }
    assert!(doors > 0);
}

/// Simulates launchd's sockets: opens those of a job's property list before the job runs, and passes them by name.
/// Replaces each port by a free one, so that the tests of two users can run at the same time.
struct Launchd {
    job: Value,
    free_ports: HashMap<u16, u16>,
}

impl Launchd {
    /// The address that replaces this one.
    fn address(&mut self, address: SocketAddr) -> SocketAddr {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        SocketAddr::new(address.ip(), *self.free_ports.entry(address.port()).or_insert_with(free))
    }

    /// `launch_activate_socket` for the sockets of this name; launchd.plist(5) documents the keys.
    fn activate(&mut self, name: &CStr) -> Result<Vec<OwnedFd>, i32> {
        let (no_such_name, no_sockets) = (2, 3);
        let sockets = self.job["Sockets"].as_object().cloned().ok_or(no_sockets)?;
        let wanted = sockets.get(name.to_str().unwrap()).ok_or(no_such_name)?;
        let text = |key: &str| wanted[key].as_str();
        let kind = match text("SockType") {
            None | Some("stream") => Type::STREAM,
            Some("dgram") => Type::DGRAM,
            other => panic!("launchd knows no SockType {other:?}"),
        };
        let place = (text("SockNodeName").unwrap(), text("SockServiceName").unwrap().parse().unwrap());
        let fits = |address: &SocketAddr| match text("SockFamily") {
            None => true,
            Some("IPv4") => address.is_ipv4(),
            Some("IPv6") => address.is_ipv6(),
            other => panic!("launchd knows no SockFamily {other:?}"),
        };
        let open = |address: SocketAddr| {
            let address = self.address(address);
            let socket = Socket::new(Domain::for_address(address), kind, None).unwrap();
            socket.bind(&address.into()).unwrap();
            if kind == Type::STREAM && wanted["SockPassive"] != false {
                socket.listen(1).unwrap();
            }
            socket.into()
        };
        Ok(place.to_socket_addrs().unwrap().filter(fits).map(open).collect())
    }
}

#[test]
fn the_daemon_takes_the_sockets_that_launchd_opens_for_it() {
    for (name, value) in enabled() {
        let mut launchd = Launchd { job: value["launchd"]["darwin-vz"].clone(), free_ports: HashMap::new() };
        let machine = settings(&value).machines.into_values().next().unwrap();
        let sockets = activation::from_launchd(|wanted| launchd.activate(wanted)).unwrap();
        assert_eq!(sockets.len(), 1, "{name}: launchd has no such socket for this program, or several");
        let handed = sockets[0].as_raw_fd();
        // A client that connected before the daemon ran is served, since its connection starts the daemon.
        let address = launchd.address(machine.builder.listen);
        let client = TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let mut inherited = Inherited::of(sockets);
        let listener = inherited.listen(address).unwrap();
        assert_eq!(listener.as_raw_fd(), handed, "{name}: the daemon opened another socket");
        assert_eq!(inherited.left_over(), [], "{name}");
        let (_, caller) = listener.accept().unwrap();
        assert_eq!(caller, client.unwrap().local_addr().unwrap(), "{name}");
    }
}
