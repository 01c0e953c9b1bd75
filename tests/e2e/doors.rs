//! The doors to a guest: ssh and direct, one connection and many.

use crate::lab::{Door, Lab, derivation, kill, stderr, stdout_of, wait};
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, SystemTime},
};

fn connect(lab: &Lab) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", lab.port)).unwrap();
    stream.set_read_timeout(Some(crate::lab::TIMEOUT)).unwrap();
    stream
}

fn banner(stream: &mut TcpStream) -> String {
    let mut text = [0; 8];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn ssh_starts_a_stopped_vm_and_trusts_only_the_pinned_key() {
    let lab = Lab::running("");
    let seen = lab.ssh("id -un; hostname; cat /proc/sys/kernel/osrelease; sudo -n true 2>/dev/null && echo sudo; true");
    let mut lines = seen.lines();
    assert_eq!((lines.next(), lines.next()), (Some("builder"), Some("darwin-vz-builder")), "{seen}");
    assert!(!seen.contains("sudo"), "{seen}");
    assert_eq!(lab.cli(&["ssh", "--", "exit 42"]).status.code(), Some(42), "the exit code is the command's");

    let pinned = fs::read_to_string(lab.machine().join("known_hosts")).unwrap();
    let other = "darwin-vz-builder ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n";
    fs::write(lab.machine().join("known_hosts"), other).unwrap();
    let refused = lab.cli(&["ssh", "--", "true"]);
    assert!(
        !refused.status.success() && stderr(&refused).contains("REMOTE HOST IDENTIFICATION HAS CHANGED"),
        "{}",
        stderr(&refused)
    );
    fs::write(lab.machine().join("known_hosts"), pinned).unwrap();
    lab.ssh("true");
}

#[test]
fn only_root_in_the_guest_can_read_the_keys_or_pose_as_the_agent() {
    let lab = Lab::running("");
    let look = "for f in /run/darwin-vz /run/darwin-vz/* /darwin-vz /darwin-vz/*; do cat $f 2>/dev/null | grep -l -e PRIVATE -e token; done; true";
    assert_eq!(lab.ssh(look).trim(), "");
    assert!(!lab.ssh("cat /proc/cmdline; env").contains("token"));
}

#[test]
fn a_cold_start_holds_every_connection_and_two_hundred_at_once_get_their_banner() {
    let lab = Lab::running("cores = 2");
    let mut early: Vec<_> = (0..20).map(|_| connect(&lab)).collect();
    for stream in &mut early {
        assert_eq!(banner(stream), "SSH-2.0-");
    }
    drop(early);
    assert_eq!(lab.boots(), 1);
    let mut crowd: Vec<_> = (0..200).map(|_| connect(&lab)).collect();
    for stream in &mut crowd {
        assert_eq!(banner(stream), "SSH-2.0-");
    }
    drop(crowd);
    wait("all leases to end", || lab.leases() == 0);

    let descriptors = || fs::read_dir(format!("/proc/{}/fd", lab.daemon_pid())).unwrap().count();
    let in_guest = || lab.ssh("ps | grep -c '[s]shd'").trim().parse::<i64>().unwrap();
    wait("the guest to end its side", || in_guest() < 12);
    let before = descriptors();
    for _ in 0..60 {
        let mut stream = connect(&lab);
        assert_eq!(banner(&mut stream), "SSH-2.0-");
    }
    wait("all leases to end", || lab.leases() == 0);
    wait("descriptors to be given back", || descriptors() <= before);
    wait("the guest to end its side", || in_guest() < 12);
}

#[test]
fn an_end_of_input_reaches_the_guest_and_its_answer_comes_back() {
    let lab = Lab::running("");
    let mut ssh = lab.program(&["ssh", "--", "cat; echo done"]);
    let mut child = ssh.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let megabyte = megabyte.clone();
        move || stdin.write_all(&megabyte).unwrap()
    });
    let mut seen = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut seen).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(seen.len(), megabyte.len() + "done\n".len());

    // A bare TCP client that closes its half: the door closes the other one, and the lease ends.
    let mut stream = connect(&lab);
    banner(&mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    wait("the lease to end", || lab.leases() == 0);
}

#[test]
fn a_large_result_arrives_whole_through_both_doors() {
    let lab = Lab::running("");
    for (door, name) in [(Door::Direct, "large-direct"), (Door::Ssh, "large-ssh")] {
        let script = "head -c 12000000 /dev/urandom > $out; sha256sum $out";
        let output = lab.build(door, name, script).output().unwrap();
        let path = stdout_of(&output, name);
        let sum = stderr(&output).split_whitespace().find(|word| word.len() == 64).unwrap().to_owned();
        let file = lab.result(&path);
        let here = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
        assert!(String::from_utf8_lossy(&here.stdout).starts_with(&sum), "{door:?}");
    }
}

#[test]
fn a_guest_that_dies_ends_its_connections_with_an_error() {
    let lab = Lab::running("");
    let mut session = lab.program(&["ssh", "--", "echo here; sleep 600"]);
    let mut session = session.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut here = [0; 5];
    session.stdout.as_mut().unwrap().read_exact(&mut here).unwrap();
    kill(lab.qemu(), "KILL");
    let began = std::time::Instant::now();
    assert!(!session.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(20), "the client got the error at once, not by a timeout");
    lab.await_state("stopped");
}

#[test]
fn a_clock_that_the_guest_has_changed_is_right_for_the_next_connection() {
    let lab = Lab::running("");
    // Root in the guest, like its nix-daemon, which runs a program for a trusted user.
    lab.ssh("printf '#!/bin/sh\\ndate -s 2020-02-02\\n' >/tmp/change && chmod 755 /tmp/change");
    for door in [Door::Direct, Door::Ssh] {
        let build = derivation(&format!("before-{door:?}"), "echo >$out");
        lab.ssh(&format!("nix-build --no-out-link --option post-build-hook /tmp/change -E '{build}'"));
        let built =
            stdout_of(&lab.build(door, &format!("the-date-{door:?}"), "date +%s >$out").output().unwrap(), "a build");
        let there: u64 = fs::read_to_string(lab.result(&built)).unwrap().trim().parse().unwrap();
        let here = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(there.abs_diff(here) < 60, "{there} there and {here} here");
    }
}
