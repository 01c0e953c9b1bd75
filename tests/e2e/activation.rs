//! Sockets that a service manager opened before the daemon ran, handed over as systemd does it.

use crate::lab::{Lab, PATIENCE, wait};
use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

#[test]
fn a_connection_made_before_the_daemon_ran_is_answered_by_the_vm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut lab = Lab::new(&format!("listen = \"127.0.0.1:{port}\""));
    let mut early = TcpStream::connect(("127.0.0.1", port)).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();

    // The protocol wants the socket as descriptor 3 and the receiver's own process id in the environment.
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;
    let program = lab.program(&["run"]);
    let mut activated = Command::new("sh");
    activated.args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args());
    activated.env_clear().envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
    activated.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::null());
    lab.adopt(activated.spawn().unwrap());
    // It holds our copy of the socket.
    drop(activated);
    wait("the daemon to answer", || lab.cli(&["status"]).status.success());

    let mut banner = [0; 4];
    early.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-");
    assert_eq!(lab.boots(), 1);
    lab.end_daemon();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the daemon had the socket itself, and it is closed");
}
