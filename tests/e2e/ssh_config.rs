//! A user's ssh configuration after the machine's block, in a real build: `tests/cli/ssh_block.rs` checks each option.

use crate::lab::{Door, Lab, free_port, stdout_of, wait};
use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// An ssh agent with eight keys, more than the guest's sshd accepts attempts.
struct Agent(Child);

impl Agent {
    /// Starts one; the key files are for `IdentityFile`.
    fn with_keys(lab: &Lab) -> (Agent, String) {
        let socket = lab.dir.path().join("agent");
        let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Agent(agent);
        wait("the agent", || socket.exists());
        let mut named = String::new();
        for number in 0..8 {
            let key = lab.dir.path().join(format!("key-{number}"));
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
            assert!(made.unwrap().success());
            let added = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status();
            assert!(added.unwrap().success());
            named.push_str(&format!("  IdentityFile {}\n", key.display()));
        }
        (agent, named)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_cold_build_comes_through_whatever_another_block_says() {
    let lab = Lab::running("");
    let (_agent, keys) = Agent::with_keys(&lab);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let hostile = format!(
        "Host *\n{keys}  IdentityAgent {}\n  RequestTTY force\n  ControlMaster yes\n  ControlPath {}/%C\n  ControlPersist yes\n  \
         RemoteCommand cat\n  SessionType none\n  StdinNull yes\n  ForkAfterAuthentication yes\n  ProxyJump nowhere.invalid\n  \
         ProxyCommand false\n  AddressFamily inet6\n  BindAddress 192.0.2.77\n  PubkeyAuthentication no\n  \
         PreferredAuthentications password\n  Ciphers aes128-cbc\n  KexAlgorithms diffie-hellman-group14-sha1\n  MACs hmac-sha1\n  \
         ConnectTimeout 1\n  ServerAliveInterval 1\n  ServerAliveCountMax 1\n  ExitOnForwardFailure yes\n  \
         LocalForward {} localhost:{}\n  RevokedHostKeys /none\n  KnownHostsCommand /bin/false\n  CanonicalizeHostname always\n  \
         Tunnel yes\n  RekeyLimit 1K 1s\n",
        lab.dir.path().join("agent").display(),
        lab.dir.path().display(),
        taken.local_addr().unwrap().port(),
        free_port(),
    );
    let build = lab.build(Door::Ssh, "hostile", "echo through >$out");
    let config = lab.dir.path().join("ssh_config");
    let block = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{block}{hostile}")).unwrap();
    assert!(lab.is("stopped"), "the guest is to boot meanwhile");
    // A hang is also a failure.
    let mut bounded = Command::new("timeout");
    bounded.arg("110").arg(build.get_program()).args(build.get_args()).env_clear();
    bounded.envs(build.get_envs().filter_map(|(key, value)| Some((key, value?))));
    bounded.env("SSH_AUTH_SOCK", lab.dir.path().join("agent")).stdin(Stdio::null());
    let path = stdout_of(&bounded.output().unwrap(), "a build through ssh");
    assert_eq!(fs::read_to_string(lab.result(&path)).unwrap(), "through\n");
    assert_eq!(lab.boots(), 1);
}
