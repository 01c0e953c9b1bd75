//! Sockets that a service manager opened before the daemon ran, handed over as systemd does it.

use crate::lab::{Lab, TIMEOUT, wait};
use std::{
    io::Read,
    net::{TcpListener, TcpStream},
};

#[test]
fn a_connection_made_before_the_daemon_ran_is_answered_by_the_vm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut lab = Lab::new(&format!("listen = \"127.0.0.1:{port}\""));
    let mut early = TcpStream::connect(("127.0.0.1", port)).unwrap();
    early.set_read_timeout(Some(TIMEOUT)).unwrap();

    lab.activate_daemon(listener);
    wait("the daemon to answer", || lab.cli(&["status"]).status.success());

    let mut banner = [0; 4];
    early.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-");
    assert_eq!(lab.boots(), 1);
    lab.end_daemon();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the daemon had the socket itself, and it is closed");
}
