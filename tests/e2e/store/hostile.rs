//! A hostile guest. The test acts as the guest on the socket where its connections to the gate arrive, with the token
//! that root in the guest can read.

use crate::{
    inputs::{add_text, build},
    lab::{Door, Lab, alive, stdout_of, wait},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

/// Higher than any operation number that Nix uses.
const OPERATIONS: u64 = 64;
const CONNECTIONS: usize = 10_000;

/// A client's part of the handshake: magic number, version 1.35, and two options that are off.
fn greeting() -> Vec<u8> {
    [0x6e69_7863_u64, 0x123, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The guest's part of the boot payload.
fn token(lab: &Lab) -> String {
    let initrd = fs::read(lab.machine().join("run/initrd")).unwrap();
    let key = b"\"token\":\"";
    let at = initrd.windows(key.len()).rposition(|window| window == key).unwrap() + key.len();
    String::from_utf8(initrd[at..at + 32].to_vec()).unwrap()
}

fn gate(lab: &Lab) -> PathBuf {
    lab.machine().join("run/vsock_1025")
}

/// A connection as the agent opens it.
fn connect(gate: &Path, token: &str) -> UnixStream {
    let mut stream = UnixStream::connect(gate).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    writeln!(stream, "{{\"token\":\"{token}\"}}").unwrap();
    stream
}

/// The whole answer of the gate, within a time limit.
fn answer(mut stream: UnixStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes); // it may have been closed
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("the gate neither answers nor closes"),
        _ => said,
    }
}

/// What must not change: every file of the host's store, and the content of its database.
fn host_store(lab: &Lab) -> (BTreeSet<PathBuf>, String) {
    let mut files = BTreeSet::new();
    let mut dirs = vec![lab.dir.path().join("host/nix/store")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            files.insert(entry.path());
        }
    }
    let infos = lab.host_nix("nix").args(["path-info", "--all", "--json"]).output().unwrap();
    (files, stdout_of(&infos, "path-info"))
}

#[test]
fn a_guest_cannot_change_the_hosts_store_nor_bring_the_daemon_down() {
    let lab = Lab::sharing("");
    let input = add_text(&lab, "input", "input\n");
    lab.ok(&["start"]);
    let (token, gate) = (token(&lab), gate(&lab));
    let before = host_store(&lab);

    // Nix itself, as root in the guest would use it.
    let door = lab.dir.path().join("door");
    let listener = UnixListener::bind(&door).unwrap();
    thread::spawn({
        let (gate, token) = (gate.clone(), token.clone());
        move || {
            for client in listener.incoming() {
                let (mut client, mut host) = (client.unwrap(), connect(&gate, &token));
                let (mut back, mut there) = (client.try_clone().unwrap(), host.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut client, &mut there));
                thread::spawn(move || {
                    let _ = std::io::copy(&mut host, &mut back);
                    back.shutdown(Shutdown::Both)
                });
            }
        }
    });
    let file = lab.dir.path().join("evil");
    fs::write(&file, "evil").unwrap();
    let file = file.to_str().unwrap();
    let store = format!("unix://{}?root={}", door.display(), lab.dir.path().join("evil-view").display());
    let nix = |words: &[&str]| -> Command {
        let mut nix = lab.host_nix(words[0]);
        nix.args(&words[1..]).args(["--store", &store]);
        nix
    };
    stdout_of(&nix(&["nix-store", "--check-validity", &input]).output().unwrap(), "a question");
    let attempts: [&[&str]; 9] = [
        &["nix", "store", "add", file],
        &["nix", "store", "delete", "--ignore-liveness", &input],
        &["nix", "store", "gc"],
        &["nix", "store", "optimise"],
        &["nix", "store", "repair", &input],
        &["nix", "build", "--impure", "--no-link", "--expr", &crate::lab::derivation("evil", "echo > $out")],
        &["nix-store", "--verify", "--repair"],
        &["nix-store", "--gc"],
        &["nix-store", "--delete", &input],
    ];
    for words in attempts {
        let output = nix(words).output().unwrap();
        let complaint = crate::lab::stderr(&output);
        assert!(!output.status.success() && complaint.contains("read-only"), "{words:?}: {complaint}");
    }

    // Every operation by its number, with a body that fits many; then bytes that are no operation.
    let text = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    for operation in 0..=OPERATIONS {
        for body in [text(&input), vec![0; 512], vec![0xff; 512]] {
            let bytes = [greeting(), operation.to_le_bytes().to_vec(), body.repeat(4)].concat();
            answer(connect(&gate, &token), &bytes);
        }
    }
    for length in 0..200 {
        let noise: Vec<u8> = (0..length * 7).map(|_| rand::random()).collect();
        answer(connect(&gate, &token), &noise);
        answer(connect(&gate, &token), &[greeting(), noise.clone()].concat());
        answer(UnixStream::connect(&gate).unwrap(), &noise);
    }
    thread::scope(|scope| {
        for worker in 0..8 {
            let (gate, token) = (&gate, &token);
            scope.spawn(move || {
                let mut open = Vec::new();
                for n in 0..CONNECTIONS / 8 {
                    // Some stay open, silent or in the middle of the handshake.
                    let Ok(mut stream) = UnixStream::connect(gate) else { continue };
                    if n % 2 == 0 {
                        let _ = writeln!(stream, "{{\"token\":\"{token}\"}}");
                        let _ = stream.write_all(&greeting()[..(n + worker) % 32]);
                    }
                    open.push(stream);
                    if open.len() > 40 {
                        open.remove(0);
                    }
                }
            });
        }
    });

    // Connections in the middle of the handshake end only after a while, and a full gate accepts no others.
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", lab.daemon_pid())).unwrap().count();
    wait("the gate to be free again", || descriptors() < 60);
    assert_eq!(host_store(&lab), before);
    assert!(alive(lab.daemon_pid()) && lab.is("running"));
    assert_eq!(build(&lab, Door::Direct, "as-ever", std::slice::from_ref(&input), "cat $inputs >$out"), "input\n");
    assert_eq!(lab.status()["store"]["sharing"], "on");
}
