//! Machines of the library: installed from a medium, run, cloned, suspended, deleted.

use crate::lab::{Lab, TIMEOUT, backend, free_port, path_from_env, stderr, wait};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::MetadataExt,
    process::Stdio,
};

fn machines(lab: &Lab) -> Vec<Value> {
    let list: Value = serde_json::from_str(&lab.ok(&["list", "--json"])).unwrap();
    list["machines"].as_array().unwrap().clone()
}

fn state(lab: &Lab, name: &str) -> String {
    let found = machines(lab).into_iter().find(|machine| machine["name"] == name);
    found.map_or_else(|| "absent".to_owned(), |machine| machine["state"].as_str().unwrap().to_owned())
}

fn console(lab: &Lab, name: &str) -> String {
    fs::read_to_string(lab.state().join("machines").join(name).join("console.log")).unwrap_or_default()
}

/// A machine that has installed itself from the medium.
fn installed(lab: &Lab, name: &str) {
    let medium = path_from_env("DVN_TEST_INSTALLER");
    let medium = medium.to_str().unwrap();
    lab.ok(&["create", name, "--from-iso", medium, "--disk-size", "1G", "--memory", "512M", "--cores", "1"]);
    lab.ok(&["start", name]);
    wait("the installation", || state(lab, name) == "stopped");
    assert!(console(lab, name).contains("installer: installed"), "{}", console(lab, name));
}

fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.").then_some(answer)
}

#[test]
fn a_machine_installs_itself_serves_is_cloned_and_leaves_nothing() {
    let lab = Lab::running("");
    installed(&lab, "base");
    let hardware = machines(&lab).remove(0)["hardware"].clone();
    assert_eq!((&hardware["medium"], &hardware["memory"]), (&Value::Null, &(512 << 20).into()), "{hardware}");

    if backend() != "vz" {
        // The port of the host leads to the server in the guest.
        let port = free_port();
        lab.ok(&["run", "base", "--detach", "--expose", &format!("{port}:8096"), "--wait-for", "port:8096"]);
        wait("the page", || page(port).is_some_and(|page| page.contains(" 200 ")));
        assert_eq!(lab.ok(&["ip", "base", "--wait", "60"]), "10.0.2.15\n");
        let png = lab.dir.path().join("screen.png");
        lab.ok(&["screenshot", "base", png.to_str().unwrap()]);
        assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    } else {
        lab.ok(&["run", "base", "--detach", "--wait-for", "agent"]);
    }

    // A command's output, its exit code, and its input.
    assert_eq!(lab.ok(&["exec", "base", "uname", "-s"]), "Linux\n");
    let failed = lab.cli(&["exec", "base", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((failed.status.code(), failed.stdout.as_slice()), (Some(7), &b"out\n"[..]));
    assert_eq!(stderr(&failed), "err\n");
    let mut cat =
        lab.program(&["exec", "-i", "base", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through and back").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through and back");

    // The same machine by Tart's command line.
    assert_eq!(lab.ok(&["tart", "exec", "base", "uname", "-s"]), "Linux\n");
    let listed: Value = serde_json::from_str(&lab.ok(&["tart", "list", "--format", "json"])).unwrap();
    assert_eq!((&listed[0]["Name"], &listed[0]["State"]), (&"base".into(), &"running".into()), "{listed}");
    assert!(lab.fails(&["tart", "run", "base"], 2).contains("runs already"));

    let refused = lab.fails(&["clone", "base", "one"], 8);
    assert!(refused.contains("it runs"), "{refused}");
    let stopped = lab.ok(&["stop", "base"]);
    assert!(stopped.contains("powered"), "{stopped}");

    // Two clones at once, each with an address of its own in its own network.
    for clone in ["one", "two"] {
        lab.ok(&["clone", "base", clone]);
    }
    for clone in ["one", "two"] {
        lab.ok(&["run", clone, "--detach", "--no-graphics", "--wait-for", "agent"]);
        lab.ok(&["exec", clone, "--", "sh", "-c", &format!("echo {clone} >/root-mark && sync")]);
    }
    for clone in ["one", "two"] {
        assert_eq!(lab.ok(&["exec", clone, "cat", "/root-mark"]), format!("{clone}\n"));
    }
    let macs: Vec<_> = machines(&lab).iter().map(|machine| machine["hardware"]["macAddress"].clone()).collect();
    assert!(macs[1] != macs[2], "{macs:?}");
    let refused = lab.fails(&["delete", "one"], 8);
    assert!(refused.contains("runs"), "{refused}");

    for name in ["one", "two"] {
        lab.ok(&["stop", name]);
    }
    lab.ok(&["delete", "base", "one", "two"]);
    assert_eq!(machines(&lab).len(), 1, "the builder alone");
    assert_eq!(fs::read_dir(lab.state().join("staging")).unwrap().count(), 0);
    let left: Vec<_> = fs::read_dir(lab.state().join("machines")).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["builder"]);
}

#[test]
fn a_suspended_machine_goes_on_where_it_was() {
    let lab = Lab::running("");
    installed(&lab, "base");
    lab.ok(&["run", "base", "--detach", "--wait-for", "agent"]);
    lab.ok(&["exec", "base", "--", "sh", "-c", "echo here >/run/in-memory"]);
    assert!(lab.ok(&["suspend", "base"]).contains("suspended"));
    assert_eq!(state(&lab, "base"), "suspended");
    let saved = fs::metadata(lab.state().join("machines/base/state.vzvmsave")).unwrap();
    assert_eq!(saved.mode() & 0o777, 0o600, "it holds the guest's memory");
    let refused = lab.fails(&["set", "base", "--cores", "2"], 8);
    assert!(refused.contains("suspended"), "{refused}");

    lab.ok(&["start", "base"]);
    wait("the agent", || lab.cli(&["exec", "base", "true"]).status.success());
    assert_eq!(lab.ok(&["exec", "base", "cat", "/run/in-memory"]), "here\n", "it did not boot anew");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let clock: u64 = lab.ok(&["exec", "base", "date", "+%s"]).trim().parse().unwrap();
    assert!(clock.abs_diff(now) <= 30, "its clock shows {clock}, and it is about {now}");
    lab.ok(&["stop", "base"]);
    lab.ok(&["delete", "base"]);
}
