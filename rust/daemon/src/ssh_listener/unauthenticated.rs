//! The door with many clients that never log in: they do not keep out one that does.

use super::{
    dialogue::ANSWERS,
    door::Bounds,
    listener_tests::{Door, TIMEOUT, bounded_door},
};
use dvn_host::connection_slots::SlotLimits;
use dvn_hypervisor::sim::Script;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// The limits of a small door: its clients share the descriptors of this process with other tests.
const ROOM: SlotLimits = SlotLimits { unauthenticated: 16, all: 32, stay: Duration::from_secs(10) };

/// More clients than that door has slots.
const CROWD: usize = 40;

async fn small_door(script: Script) -> Door {
    bounded_door(script, None, Bounds { room: ROOM, ..Bounds::default() }).await
}

async fn said(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(TIMEOUT, stream.read_exact(&mut back)).await.expect("an answer").expect("it is open");
    assert_eq!(back, text);
}

/// A client that has gone through a handshake.
async fn session(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..ANSWERS {
        said(&mut stream, b"step").await;
    }
    stream
}

/// Clients that send this text and then nothing more.
async fn crowd(door: &Door, first_words: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(first_words).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

async fn lives(stream: &mut TcpStream) {
    said(stream, b"still here").await;
}

#[tokio::test]
async fn a_silent_crowd_keeps_no_login_out_and_evicts_no_session() {
    let door = small_door(Script::default()).await;
    let mut before = session(door.address).await;
    let crowd = crowd(&door, b"").await;
    let begun = Instant::now();
    let mut after = session(door.address).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    lives(&mut before).await;
    lives(&mut after).await;
    drop(crowd);
}

#[tokio::test]
async fn a_silent_crowd_before_the_boot_keeps_no_login_out_either() {
    let door = small_door(Script { boot: Duration::from_secs(2), ..Script::default() }).await;
    let crowd = crowd(&door, b"").await;
    lives(&mut session(door.address).await).await;
    assert_eq!(door.sim.counters().boots.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(crowd);
}

#[tokio::test]
async fn a_silent_crowd_that_reconnects_all_the_time_keeps_no_login_out() {
    let door = small_door(Script::default()).await;
    let mut before = session(door.address).await;
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let address = door.address;
        crowd.spawn(async move {
            loop {
                // An evicted client connects again at once.
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let _ = stream.read(&mut [0]).await;
                }
            }
        });
    }
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        lives(&mut session(door.address).await).await;
    }
    lives(&mut before).await;
}

#[tokio::test]
async fn a_crowd_that_sends_something_and_never_logs_in_is_evicted_after_its_stay() {
    let room = SlotLimits { stay: Duration::from_secs(1), ..ROOM };
    let door = bounded_door(Script::default(), None, Bounds { room, ..Bounds::default() }).await;
    let mut before = session(door.address).await;
    let crowd = crowd(&door, b"SSH-2.0-nobody\r\n").await;
    lives(&mut session(door.address).await).await;
    lives(&mut before).await;
    drop(crowd);
}

#[tokio::test]
async fn a_client_that_never_logs_in_is_closed_in_time_and_no_session_is() {
    let login = Duration::from_secs(1);
    let door = bounded_door(Script::default(), None, Bounds { login, ..Bounds::default() }).await;
    let mut session = session(door.address).await;
    for first_words in [&b""[..], b"x"] {
        let mut stranger = TcpStream::connect(door.address).await.unwrap();
        stranger.write_all(first_words).await.unwrap();
        let mut rest = Vec::new();
        // A close with unread bytes comes as an error.
        let _ = timeout(TIMEOUT, stranger.read_to_end(&mut rest)).await.expect("it is closed");
        assert_eq!(rest, first_words, "the echo, and then the end");
    }
    lives(&mut session).await;
    assert_eq!(door.leases(), 1, "the guest is kept by the session alone");
    session.set_zero_linger().unwrap();
    drop(session);
    door.until_unused().await;
}
