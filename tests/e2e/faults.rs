//! Guests, helpers and daemons that fail: each failure is an event with a reason, and leaves nothing behind.

use crate::lab::{Door, Lab, alive, backend, bundle_like, kill, stdout_of, wait};
use std::fs;

#[test]
fn a_kernel_panic_is_reported_with_its_last_output_and_backs_off() {
    let tmp = tempfile::tempdir().unwrap();
    let bundle = bundle_like(tmp.path(), |json| {
        let cmdline = json["cmdline"].as_str().unwrap().replace("quiet", "");
        json["cmdline"] = format!("{cmdline} rdinit=/nonexistent root=/dev/none").into();
    });
    let lab = Lab::running(&format!("bundle = {bundle:?}"));
    let error = lab.fails(&["start"], 7);
    assert!(error.contains("panic") && error.contains("darwin-vz-nix logs --console"), "{error}");
    assert!(lab.is("failed"));
    lab.fails(&["start"], 7);
    let boots = lab.boots();
    let error = lab.fails(&["connect", "--service", "ssh"], 7);
    assert!(error.contains("panic"), "{error}");
    assert_eq!(lab.boots(), boots, "within the back-off nothing boots");
    // The console of `vz` is a virtio device, whose driver is a module that this guest did not load.
    if backend() != "vz" {
        assert!(lab.ok(&["logs", "--console"]).contains("Kernel panic"));
    }
}

#[test]
fn a_guest_that_never_gets_ready_is_given_up_with_what_was_seen_last() {
    let tmp = tempfile::tempdir().unwrap();
    let bundle =
        bundle_like(tmp.path(), |json| json["cmdline"] = json["cmdline"].as_str().unwrap().replace("quiet", "").into());
    let lab = Lab::running(&format!("bundle = {bundle:?}\nboot-timeout = \"1500ms\""));
    let error = lab.fails(&["start"], 7);
    assert!(error.contains("not ready within 1s 500ms"), "{error}");
    // As above: the console of `vz` may still be empty.
    let silent = backend() == "vz" && error.contains("nothing was seen on its console");
    assert!(silent || error.contains("the console said last: "), "{error}");
    wait("QEMU to be gone", || lab.children("vhost-device-vsock").is_empty());
}

#[test]
fn each_helpers_end_is_the_guests_end() {
    let lab = Lab::running(&format!("share-store = true\nstore-dir = {:?}", std::env::temp_dir()));
    for helper in ["vhost-device-vsock", "virtiofsd"] {
        lab.ok(&["start"]);
        kill(lab.children(helper)[0], "KILL");
        lab.await_state("stopped");
        let exit = lab.status()["lastExit"].as_str().unwrap().to_owned();
        assert!(exit.starts_with("crashed: ") && exit.contains(helper), "{exit}");
        assert!(lab.children("qemu-system-x86_64").is_empty());
    }
    lab.ok(&["start"]);
}

#[test]
fn a_frozen_guest_does_not_hold_its_clients_for_ever() {
    let lab = Lab::running("hang-timeout = 4");
    let mut build = lab.build(Door::Direct, "frozen", "echo started; while :; do sleep 1; done").spawn().unwrap();
    lab.await_state("running");
    wait("the build to run", || lab.ssh("ps | grep -c '[s]leep 1' || true").trim() != "0");
    kill(lab.qemu(), "STOP");
    assert!(!build.wait().unwrap().success());
    stdout_of(&lab.build(Door::Direct, "next", "echo done > $out").output().unwrap(), "the next build");
    assert_eq!(lab.boots(), 2);
}

#[test]
fn a_killed_daemon_takes_its_children_along_and_the_next_one_recovers() {
    let mut lab = Lab::running("");
    lab.ok(&["start"]);
    lab.ssh("echo kept > /tmp/x");
    let (qemu, helper) = (lab.qemu(), lab.children("vhost-device-vsock")[0]);
    lab.kill_daemon();
    wait("the children to die", || !alive(qemu) && !alive(helper));
    assert!(lab.state().join("api.sock").exists(), "the dead daemon left its socket");

    lab.run_daemon();
    assert!(lab.is("stopped"));
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "rebuilt");
}

#[test]
fn an_orphan_of_an_earlier_daemon_is_ended_before_the_next_boot() {
    let lab = Lab::running("");
    let run = lab.machine().join("run");
    fs::create_dir_all(&run).unwrap();
    let program = which("vhost-device-vsock");
    let mut orphan = std::process::Command::new(program)
        .args(["--guest-cid", "9", "--socket"])
        .arg(run.join("vhost-vsock"))
        .arg("--uds-path")
        .arg(run.join("vsock"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait("the orphan's socket", || run.join("vhost-vsock").exists());
    lab.ok(&["start"]);
    assert!(!orphan.wait().unwrap().success());
}

fn which(program: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists()).unwrap()
}
