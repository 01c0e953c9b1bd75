//! Signals to a daemon with a guest, and what its helpers inherit from the program that started it.

use crate::lab::{Lab, kill};
use rustix::io::{FdFlags, fcntl_setfd};
use std::{fs, os::fd::AsRawFd};

#[test]
fn no_signal_costs_the_guest_its_disk_but_those_of_a_crash() {
    let mut lab = Lab::running("");
    lab.ok(&["start"]);
    let guest = lab.qemu();
    for signal in
        ["PIPE", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU", "XFSZ", "TSTP", "TTIN", "TTOU", "PWR", "34"]
    {
        kill(lab.daemon_pid(), signal);
        assert!(lab.is("running"), "after SIG{signal}");
    }
    // As at the end of a service, a session or the computer: to every process, not only to the daemon.
    for signal in ["HUP", "INT", "QUIT", "TERM"] {
        for pid in lab.descendants(|_| true) {
            kill(pid, signal);
        }
        assert!(lab.is("running"), "after SIG{signal} to its processes");
    }
    assert_eq!(lab.ssh("echo there"), "there\n");
    assert_eq!((lab.qemu(), lab.boots()), (guest, 1));
    // As when a terminal is closed.
    lab.end_daemon_by("HUP");
    assert!(lab.children("vhost-device-vsock").is_empty());
    lab.run_daemon();
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept");
    lab.end_daemon_by("QUIT");
    lab.run_daemon();
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept");
}

/// QEMU and its helpers, and the program that keeps the host awake, of a daemon in the foreground and of one that
/// `start` launched.
#[test]
fn no_helper_has_a_descriptor_of_the_script_that_started_the_daemon() {
    let tools = tempfile::tempdir().unwrap();
    let awake = tools.path().join("systemd-inhibit");
    fs::write(&awake, "#!/bin/sh\nexec cat\n").unwrap();
    fs::set_permissions(&awake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for launched in [false, true] {
        let mut lab = Lab::new(&format!("share-store = true\nstore-dir = {:?}", std::env::temp_dir()));
        lab.path = format!("{}:{}", tools.path().display(), lab.path);
        let held = fs::File::create(lab.dir.path().join("held-by-a-script")).unwrap();
        held.lock().unwrap();
        fcntl_setfd(&held, FdFlags::empty()).unwrap();
        let target = fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        if !launched {
            lab.run_daemon();
        }
        lab.ok(&["start"]);
        // In use, so that the host is kept awake.
        let mut shell = lab.program(&["ssh", "--", "sleep 600"]).spawn().unwrap();
        crate::lab::wait("the host to be held awake", || !lab.descendants(|name| name == "cat").is_empty());
        let status: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--json"])).unwrap();
        let daemon = u32::try_from(status["pid"].as_u64().unwrap()).unwrap();
        let family = lab.descendants(|_| true);
        assert!(family.len() >= 4, "QEMU, vsock, virtiofsd and what holds the host awake: {family:?}");
        for pid in family.into_iter().chain([daemon]) {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let has = fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == target));
            assert!(!has, "{line:?} has it");
        }
        let _ = shell.kill();
        let _ = shell.wait();
        lab.ok(&["stop", "--daemon"]);
        drop(held);
        let free = || fs::File::open(&target).unwrap().try_lock().is_ok();
        crate::lab::wait("the lock to be free", free);
    }
}
