//! With a QEMU that speaks only the monitor's protocol, and writes its memory where it is told.

use super::*;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Answers commands, and saves `memory` when asked. Returns the commands.
async fn qemu(stream: DuplexStream, running: bool) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
    let mut commands = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            return commands;
        }
        let asked: Value = serde_json::from_str(&line).unwrap();
        let command = asked["execute"].as_str().unwrap().to_owned();
        let answer = json!({ "return": { "running": running } });
        stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        if command == "migrate" {
            let socket = asked["arguments"]["uri"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
            spawn_blocking(move || send_memory(&socket)).await.unwrap();
            let event = json!({ "event": "MIGRATION", "data": { "status": "completed" } });
            stream.write_all(format!("{event}\n").as_bytes()).await.unwrap();
        }
        commands.push(command);
    }
}

/// Returns when it was read.
fn send_memory(socket: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"memory").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

async fn monitor(running: bool) -> (Qmp, JoinHandle<Vec<String>>) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let qemu = tokio::spawn(qemu(theirs, running));
    (Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap(), qemu)
}

/// A daemon that ends now, and QEMU with it, leaves a whole state.
#[tokio::test]
async fn a_state_is_complete_before_qemu_may_end() {
    let tmp = tempfile::tempdir().unwrap();
    let (socket, state) = (tmp.path().join("socket"), tmp.path().join("state"));
    let (qmp, qemu) = monitor(true).await;
    let now = || Facts::from([("disk".to_owned(), "as it is".to_owned())]);
    save(&qmp, &socket, state.clone(), move || Ok(now())).await.unwrap();
    assert_eq!(fs::read(&state).unwrap(), b"memory");
    saved::check(&state, &now()).unwrap();
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2, "the state and its record");
    drop(qmp);
    let commands = qemu.await.unwrap();
    assert_eq!(commands.last().unwrap(), "migrate", "it is still paused: {commands:?}");
}

#[tokio::test]
async fn a_guest_whose_state_cannot_be_completed_goes_on() {
    for running in [true, false] {
        let tmp = tempfile::tempdir().unwrap();
        let (socket, state) = (tmp.path().join("socket"), tmp.path().join("state"));
        let (qmp, qemu) = monitor(running).await;
        let no_facts = || Err(Report::new(Kind::State, "cannot look at disk.img"));
        let refusal = save(&qmp, &socket, state, no_facts).await.unwrap_err();
        assert_eq!(refusal.message, "cannot look at disk.img");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0, "nothing is left");
        drop(qmp);
        let commands = qemu.await.unwrap();
        assert_eq!(commands.last().unwrap(), if running { "cont" } else { "migrate" }, "{commands:?}");
    }
}

#[tokio::test]
async fn a_second_call_leaves_the_first_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let (socket, partial) = (tmp.path().join("socket"), tmp.path().join("state.partial"));
    let _first = UnixListener::bind(&socket).unwrap();
    fs::write(&partial, "half").unwrap();
    let (qmp, _qemu) = monitor(true).await;
    let refusal = save(&qmp, &socket, tmp.path().join("state"), || Ok(Facts::new())).await.unwrap_err();
    assert!(refusal.message.contains("already"), "{refusal}");
    assert!(partial.exists() && socket.exists());
}
