//! The verbs for machines of the library, against a fake daemon.

use super::{
    common::{Server, vm},
    program, run,
};
use dvn_types::{
    Kind, Report,
    wire::{State, Vm},
};
use insta::assert_snapshot;

/// A daemon whose library has these machines, stopped.
fn with(names: &[&str]) -> Server {
    let server = Server::new();
    server.fake.library.lock().unwrap().extend(names.iter().map(|name| vm(name)));
    server
}

fn moved(server: &Server, name: &str, state: State) {
    server.fake.vm_moved(&name.parse().unwrap(), state).unwrap();
}

fn running() -> State {
    State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 }
}

/// What a command prints as JSON.
fn json(server: &Server, args: &[&str]) -> serde_json::Value {
    let output = program(server.path(), &[args, &["--json"]].concat()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

#[test]
fn create_sends_what_is_given_with_an_absolute_path() {
    let server = with(&[]);
    assert_eq!(run(server.path(), &["create", "My VM", "--linux"]), "exit 0\n--- stdout\nMy VM is created\n");
    let sizes = ["--disk-size", "20G", "--cpu", "2", "--memory", "512M", "--arch", "x86_64"];
    let made = json(&server, &[&["create", "ü:1", "--from-iso", "./a b.iso"][..], &sizes].concat());
    assert_eq!((&made["name"], &made["state"]), (&"ü:1".into(), &"stopped".into()), "{made}");
    let iso = server.path().join("a b.iso");
    assert_eq!(
        server.calls(),
        [
            "Create(CreateRequest { name: MachineName(\"My VM\"), disk_size: None, medium: None, arch: None, cores: None, memory: None })"
                .to_owned(),
            format!(
                "Create(CreateRequest {{ name: MachineName(\"ü:1\"), disk_size: Some(21474836480), medium: Some({iso:?}), \
                 arch: Some(X86_64), cores: Some(2), memory: Some(536870912) }})"
            ),
        ]
    );
    assert_snapshot!(run(server.path(), &["create", "a/b"]), @r#"
    exit 2
    --- stderr
    error: invalid value 'a/b' for '<NAME>': "a/b" is not a machine name: a name has no slash, which is for images in a registry

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(server.path(), &["create", "x", "--disk-size", "much"]), @r"
    exit 2
    --- stderr
    error: invalid value 'much' for '--disk-size <SIZE>': give a size such as 8G or 512M, or a number of MiB

    For more information, try '--help'.
    ");
    *server.fake.fault.lock().unwrap() =
        Some(Report::new(Kind::Busy, "there is a machine x already").hint("choose another name"));
    assert_snapshot!(run(server.path(), &["create", "x", "--json"]), @r#"
    exit 8
    --- stdout
    {"kind":"busy","message":"there is a machine x already","hints":["choose another name"]}
    --- stderr
    error: there is a machine x already
      hint: choose another name
    "#);
}

#[test]
fn list_shows_every_machine_and_what_is_wrong() {
    let server = with(&["My VM", "web", "odd"]);
    moved(&server, "web", running());
    moved(&server, "My VM", State::Suspended);
    let cause = Report::new(Kind::State, "config.json is no JSON").hint("mend it");
    server.fake.library.lock().unwrap().iter_mut().filter(|vm| vm.name.as_str() == "odd").for_each(|vm| {
        *vm = Vm { state: State::Broken { cause: cause.clone() }, hardware: None, ..vm.clone() };
    });
    assert_snapshot!(run(server.path(), &["list"]), @r"
    exit 0
    --- stdout
    NAME     STATE      CORES  MEMORY  DISK
    My VM    suspended  4      4G      50GB
    builder  stopped    4      4G      50GB
    odd      broken     -      -       -
    web      running    4      4G      50GB
    odd: broken: config.json is no JSON
      hint: mend it
    ");
    assert_snapshot!(run(server.path(), &["list", "--space"]), @r"
    exit 0
    --- stdout
    NAME     STATE      CORES  MEMORY  DISK  OWN      SHARED
    My VM    suspended  4      4G      50GB  1.9 GiB  5.6 GiB
    builder  stopped    4      4G      50GB  1.9 GiB  5.6 GiB
    odd      broken     -      -       -     1.9 GiB  5.6 GiB
    web      running    4      4G      50GB  1.9 GiB  5.6 GiB
    odd: broken: config.json is no JSON
      hint: mend it
    ");
    assert_eq!(run(server.path(), &["list", "-q"]), "exit 0\n--- stdout\nMy VM\nbuilder\nodd\nweb\n");
    let all = json(&server, &["list"]);
    assert_eq!(all["machines"][3]["state"], "running", "{all}");
    assert!(
        all["machines"][3].get("space").is_none()
            && json(&server, &["list", "--space"])["machines"][3]["space"]["own"] == 2_000_000_000_u64
    );
}

#[test]
fn get_shows_one() {
    let server = with(&["My VM"]);
    assert_snapshot!(run(server.path(), &["get", "My VM"]), @r"
    exit 0
    --- stdout
    name:      My VM
    state:     stopped
    system:    Linux, x86_64
    cores:     4
    memory:    4G
    disk:      50GB (raw), takes 1.9 GiB of its own and 5.6 GiB shared
    display:   1024x768
    MAC:       7e:00:00:00:00:01
    created:   2023-11-14T22:13:20Z
    started:   2023-11-14T22:14:20Z
    directory: /state/machines/My VM
    ");
    assert_eq!(json(&server, &["get", "My VM"])["hardware"]["diskSize"], 50_000_000_000_u64);
    assert_eq!(run(server.path(), &["get", "none"]), "exit 11\n--- stderr\nerror: there is no machine none\n");
}

#[test]
fn set_sends_only_what_is_given() {
    let server = with(&["web"]);
    assert_eq!(
        run(server.path(), &["set", "web", "--cores", "2", "--disk-size", "100GB"]),
        "exit 0\n--- stdout\nweb is changed\n"
    );
    let rest = ["--memory", "8G", "--display", "1920x1080px", "--no-display-refit", "--random-mac"];
    json(&server, &[&["set", "web"][..], &rest].concat());
    run(server.path(), &["set", "web", "--no-display-refit", "--display-refit"]);
    let set = |rest: &str| format!("Set(MachineName(\"web\"), SetRequest {{ {rest} }})");
    assert_eq!(
        server.calls(),
        [
            set(
                "cores: Some(2), memory: None, disk_size: Some(100000000000), display: None, display_refit: None, random_mac: false"
            ),
            set(
                "cores: None, memory: Some(8589934592), disk_size: None, display: Some(\"1920x1080px\"), display_refit: Some(false), random_mac: true"
            ),
            set(
                "cores: None, memory: None, disk_size: None, display: None, display_refit: Some(true), random_mac: false"
            ),
        ]
    );
    assert_snapshot!(run(server.path(), &["set", "web"]), @r"
    exit 3
    --- stderr
    error: there is nothing to change
      hint: give a flag, such as --cores 2; `darwin-vz-nix set --help` lists them
    ");
}

#[test]
fn clone_and_rename() {
    let server = with(&["My VM"]);
    assert_eq!(run(server.path(), &["clone", "My VM", "ci-1"]), "exit 0\n--- stdout\nci-1 is a copy of My VM\n");
    assert_eq!(json(&server, &["clone", "My VM", "ci-2"])["name"], "ci-2");
    assert_eq!(run(server.path(), &["rename", "My VM", "100%"]), "exit 0\n--- stdout\nMy VM is now 100%\n");
    assert_eq!(json(&server, &["rename", "100%", "base"])["name"], "base");
    assert_eq!(run(server.path(), &["list", "-q"]), "exit 0\n--- stdout\nbase\nbuilder\nci-1\nci-2\n");
    assert_eq!(run(server.path(), &["clone", "none", "x"]), "exit 11\n--- stderr\nerror: there is no machine none\n");
}

#[test]
fn delete_takes_names_and_patterns_and_goes_on_after_an_error() {
    let server = with(&["ci-1", "ci-2", "ci-3", "My VM", "keep", "a*"]);
    assert_snapshot!(run(server.path(), &["delete", "ci-[12]", "none", "My VM", "x*", "builder", "ci-1"]), @r"
    exit 11
    --- stdout
    ci-1 is deleted
    ci-2 is deleted
    My VM is deleted
    --- stderr
    error: there is no machine none
      hint: `darwin-vz-nix list` shows all machines
    error: no machine of the library matches x*
      hint: `darwin-vz-nix list` shows all machines
    error: builder is a builder, which the configuration declares
      hint: delete its disk and its keys: `darwin-vz-nix --machine builder destroy`
    ");
    // A name that is there is no pattern.
    assert_eq!(run(server.path(), &["delete", "a*"]), "exit 0\n--- stdout\na* is deleted\n");
    *server.fake.fault.lock().unwrap() = Some(Report::new(Kind::Busy, "ci-3 runs"));
    let output = program(server.path(), &["delete", "*", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["deleted"], serde_json::json!(["keep"]));
    assert_eq!((&json["failed"][0]["name"], &json["failed"][0]["error"]["kind"]), (&"ci-3".into(), &"busy".into()));
    assert_eq!(run(server.path(), &["delete"]).lines().next(), Some("exit 2"));
}

#[test]
fn start_stop_pause_and_resume_take_a_name() {
    let server = with(&["My VM", "stubborn"]);
    for (args, text) in [
        (&["start", "My VM"][..], "My VM runs\n"),
        (&["start", "My VM"], "My VM runs already\n"),
        (&["pause", "My VM"], "My VM is paused; resume it with `darwin-vz-nix resume 'My VM'`\n"),
        (&["start", "My VM"], "My VM is resumed\n"),
        (&["pause", "My VM"], "My VM is paused; resume it with `darwin-vz-nix resume 'My VM'`\n"),
        (&["resume", "My VM"], "My VM is resumed\n"),
        (&["stop", "My VM"], "My VM is stopped; it powered itself off\n"),
        (&["start", "My VM", "--cores", "1"], "My VM runs\n"),
        (&["stop", "My VM", "--force"], "My VM is stopped; it was forced off\n"),
        (&["stop", "builder"], "builder is stopped; it powered itself off\n"),
    ] {
        assert_eq!(run(server.path(), args), format!("exit 0\n--- stdout\n{text}"), "{args:?}");
    }
    moved(&server, "My VM", State::Suspended);
    assert_eq!(
        run(server.path(), &["stop", "My VM"]),
        "exit 0\n--- stdout\nMy VM is stopped; its saved state is discarded\n"
    );
    for (verb, state) in [("start", "running"), ("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
        let vm = json(&server, &[verb, "My VM"]);
        assert_eq!((&vm["name"], &vm["state"], &vm["role"]), (&"My VM".into(), &state.into(), &"library".into()));
    }
    assert_eq!(run(server.path(), &["start", "none"]), "exit 11\n--- stderr\nerror: there is no machine none\n");
    assert_snapshot!(run(server.path(), &["--machine", "builder", "stop", "My VM"]), @r"
    exit 3
    --- stderr
    error: two machines are given: My VM, and builder by --machine
      hint: leave one of them out
    ");
}

#[test]
fn suspend_keeps_the_machine_for_the_next_start() {
    let server = with(&["web"]);
    moved(&server, "web", running());
    let text = run(server.path(), &["suspend", "web"]);
    assert_eq!(text, "exit 0\n--- stdout\nweb is suspended; the next start continues it\n");
    assert_eq!(json(&server, &["suspend", "web"])["state"], "suspended");
}

#[test]
fn ip_prints_one_address_or_all_and_waits_for_one() {
    let server = with(&["My VM"]);
    assert_eq!(run(server.path(), &["ip", "My VM"]), "exit 0\n--- stdout\n192.168.64.7\n");
    let all = json(&server, &["ip", "My VM"]);
    assert_eq!(all, serde_json::json!({"addresses": ["192.168.64.7", "fd00::7"], "source": "agent"}));
    let none = || Some(Report::new(Kind::Guest, "My VM has no address yet").hint("wait"));
    *server.fake.fault.lock().unwrap() = none();
    assert_eq!(
        run(server.path(), &["ip", "My VM"]),
        "exit 10\n--- stderr\nerror: My VM has no address yet\n  hint: wait\n"
    );
    *server.fake.fault.lock().unwrap() = none();
    assert!(run(server.path(), &["ip", "My VM", "--wait", "60"]).contains("192.168.64.7"), "the second answer is one");
    // What waiting cannot change.
    assert_eq!(
        run(server.path(), &["ip", "none", "--wait", "60"]),
        "exit 11\n--- stderr\nerror: there is no machine none\n"
    );
}

#[test]
fn a_screenshot_replaces_no_file() {
    let server = with(&["My VM"]);
    let png = b"\x89PNG\r\n\x1a\n";
    let file = server.path().join("My VM.png");
    assert_eq!(run(server.path(), &["screenshot", "My VM"]), "exit 0\n--- stdout\nMy VM.png\n");
    assert_eq!(std::fs::read(&file).unwrap(), png);
    std::fs::write(&file, "mine").unwrap();
    assert_snapshot!(run(server.path(), &["screenshot", "My VM"]), @r"
    exit 3
    --- stderr
    error: My VM.png exists already
      hint: give another file, or replace it: `darwin-vz-nix screenshot --force 'My VM'`
    ");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert!(run(server.path(), &["screenshot", "My VM", "--force"]).starts_with("exit 0\n"));
    assert_eq!(std::fs::read(&file).unwrap(), png);
    assert_eq!(program(server.path(), &["screenshot", "My VM", "-"]).output().unwrap().stdout, png);
    assert!(
        run(server.path(), &["screenshot", "My VM", "none/x.png"])
            .starts_with("exit 5\n--- stderr\nerror: cannot write none/x.png")
    );
}

#[test]
fn status_has_the_machines_of_the_library_that_are_not_just_stopped() {
    let server = with(&["at rest", "asleep", "web"]);
    moved(&server, "asleep", State::Suspended);
    moved(&server, "web", running());
    let text = run(server.path(), &["status"]);
    let rows: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["MACHINE", "builder", "asleep", "web"], "{text}");
    assert_eq!(rows[2][1..], ["suspended", "-", "-", "-", "-", "4", "4G", "50GB", "-"], "{text}");
    assert_eq!(rows[3][1], "running");
    let all = json(&server, &["status"]);
    let library = all["library"].as_array().unwrap();
    assert_eq!(
        (library.len(), &library[1]["name"], &all["machines"][0]["name"]),
        (2, &"web".into(), &"builder".into())
    );
}

#[test]
fn the_console_of_a_machine_by_its_name() {
    let server = with(&["My VM"]);
    std::fs::write(server.path().join("console of My VM.log"), "booting\nlogin:\n").unwrap();
    for args in [&["logs", "My VM"][..], &["logs", "--console", "My VM"]] {
        assert_eq!(run(server.path(), args), "exit 0\n--- stdout\nbooting\nlogin:\n");
    }
    assert_eq!(run(server.path(), &["logs", "-n", "1", "My VM"]), "exit 0\n--- stdout\nlogin:\n");
}
