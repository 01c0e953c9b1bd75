//! What the vsock device of a running guest must support: thousands of connections, and clients that give up.

use crate::lab::{Lab, TIMEOUT, backend, kill, wait};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Connections of one boot; `DVN_TEST_CONNECTIONS` sets another number.
const CONNECTIONS: u32 = 3000;

/// The share of them that goes through sshd: each starts a process in the guest, which is slow without KVM.
const SSH_IS_ONE_IN: u32 = 50;

/// The number of concurrent attempts.
const AT_ONCE: u32 = 4;

/// The start of the worker protocol's handshake: its magic numbers, of the client and of the daemon.
const CLIENT: u64 = 0x6e69_7863;
const DAEMON: u64 = 0x6478_696f;

/// A connection through the ssh door that has received sshd's banner.
fn ssh(lab: &Lab) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", lab.port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut banner = [0; 8];
    stream.read_exact(&mut banner)?;
    assert_eq!(&banner, b"SSH-2.0-", "{}", String::from_utf8_lossy(&banner));
    Ok(stream)
}

/// A connection through the direct door on which nix-daemon has answered.
fn direct(lab: &Lab) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(lab.state().join("api.sock"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let path = "/v1/machines/builder/connect/nix";
    let head = "Host: localhost\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream";
    write!(stream, "GET {path} HTTP/1.1\r\n{head}\r\n\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while line != "\r\n" {
        let first = std::mem::take(&mut line).is_empty();
        reader.read_line(&mut line)?;
        assert!(!first || line.starts_with("HTTP/1.1 101 "), "{line}");
    }
    stream.write_all(&CLIENT.to_le_bytes())?;
    let mut answer = [0; 8];
    reader.read_exact(&mut answer)?;
    assert_eq!(u64::from_le_bytes(answer), DAEMON);
    Ok(stream)
}

/// Open descriptors and resident memory in KiB of a process.
fn weight(pid: u32) -> (usize, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (descriptors, resident.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn one_boot_takes_thousands_of_connections_through_both_doors() {
    let many = std::env::var("DVN_TEST_CONNECTIONS").map_or(CONNECTIONS, |many| many.parse().unwrap());
    let lab = Lab::running("cores = 2");
    drop(ssh(&lab).unwrap());
    drop(direct(&lab).unwrap());
    let processes = || [("daemon", lab.daemon_pid()), ("vhost-device-vsock", lab.children("vhost-device-vsock")[0])];
    let quiet = || {
        wait("all leases to end", || lab.leases() == 0);
        processes().map(|(name, pid)| (name, weight(pid)))
    };
    let before = quiet();
    let (next, began) = (AtomicU32::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match number {
                        number if number >= many => return,
                        number if number % SSH_IS_ONE_IN == 0 => {
                            drop(ssh(&lab).unwrap_or_else(|e| panic!("ssh {number}: {e}")))
                        }
                        number => drop(direct(&lab).unwrap_or_else(|e| panic!("direct {number}: {e}"))),
                    }
                }
            });
        }
    });
    assert_eq!(lab.boots(), 1);
    println!("{many} connections in {:?}; before: {before:?}; after: {:?}", began.elapsed(), quiet());
    for (number, (name, (descriptors, _))) in before.into_iter().enumerate() {
        wait(&format!("{name} to give its descriptors back"), || quiet()[number].1.0 <= descriptors);
    }
    drop(direct(&lab).unwrap());
}

/// Clients on both doors that give up after this time, while the guest is halted.
fn clients_give_up(lab: &Lab, after: Duration) {
    let mut ssh = TcpStream::connect(("127.0.0.1", lab.port)).unwrap();
    let mut direct = UnixStream::connect(lab.state().join("api.sock")).unwrap();
    let path = "/v1/machines/builder/connect/nix";
    write!(
        direct,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream\r\n\r\n"
    )
    .unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            ssh.set_read_timeout(Some(after)).unwrap();
            let _ = ssh.read(&mut [0]);
        });
        scope.spawn(|| {
            direct.set_read_timeout(Some(after)).unwrap();
            let _ = direct.read(&mut [0]);
        });
    });
}

#[test]
fn a_guest_that_runs_again_after_clients_gave_up_takes_connections_again() {
    let lab = Lab::running("");
    drop(ssh(&lab).unwrap());
    wait("the warm connections", || lab.leases() == 0);
    let qemu = lab.qemu();
    kill(qemu, "STOP");
    // Longer than the backend waits for the guest's kernel (10 s; the stand-in of Virtualization 2 s), and shorter than
    // the daemon takes to kill the guest, which is 10 s more.
    clients_give_up(&lab, Duration::from_secs(if backend() == "vz" { 6 } else { 12 }));
    kill(qemu, "CONT");
    for _ in 0..10 {
        drop(ssh(&lab).unwrap());
        drop(direct(&lab).unwrap());
    }
    assert_eq!(lab.boots(), 1, "the same guest");
}

#[test]
fn a_halted_guest_is_replaced_by_the_client_that_notices() {
    let lab = Lab::running("hang-timeout = \"1h\"");
    drop(ssh(&lab).unwrap());
    kill(lab.qemu(), "STOP");
    let began = Instant::now();
    drop(ssh(&lab).unwrap());
    drop(direct(&lab).unwrap());
    assert_eq!(lab.boots(), 2);
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
}
