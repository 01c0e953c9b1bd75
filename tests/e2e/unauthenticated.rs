//! Other users of the computer at the ssh door, without a key.

use crate::lab::{Lab, stdout_of, wait};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Time for the owner's session. The guest is emulated, and meanwhile boots or starts servers for the other
/// connections.
const SOON: Duration = Duration::from_secs(100);

/// Connections of a separate process that send this and then stay silent, until dropped.
struct Crowd(Child);

impl Crowd {
    fn of(size: usize, first_words: &str, port: u16) -> Crowd {
        let script = r#"
            ulimit -n 4096
            for n in $(seq "$1"); do exec {fd}<>"/dev/tcp/127.0.0.1/$2" && printf "$3" >&"$fd"; done 2>/dev/null
            echo there
            read -r _
        "#;
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "crowd", &size.to_string(), &port.to_string(), first_words]);
        let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        Crowd(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// ssh as a user runs it, with the output of `nix-config`, through the door.
fn ssh(lab: &Lab, script: &str) -> Command {
    let [config, known_hosts] = ["ssh_config", "known_hosts"].map(|name| lab.dir.path().join(name));
    fs::write(&config, lab.ok(&["nix-config", "--only", "ssh"])).unwrap();
    fs::write(&known_hosts, lab.ok(&["nix-config", "--only", "known-hosts"])).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.env_clear().env("PATH", &lab.path).env("HOME", lab.dir.path()).stdin(Stdio::null());
    ssh.arg("-F").arg(config).arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.args(["-o", "ConnectTimeout=120", "darwin-vz-builder", script]);
    ssh
}

fn owner_can_log_in(lab: &Lab, among: &str) {
    let begun = Instant::now();
    let output = ssh(lab, "echo in").output().unwrap();
    assert_eq!(stdout_of(&output, among), "in\n");
    assert!(begun.elapsed() < SOON, "{among}: {:?}", begun.elapsed());
}

#[test]
fn a_crowd_without_a_key_neither_prevents_a_login_nor_ends_a_session() {
    let lab = Lab::running("cores = 2");
    let crowd = Crowd::of(600, "", lab.port);
    owner_can_log_in(&lab, "a silent crowd, from before the boot on");
    assert_eq!(lab.boots(), 1);

    let mut session = ssh(&lab, "echo here; cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(session.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "here");
    drop(crowd);
    let crowds = [Crowd::of(600, "", lab.port), Crowd::of(200, r"SSH-2.0-nobody\r\n", lab.port)];
    owner_can_log_in(&lab, "a silent crowd and one that begins a handshake");
    session.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "still here");
    assert!(session.wait().unwrap().success());
    drop(crowds);
    wait("all leases to end", || lab.leases() == 0);
}
