//! The verbs without a daemon, and with a fake one.

use super::{common::Server, program, run, transcript};
use base64::{Engine, engine::general_purpose::STANDARD};
use dvn_guest::ssh::{block::PINNED, keys::Keys};
use dvn_host::machine_dir::{MachineDir, StateDir};
use dvn_types::{Kind, Report, wire::State};
use insta::assert_snapshot;
use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn machine_dir(state_dir: &Path) -> MachineDir {
    StateDir::open(state_dir).unwrap().machine(&"builder".parse().unwrap())
}

fn with_keys(state_dir: &Path) -> MachineDir {
    let name = "builder".parse().unwrap();
    let machine = StateDir::open(state_dir).unwrap().make_machine(&name).unwrap();
    Keys::ensure(&machine, &name).unwrap();
    machine
}

#[test]
fn without_a_daemon() {
    let dir = crate::common::private_dir();
    let dir = dir.path();
    assert_snapshot!(run(dir, &["status"]), @r"
    exit 4
    --- stderr
    error: no daemon answers on [DIR]/api.sock
      hint: start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`
      hint: if one runs with another state directory, pass it with --state-dir
    ");
    assert_snapshot!(run(dir, &["status", "--json"]), @r#"
    exit 4
    --- stdout
    {"kind":"not-running","message":"no daemon answers on [DIR]/api.sock","hints":["start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`","if one runs with another state directory, pass it with --state-dir"]}
    --- stderr
    error: no daemon answers on [DIR]/api.sock
      hint: start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`
      hint: if one runs with another state directory, pass it with --state-dir
    "#);
    assert_snapshot!(run(dir, &["stop"]), @r"
    exit 4
    --- stderr
    error: no daemon answers on [DIR]/api.sock
      hint: start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`
      hint: if one runs with another state directory, pass it with --state-dir
    ");
    assert_snapshot!(run(dir, &["logs"]), @r"
    exit 4
    --- stderr
    error: no daemon answers on [DIR]/api.sock
      hint: start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`
      hint: if one runs with another state directory, pass it with --state-dir
    ");
    assert_snapshot!(run(dir, &["connect", "--stdio"]), @r"
    exit 4
    --- stderr
    darwin-vz-nix: no daemon answers on [DIR]/api.sock; start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`; if one runs with another state directory, pass it with --state-dir
    ");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "only the settings: asking makes nothing");
}

#[test]
fn destroy_asks_and_deletes_without_a_daemon_under_the_lock() {
    let dir = crate::common::private_dir();
    let machine = with_keys(dir.path());
    assert_snapshot!(run(dir.path(), &["destroy"]), @r"
    exit 3
    --- stderr
    error: builder is not deleted: there is no terminal to ask for confirmation
      hint: confirm with --yes
    ");
    assert!(machine.user_key().exists());
    let lock = StateDir::open(dir.path()).unwrap().lock().unwrap();
    assert!(run(dir.path(), &["destroy", "--yes"]).starts_with("exit 8\n"), "another process has the lock");
    drop(lock);
    assert!(machine.user_key().exists());
    assert_snapshot!(run(dir.path(), &["destroy", "--yes"]), @r"
    exit 0
    --- stdout
    builder is deleted
    ");
    assert!(!machine.root().exists());
    assert!(run(dir.path(), &["destroy", "--yes"]).starts_with("exit 0\n"), "what is gone is gone");
}

#[test]
fn logs_of_a_daemon_that_has_ended() {
    let dir = crate::common::private_dir();
    std::fs::write(StateDir::open(dir.path()).unwrap().daemon_log(), "one\ntwo\nthree\n").unwrap();
    assert_snapshot!(run(dir.path(), &["logs", "-n", "2"]), @r"
    exit 0
    --- stdout
    two
    three
    ");
    assert!(run(dir.path(), &["logs", "--console"]).starts_with("exit 4\n"));
}

#[test]
fn boots_are_listed_with_why_they_failed_and_their_consoles_shown() {
    let server = Server::new();
    assert_snapshot!(run(server.path(), &["logs", "--boots"]), @r"
    exit 0
    --- stdout
    BOOT  BACK  BEGUN                 READY AFTER  OUTCOME      CONSOLE
    8     0     2023-11-14T22:14:20Z  2.34 s       powered-off  1000 B
    7     -1    2023-11-14T22:13:20Z  -            failed       1000 B
    boot 7, 2023-11-14T22:13:20Z: failed (/bundle, 8G of memory, cores: 4)
      the kernel panicked; the console says why: VFS
      hint: see the console
    ");
    std::fs::write(server.path().join("console-1.log"), "VFS: no root\n").unwrap();
    let by_place = run(server.path(), &["logs", "--console", "--boot", "-1"]);
    assert_snapshot!(by_place, @r"
    exit 0
    --- stdout
    VFS: no root
    --- stderr
    boot 7, 2023-11-14T22:13:20Z: failed (/bundle, 8G of memory, cores: 4)
      the kernel panicked; the console says why: VFS
      hint: see the console
    ");
    assert_eq!(run(server.path(), &["logs", "--boot=-1"]), by_place);
    std::fs::write(server.path().join("console7.log"), "VFS: no root\n").unwrap();
    assert_eq!(run(server.path(), &["logs", "--boot", "7"]), by_place);
    for wrong in
        [&["--boot", "-1", "--build"][..], &["--boots", "--console"], &["--boots", "--follow"], &["--boot", "x"]]
    {
        assert!(run(server.path(), &[&["logs"], wrong].concat()).starts_with("exit 2\n"), "{wrong:?}");
    }
}

/// The daemon's PATH may have programs that this command's lacks, and the reverse.
#[test]
fn doctor_judges_the_backend_by_what_the_daemon_has_or_says_whose_search_path_it_was() {
    let server = Server::new();
    let found = run(server.path(), &["doctor", "backend"]);
    assert!(found.contains("fake with none, for x86_64 guests, as found by the running daemon\n"), "{found}");
    let alone = crate::common::private_dir();
    let mut doctor = program(alone.path(), &["doctor", "backend"]);
    doctor.env("PATH", "/nonexistent/bin");
    let found = transcript(alone.path(), doctor);
    assert!(found.starts_with("exit 5\n"), "{found}");
    assert!(
        found.contains("as no daemon runs (a daemon's search path may differ), with the search path /nonexistent/bin"),
        "{found}"
    );
}

#[test]
fn start_shows_the_boot_and_stop_stops() {
    let server = Server::new();
    assert_snapshot!(run(server.path(), &["start", "--cores", "1", "--memory", "1G"]), @r"
    exit 0
    --- stdout
    builder runs
      prepared           12 ms  +12 ms
      guest: kernel     900 ms  +888 ms
      ssh banner        2.34 s  +1.44 s
      kernel 6.1.0, data disk kept
    --- stderr
    builder: starting
    ");
    assert_snapshot!(run(server.path(), &["start"]), @r"
    exit 0
    --- stdout
    builder runs already
    --- stderr
    builder: starting
    ");
    assert_snapshot!(run(server.path(), &["stop", "--force"]), @r"
    exit 0
    --- stdout
    builder is stopped; it powered itself off
    ");
    assert_snapshot!(run(server.path(), &["destroy", "--yes", "--keep-keys"]), @r"
    exit 0
    --- stdout
    builder is deleted
    ");
    assert_eq!(
        server.calls(),
        [
            "start builder StartRequest { cores: Some(1), memory: Some(1073741824), disk_size: None }",
            "start builder StartRequest { cores: None, memory: None, disk_size: None }",
            "stop builder force=true",
            "destroy builder keep_keys=true keep_generations=false",
        ]
    );
}

#[test]
fn generations_are_shown_and_what_is_asked_of_them_is_passed_on() {
    let server = Server::new();
    let shown = run(server.path(), &["generations"]);
    assert_snapshot!(shown, @r"
    exit 0
    --- stdout
    GENERATION  STATE             BUILT  FROM
    0           current, running  -      /bundle
    1           bad               -      /nix/store/r.drv
    builder: generation 1: the kernel panicked
    ");
    for words in [&["rollback"][..], &["rollback", "0"], &["build"], &["delete", "1", "2"]] {
        let text = run(server.path(), &[&["generations"], words].concat());
        assert_eq!(text, shown, "{words:?}");
    }
    let asked = ["RollBack(None)", "RollBack(Some(0))", "Build", "Delete(1)", "Delete(2)"];
    assert_eq!(server.calls(), asked.map(|asked| format!("builder {asked}")));
    let json = run(server.path(), &["generations", "--json"]);
    assert!(json.contains("\"current\": 0") && json.contains("\"verdict\": \"bad\""), "{json}");
}

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let server = Server::new();
    for kind in Kind::ALL {
        *server.fake.fault.lock().unwrap() = Some(Report::new(kind, "no"));
        let text = run(server.path(), &["start"]);
        assert!(text.starts_with(&format!("exit {}\n--- stderr\nerror: no", kind.exit_code())), "{kind:?}: {text}");
        *server.fake.fault.lock().unwrap() = Some(Report::new(kind, "no\nway").hint("try"));
        let text = run(server.path(), &["connect", "--service", "ssh"]);
        assert_eq!(text, format!("exit {}\n--- stderr\ndarwin-vz-nix: no way; try\n", kind.exit_code()), "one line");
    }
}

#[test]
fn status_shows_the_machines() {
    let server = Server::new();
    let cause = Report::new(Kind::Boot, "the kernel panicked").hint("see its console");
    server.fake.moved(State::Failed { cause, attempts: 1, retry_in_ms: 0 });
    let text = run(server.path(), &["status"]);
    assert!(text.contains("builder  failed"), "{text}");
    assert!(text.ends_with(
        "builder: the boot failed: the kernel panicked\n  hint: see its console\n  the next connection tries again; `darwin-vz-nix start` tries at once\n"
    ), "{text}");
    let json = run(server.path(), &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(json.strip_prefix("exit 0\n--- stdout\n").unwrap()).unwrap();
    assert_eq!(json["machines"][0]["cause"]["kind"], "boot");
}

#[test]
fn status_watches() {
    use std::io::{BufRead, BufReader};
    let server = Server::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_darwin-vz-nix"))
        .args(["--state-dir", server.path().to_str().unwrap(), "status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap()["machines"][0]["state"]
            .clone()
    };
    assert_eq!(next(), "stopped");
    server.fake.moved(State::Starting);
    assert_eq!(next(), "starting");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn connect_carries_stdin_and_stdout_and_ignores_what_nix_adds() {
    let server = Server::new();
    let mut command = program(server.path(), &["connect", "--service", "nix", "--stdio", "--store", "x"]);
    command.write_stdin(vec![b'x'; 3_000_000]);
    assert_eq!(transcript(server.path(), command), "exit 0\n--- stdout\nread 3000000\n");
    let mut command = program(server.path(), &["connect", "--service", "ssh"]);
    let sent: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
    command.write_stdin(sent.clone());
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout.strip_prefix(b"SSH-2.0-fake\r\n") == Some(&sent[..]), "every byte, in order");
    assert_eq!(server.calls(), ["open builder Nix", "open builder Ssh"]);
}

#[test]
fn connect_ends_with_the_guest_although_stdin_stays_open_and_loses_no_time() {
    let server = Server::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_darwin-vz-nix"))
        .args(["--state-dir", server.path().to_str().unwrap(), "--machine", "builder", "connect", "--service", "ssh"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        std::io::Read::read_exact(&mut stdout, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(14), b"SSH-2.0-fake\r\n");
    let begun = Instant::now();
    for _ in 0..200 {
        stdin.write_all(b"ping without a newline").unwrap();
        assert_eq!(read(22), b"ping without a newline");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "a byte never waits for a timer: {:?}", begun.elapsed());
    // The server's runtime ends, and the guest with it.
    drop(server);
    let status = child.wait().unwrap();
    assert!(status.success() || status.code() == Some(10), "{status}");
    drop(stdin);
}

#[test]
fn connect_needs_no_configuration_with_the_daemon_and_the_machine_given() {
    let server = Server::new();
    let mut command = program(server.path(), &["--machine", "builder", "connect"]);
    command.env("DARWIN_VZ_NIX_CONFIG", "/nonexistent");
    assert_eq!(transcript(server.path(), command), "exit 0\n--- stdout\nread 0\n");
}

#[test]
fn ssh_runs_the_systems_ssh_with_this_program_as_its_proxy() {
    let server = Server::new();
    let bin = server.path().join("a bin");
    std::fs::create_dir(&bin).unwrap();
    let machine = with_keys(server.path());
    // Prints its arguments, then uses its proxy command as ssh does.
    let script = "#!/bin/sh\nfor a; do case $a in ProxyCommand=*) proxy=${a#ProxyCommand=};; *) printf '%s|' \"$a\";; esac; done\n\
                  echo; exec sh -c \"exec $proxy\" </dev/null\n";
    std::fs::write(bin.join("ssh"), script).unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = program(server.path(), &["ssh", "--", "uname", "-a"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let key = machine.user_key().display().to_string();
    let hosts = machine.known_hosts().display().to_string();
    let text = transcript(server.path(), command);
    let expected = format!(
        "exit 0\n--- stdout\n-F|none|-o|IdentityFile=\"{key}\"|-o|-o|UserKnownHostsFile=\"{hosts}\"|-o|HostKeyAlias=darwin-vz-builder|\
         -o|StrictHostKeyChecking=yes|-o|IdentitiesOnly=yes|-o|GlobalKnownHostsFile=none|-l|builder|--|darwin-vz-builder|uname|-a|\n\
         SSH-2.0-fake\n--- stderr\nbuilder: starting\n"
    );
    assert_eq!(text, expected.replace(&server.path().display().to_string(), "[DIR]"));

    let mut command = program(server.path(), &["ssh"]);
    command.env("PATH", server.path());
    assert_snapshot!(transcript(server.path(), command), @r"
    exit 5
    --- stderr
    builder: starting
    error: there is no ssh on this computer
      hint: install it; Debian's package is openssh-client
    ");
}

#[test]
fn nix_config_prints_its_sections() {
    let dir = crate::common::private_dir();
    let bundle = dir.path().join("guest");
    std::fs::create_dir(&bundle).unwrap();
    let manifest = r#"{"version": 1, "arch": "aarch64", "kernel": "Image", "initrd": "initrd", "cmdline": "",
        "images": [{"file": "system.img", "role": "system", "readOnly": true}],
        "ssh": {"vsockPort": 22, "user": "nixer"}, "nix": {"vsockPort": 24}, "agent": {"protocol": 1}}"#;
    std::fs::write(bundle.join("guest.json"), manifest).unwrap();
    let mut initrd = Vec::new();
    cpio::NewcBuilder::new("init").write(&mut initrd, 0).finish().unwrap();
    cpio::newc::trailer(&mut initrd).unwrap();
    std::fs::write(bundle.join("initrd"), initrd).unwrap();
    let mut system = vec![0; 4096];
    system[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    (system[1024 + 0x0C], system[1024 + 0x24]) = (12, 1);
    std::fs::write(bundle.join("system.img"), system).unwrap();
    let image = [&[0; 0x38][..], b"ARM\x64"].concat();
    std::fs::write(bundle.join("Image"), image).unwrap();
    std::fs::write(dir.path().join("config.toml"), "bundle = \"guest\"\ncores = 1\n").unwrap();
    let state_dir = dir.path().join("state");
    let nix_config = |args: &[&str]| {
        let args: Vec<&str> =
            ["--state-dir", state_dir.to_str().unwrap(), "nix-config"].iter().chain(args).copied().collect();
        run(dir.path(), &args)
    };
    // Nothing has run yet: the command creates what it prints.
    let pinned = nix_config(&["--only", "known-hosts"]);
    let machine = machine_dir(&state_dir);
    let host_key = std::fs::read_to_string(machine.known_hosts()).unwrap();
    assert_eq!(pinned, format!("exit 0\n--- stdout\n{host_key}"));
    let host_key = host_key.trim().strip_prefix("darwin-vz-builder ").unwrap();
    let encoded = STANDARD.encode(host_key);
    let shown = |path: &Path| path.display().to_string().replace(&dir.path().display().to_string(), "[DIR]");
    let line = format!(
        "exit 0\n--- stdout\nssh-ng://localhost?remote-program={} aarch64-linux - 1 1 benchmark,big-parallel - -\n",
        machine.connect_program().display()
    );
    assert_eq!(nix_config(&["--only", "builders"]), line.replace(&dir.path().display().to_string(), "[DIR]"));
    let text = nix_config(&["--door", "ssh"])
        .replace(&shown(&machine.user_key()), "[KEY]")
        .replace(&shown(&machine.known_hosts()), "[HOSTS]")
        .replace(&encoded, "[ENCODED]")
        .replace(host_key, "[HOST KEY]");
    // The rest of the block is the same for every machine.
    let pinned: String = PINNED.iter().map(|(option, value)| format!("  {option} {value}\n")).collect();
    let text = text.replace(&pinned, "  […]\n");
    assert_snapshot!(text, @r#"
    exit 0
    --- stdout
    # Append to /etc/nix/machines, and add to /etc/nix/nix.conf:
    #   builders = @/etc/nix/machines
    #   builders-use-substitutes = true
    ssh-ng://nixer@darwin-vz-builder aarch64-linux [KEY] 1 1 benchmark,big-parallel - [ENCODED]

    # Append to /etc/ssh/ssh_config, which Nix's daemon reads:
    Host darwin-vz-builder
      HostName 127.0.0.1
      Port 31122
      User nixer
      IdentityFile "[KEY]"
      UserKnownHostsFile "[HOSTS]"
      HostKeyAlias darwin-vz-builder
      BindAddress 127.0.0.1
      ConnectTimeout 390
      […]

    # Append to /etc/ssh/ssh_known_hosts, so that other tools know the machine:
    darwin-vz-builder [HOST KEY]
    "#);
    std::fs::write(bundle.join("guest.json"), "{").unwrap();
    assert!(nix_config(&[]).starts_with("exit 6\n"));
}

#[test]
fn capabilities_tell_what_works_and_why_not() {
    let dir = tempfile::tempdir().unwrap();
    // Without these programs, the report says that they are missing, even though the settings are invalid, too.
    std::fs::write(dir.path().join("config.toml"), "nonsense").unwrap();
    let mut command = program(dir.path(), &["capabilities", "--json"]);
    command.env("PATH", dir.path());
    let text = transcript(dir.path(), command);
    let json: serde_json::Value = serde_json::from_str(text.strip_prefix("exit 0\n--- stdout\n").unwrap()).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        json["backends"].as_array().is_some_and(|built_in| json["error"].is_object() == built_in.is_empty()),
        "{json}"
    );
    for feature in json["backend"]["features"].as_array().into_iter().flatten() {
        assert!(feature["why"].as_str().is_some_and(|why| !why.is_empty()), "{feature}");
    }
    if json["backend"]["name"] == "qemu" {
        let features = json["backend"]["features"].as_array().unwrap();
        let vsock = features.iter().find(|feature| feature["name"] == "vsock").unwrap();
        assert_eq!(vsock["available"], false, "{vsock}");
        assert!(vsock["why"].as_str().unwrap().contains("cargo install"), "{vsock}");
    }
}

#[test]
fn pause_and_resume_say_what_follows() {
    let server = Server::new();
    assert_snapshot!(run(server.path(), &["pause"]), @r"
    exit 0
    --- stdout
    builder is paused; the next connection resumes it
    ");
    assert_snapshot!(run(server.path(), &["start"]), @r"
    exit 0
    --- stdout
    builder is resumed
    --- stderr
    builder: starting
    ");
    assert_snapshot!(run(server.path(), &["resume"]), @r"
    exit 0
    --- stdout
    builder is resumed
    ");
    let report = Report::new(Kind::Busy, "no guest runs").hint("start it: `darwin-vz-nix start`");
    *server.fake.fault.lock().unwrap() = Some(report);
    assert_snapshot!(run(server.path(), &["pause"]), @r"
    exit 8
    --- stderr
    error: no guest runs
      hint: start it: `darwin-vz-nix start`
    ");
}

#[test]
fn connections_in_a_table_and_in_json() {
    let server = Server::new();
    let text = run(server.path(), &["status", "--connections"]);
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.nth(2).unwrap(), ["CONNECTION", "MACHINE", "DOOR", "FOR", "SENT", "RECEIVED"]);
    let row = lines.next().unwrap();
    assert_eq!((&row[..3], &row[5..]), (&["3", "builder", "nix"][..], &["5", "B", "7", "B"][..]), "{text}");
    assert_snapshot!(run(server.path(), &["status", "--connections", "--json"]), @r#"
    exit 0
    --- stdout
    {
      "connections": [
        {
          "connection": 3,
          "machine": "builder",
          "door": "nix",
          "sinceUnixMs": 1700000000000,
          "sent": 5,
          "received": 7
        }
      ]
    }
    "#);
    assert!(run(server.path(), &["start", "--json"]).contains("\"state\": \"running\""));
}
