//! `doctor` without a guest: its findings about files, and about a fake daemon.

use super::{common::Server, program, run, transcript};
use dvn_guest::ssh::keys::Keys;
use dvn_host::machine_dir::{MachineDir, StateDir};
use insta::assert_snapshot;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Settings that are the same on every computer, and keys.
fn provisioned() -> (tempfile::TempDir, MachineDir) {
    let dir = crate::common::private_dir();
    fs::write(dir.path().join("config.toml"), "cores = 1\nmemory = \"1G\"\ndisk-size = \"4G\"\n").unwrap();
    let name = "builder".parse().unwrap();
    let machine = StateDir::open(dir.path()).unwrap().make_machine(&name).unwrap();
    Keys::ensure(&machine, &name).unwrap();
    (dir, machine)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_fine_is_said_to_be_so_and_nothing_is_made() {
    let dir = crate::common::private_dir();
    let text = run(dir.path(), &["doctor"]);
    assert!(text.contains("\nok       daemon           none runs; a build or `start` starts one\n"), "{text}");
    assert!(
        text.contains(
            "\nnot run, as they need a running guest: guest, clock, network, data-disk, trim, build; add --deep\n"
        ),
        "{text}"
    );
    assert!(text.contains("\nfailed   bundle           no guest bundle is configured"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the settings: looking makes nothing");
    let (dir, _) = provisioned();
    assert_snapshot!(run(dir.path(), &["doctor", "keys", "settings", "rosetta", "store-case"]), @r"
    exit 0
    --- stdout
    ok       settings         1 core, 1G of memory, a disk of 4G
    -        rosetta          the machine does not use it
    ok       keys             both private keys are whole and closed to others
    -        store-case       the store is not shared with the guest

    4 checks: 2 ok, 2 not applicable here
    ");
}

#[test]
fn a_fault_is_reported_in_text_and_json_and_repaired_on_request() {
    let (dir, machine) = provisioned();
    set_mode(&machine.user_key(), 0o644);
    assert_snapshot!(run(dir.path(), &["doctor", "keys", "known-hosts"]), @r"
    exit 9
    --- stdout
    failed   keys             [DIR]/machines/builder/id_ed25519 can be read by other users (mode 0644)
             hint: close it: chmod 600 [DIR]/machines/builder/id_ed25519
             hint: if other users may have read it, make new keys: `darwin-vz-nix destroy`
             --fix would: chmod 600 [DIR]/machines/builder/id_ed25519
    ok       known-hosts      [DIR]/machines/builder/known_hosts pins the guest's host key alone

    2 checks: 1 ok, 1 failed
    ");
    let mut json = program(dir.path(), &["doctor", "keys", "known-hosts", "--json"]);
    assert_eq!(json.output().unwrap().status.code(), Some(9));
    assert_snapshot!(transcript(dir.path(), json), @r#"
    exit 9
    --- stdout
    {
      "machine": "builder",
      "checks": [
        {
          "name": "keys",
          "outcome": "failed",
          "kind": "state",
          "evidence": "[DIR]/machines/builder/id_ed25519 can be read by other users (mode 0644)",
          "hints": [
            "close it: chmod 600 [DIR]/machines/builder/id_ed25519",
            "if other users may have read it, make new keys: `darwin-vz-nix destroy`"
          ],
          "repairs": [
            "chmod 600 [DIR]/machines/builder/id_ed25519"
          ]
        },
        {
          "name": "known-hosts",
          "outcome": "ok",
          "evidence": "[DIR]/machines/builder/known_hosts pins the guest's host key alone"
        }
      ],
      "notRun": []
    }
    "#);
    assert_eq!(fs::metadata(machine.user_key()).unwrap().permissions().mode() & 0o777, 0o644, "--fix was not given");
    assert_snapshot!(run(dir.path(), &["doctor", "keys", "--fix"]), @r"
    exit 0
    --- stdout
    ok       keys             both private keys are whole and closed to others
             repaired: set the mode of [DIR]/machines/builder/id_ed25519 to 0600

    1 check: 1 ok
    ");
    assert_eq!(fs::metadata(machine.user_key()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_repair_that_fails_is_reported() {
    let (dir, machine) = provisioned();
    fs::write(machine.known_hosts(), "foreign ssh-ed25519 AAAA\n").unwrap();
    // What is derived from the keys is written for both of them or not at all.
    fs::write(machine.user_key(), "damage").unwrap();
    let text = run(dir.path(), &["doctor", "known-hosts", "--fix"]);
    assert!(text.starts_with("exit 9\n") && text.contains("hint: it could not be repaired: "), "{text}");
    assert!(machine.known_hosts().with_file_name("known_hosts.aside-1").exists(), "{text}");
}

#[test]
fn a_daemon_is_asked_over_its_socket() {
    let server = Server::new();
    // The fake daemon holds no lock.
    assert_snapshot!(run(server.path(), &["doctor", "daemon", "port"]), @r"
    exit 9
    --- stdout
    failed   daemon           process 1 answers, but does not hold the state directory's lock
             hint: the directory was replaced while it ran: end that process, and start the daemon again
    ok       port             the daemon listens on 127.0.0.1:31122

    2 checks: 1 ok, 1 failed
    ");
    assert!(server.calls().is_empty(), "nothing is started");
}

#[test]
fn deep_checks_boot_a_guest_and_leave_it_as_it_was() {
    let server = Server::new();
    assert_snapshot!(run(server.path(), &["doctor", "guest", "--deep"]), @r"
    exit 0
    --- stdout
    ok       guest            it runs Linux 6.1.0; its boot took 2.3 s

    1 check: 1 ok
    --- stderr
    builder: starting
    ");
    assert_eq!(
        server.calls(),
        ["start builder StartRequest { cores: None, memory: None, disk_size: None }", "stop builder force=false"]
    );
    server.fake.moved(dvn_types::wire::State::Running { leases: 1, idle_stop_in_ms: None, builds: 0 });
    assert!(run(server.path(), &["doctor", "guest", "--deep"]).starts_with("exit 0\n"));
    assert_eq!(server.calls().len(), 3, "one that ran already goes on: {:?}", server.calls());
}

#[test]
fn wrong_names_are_refused() {
    let dir = crate::common::private_dir();
    assert!(run(dir.path(), &["doctor", "kyes"]).starts_with("exit 2\n"));
    assert_snapshot!(run(dir.path(), &["doctor", "keys", "clock", "build"]), @r"
    exit 3
    --- stderr
    error: a running guest is needed for clock, build
      hint: allow it to be started: add --deep
    ");
}

#[test]
fn the_page_of_checks_is_fresh() {
    let dir = crate::common::private_dir();
    let list = program(dir.path(), &["doctor", "--list", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let row = |check: &serde_json::Value| {
        let runs = if check["deep"] == true { "with `--deep`" } else { "always" };
        format!("| `{}` | {runs} | {} |", check["name"].as_str().unwrap(), check["looksAt"].as_str().unwrap())
    };
    let made: Vec<String> = list.as_array().unwrap().iter().map(row).collect();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md")).unwrap();
    let kept: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 4).collect();
    assert_eq!(kept, made, "docs/doctor.md does not list the checks as `doctor --list` does");
    let text = run(dir.path(), &["doctor", "--list"]);
    assert_eq!(text.lines().count(), made.len() + 3, "{text}");
}
