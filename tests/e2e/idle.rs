//! What keeps a guest and what doesn't, besides connections in use.

use crate::lab::{Lab, derivation, wait};
use std::process::Stdio;

/// The idle time of these guests, in seconds.
const IDLE: u64 = 2;

#[test]
fn a_build_without_a_connection_keeps_the_vm_and_its_result() {
    let lab = Lab::running(&format!("idle-timeout = \"{IDLE}s\""));
    // Started by a client in the guest itself; the session that started it ends as soon as it runs.
    let build = derivation("long", "sleep 8; echo done > $out");
    // Until then it must not be silent for the idle time, which each of these commands may take on a busy computer.
    let out = lab.ssh(&format!(
        "while :; do echo . >&2; sleep 1; done & ticks=$!; \
         echo '{build}' >long.nix; nix-store -q --outputs $(nix-instantiate long.nix); nix-build long.nix --no-out-link </dev/null >log 2>&1 & \
         until ps | grep -q ' nixbld[0-9]* *sleep 8'; do sleep 1; done; kill $ticks"
    ));
    wait("the connection to end, and the build to keep the VM alone", || {
        let status = lab.status();
        assert_eq!(status["state"], "running", "{status}");
        status["leases"] == 0 && status["builds"] == 1
    });
    assert!(lab.ok(&["status"]).contains("builder: a build continues without a connection"));
    lab.await_state("stopped");
    assert_eq!((lab.boots(), lab.status()["lastExit"].as_str()), (1, Some("powered-off")));
    assert_eq!(lab.ssh(&format!("cat {}", out.trim())).trim(), "done", "it stopped after the build, not in it");
}

#[test]
fn an_open_connection_on_which_nothing_moves_does_not_keep_the_vm() {
    let lab = Lab::running(&format!("idle-timeout = \"{IDLE}s\""));
    let mut silent = lab.program(&["ssh", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    lab.await_state("running");
    lab.await_state("stopped");
    assert!(!silent.wait().unwrap().success(), "it learns that the guest has gone");
    assert_eq!((lab.boots(), lab.status()["lastExit"].as_str()), (1, Some("powered-off")));
}
