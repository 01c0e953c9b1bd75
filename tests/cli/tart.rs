//! The program called as `tart`, against a fake daemon.

use super::{
    common::{Server, vm},
    plain,
};
use dvn_types::wire::State;
use serde_json::{Value, json};
use std::process::Output;

/// A daemon with the machines `base`, which is stopped, and `web`, which runs; and a link named `tart` to the program.
fn server() -> Server {
    let server = Server::new();
    server.fake.library.lock().unwrap().extend([vm("base"), vm("web")]);
    server
        .fake
        .vm_moved(&"web".parse().unwrap(), State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 })
        .unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_darwin-vz-nix"), server.path().join("tart")).unwrap();
    server
}

fn tart(server: &Server, args: &[&str]) -> Output {
    let like = plain(server.path(), args);
    let mut tart = std::process::Command::new(server.path().join("tart"));
    tart.args(args).env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    tart.current_dir(server.path()).output().unwrap()
}

fn ok(server: &Server, args: &[&str]) -> String {
    let output = tart(server, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code, and what stands on stderr.
fn fails(server: &Server, args: &[&str]) -> (i32, String) {
    let output = tart(server, args);
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn machines_are_shown_as_tart_shows_them() {
    let server = server();
    let list: Value = serde_json::from_str(&ok(&server, &["list", "--format", "json"])).unwrap();
    let row = |name: &str, runs: bool, state: &str| json!({"Source": "local", "Name": name, "Disk": 50, "Size": 8, "Accessed": "2023-11-14T22:14:20Z", "Running": runs, "State": state});
    assert_eq!(list, json!([row("base", false, "stopped"), row("web", true, "running")]), "the builder is not Tart's");
    assert_eq!(ok(&server, &["list", "--quiet"]), "base\nweb\n");
    assert_eq!(ok(&server, &["list", "--source", "oci", "--quiet"]), "");
    let text = ok(&server, &["list"]);
    assert!(text.starts_with("Source Name Disk Size Accessed"), "{text}");
    let got: Value = serde_json::from_str(&ok(&server, &["get", "web", "--format", "json"])).unwrap();
    let expected = json!({"OS": "linux", "CPU": 4, "Memory": 4096, "Disk": 50, "DiskFormat": "raw", "Size": got["Size"],
        "Display": "1024x768", "Running": true, "State": "running"});
    assert_eq!(got, expected);
    assert_eq!(ok(&server, &["fqn", "web"]), "web\n");
    assert_eq!(ok(&server, &["ip", "web"]), "192.168.64.7\n");
}

#[test]
fn machines_are_made_and_changed_in_tarts_units() {
    let server = server();
    ok(&server, &["create", "--linux", "box"]);
    ok(&server, &["clone", "base", "copy"]);
    ok(&server, &["set", "base", "--cpu", "2", "--memory", "2048", "--disk-size", "60", "--display", "800x600px"]);
    ok(&server, &["rename", "copy", "other"]);
    ok(&server, &["suspend", "web"]);
    ok(&server, &["stop", "web"]);
    ok(&server, &["delete", "other", "box"]);
    let calls = server.calls();
    assert!(calls[0].contains("disk_size: Some(50000000000)"), "{}", calls[0]);
    assert_eq!(
        calls[2],
        "Set(MachineName(\"base\"), SetRequest { cores: Some(2), memory: Some(2147483648), disk_size: Some(60000000000), \
         display: Some(\"800x600px\"), display_refit: None, random_mac: false })"
    );
    assert_eq!(calls[4..], ["suspend web", "stop web force=false", "delete other", "delete box"]);
}

#[test]
fn exit_codes_are_tarts() {
    let server = server();
    for args in [
        &["get", "nothing"][..],
        &["delete", "nothing"],
        &["clone", "nothing", "x"],
        &["ip", "base"],
        &["exec", "base", "true"],
        &["suspend", "base"],
        &["stop", "base"],
        &["run", "web"],
    ] {
        let (code, why) = fails(&server, args);
        assert!(code == 2 && why.starts_with("error: "), "{args:?}: {code} {why}");
    }
    for args in
        [&["pull", "ghcr.io/x/y:1"][..], &["clone", "ghcr.io/x/y:1", "z"], &["create", "x", "--from-ipsw", "latest"]]
    {
        let (code, why) = fails(&server, args);
        assert!(code == 1 && why.contains("not supported yet"), "{args:?}: {code} {why}");
    }
    for args in
        [&["frobnicate"][..], &["create", "x"], &["set", "base", "--cpu", "many"], &["run", "base", "--recovery"]]
    {
        assert_eq!(fails(&server, args).0, 64, "{args:?}");
    }
    assert!(ok(&server, &["--version"]).starts_with("tart "));
}
