//! The gate to the host's store. The input is everything that a hostile guest sends on one connection, after the token.
//! The target sends the token itself, unless the input begins with `{` and so tries to pass without it.
//!
//! The host's daemon is that of the gate's own tests. It has three paths: `a` refers to `b`, and `f` contains a file
//! whose name the case hack has changed, so that no guest may use it.
//!
//! * The daemon receives only queries and roots, for valid paths, each held before it is described.
//! * The connection ends when the guest's end does, and the answers are not much longer than the requests.
//! * No answer says that `f` is valid; a path that a guest knows is in `store-ledger`; the next guest is served.
//! * Without the token the gate answers nothing, and does not call the daemon.

#![no_main]

use daemon::{Daemon, World};
use darwin_vz_nix_fuzz::{SECRET, in_real_time};
use dvn_hypervisor::{GuestListener, GuestStream};
use dvn_nix::{HostStore, Limits, StoreSettings};
use libfuzzer_sys::fuzz_target;
use path::{StorePath, is_hash_part};
use std::{collections::BTreeSet, fs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use wire::{CLIENT_MAGIC, Encoder, message};

#[path = "../../rust/nix/src/tests/daemon.rs"]
#[allow(dead_code, reason = "the gate's tests use more of it")]
mod daemon;
#[path = "../../rust/nix/src/path.rs"]
#[allow(dead_code, reason = "the target uses a part of it")]
mod path;
#[path = "../../rust/nix/src/wire.rs"]
#[allow(dead_code, reason = "the target uses a part of it")]
mod wire;

fuzz_target!(|data: &[u8]| in_real_time(besiege(data)));

/// Queries, and holding a path.
const HARMLESS: [u64; 6] = [6, 11, 26, 29, 33, 41];

const STORE: &str = "/nix/store";

fn named(letter: char) -> StorePath {
    StorePath::from_name(&format!("{}-{letter}", letter.to_string().repeat(32))).expect("a path")
}

/// A hash that a guest can know only from a description by the gate.
fn hash(letter: char) -> String {
    format!("sha256:0f7f3c55a1b2{letter}")
}

async fn besiege(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::start(dir.path());
    for (letter, references) in [('a', "b"), ('b', ""), ('f', "")] {
        fs::create_dir_all(dir.path().join("store").join(named(letter).name())).expect("a directory");
        let info = (hash(letter), references.chars().map(named).collect());
        daemon.world.lock().expect("the world").paths.insert(named(letter), info);
    }
    fs::write(dir.path().join("store").join(named('f').name()).join("A~nix~case~hack~1"), "").expect("a file");
    let gate = HostStore::new(StoreSettings {
        daemon_socket: daemon.socket.clone(),
        store_dir: dir.path().join("store"),
        logical_dir: STORE.into(),
        state_dir: dir.path().to_owned(),
        limits: Limits { rate: u32::MAX, ..Limits::default() },
    })
    .expect("a gate");
    let (dial, incoming) = mpsc::channel::<GuestStream>(1);
    let serving = tokio::spawn({
        let gate = gate.clone();
        async move { gate.serve(GuestListener::new(incoming, None), SECRET.to_owned()).await }
    });

    let known = data.first() != Some(&b'{');
    let back = say(&dial, known, data).await;
    if !known {
        assert!(back.is_empty() && daemon.world.lock().expect("the world").asked.is_empty(), "the token was guessed");
    }
    assert!(back.len() < 4096 + 64 * data.len(), "{} bytes in answer to {}", back.len(), data.len());
    let known: BTreeSet<String> = gate.trusted_paths().into_iter().collect();
    for letter in ['a', 'b', 'f'] {
        let has = |bytes: &[u8]| bytes.windows(hash(letter).len()).any(|part| part == hash(letter).as_bytes());
        // An error repeats what the guest itself has sent.
        let knows = has(&back) && !has(data);
        let noted = known.contains(&named(letter).within(STORE));
        assert!(!knows || noted, "the guest knows of {letter}, and store-ledger does not");
        assert!(letter != 'f' || !knows && !noted, "the guest knows of {letter}");
    }
    assert_harmless(&daemon.world.lock().expect("the world"));

    // The questions: is `b` valid, describe `f`, is `f` valid?
    let ask = |number: u64, letter| Encoder::default().number(number).bytes(named(letter).within(STORE).as_bytes());
    let asked = [hello().as_slice(), ask(1, 'b').as_slice(), ask(26, 'f').as_slice(), ask(1, 'f').as_slice()].concat();
    let back = say(&dial, true, &asked).await;
    let no = Encoder::default().number(message::LAST).number(0);
    let answers = Encoder::default().number(message::LAST).number(1);
    let answers = [answers.as_slice(), no.as_slice(), no.as_slice()].concat();
    assert!(back.ends_with(&answers), "the next guest is not served as it should be: {back:?}");
    drop(dial);
    serving.await.expect("the gate ends with its guest");
}

/// The greeting of a client, in one go.
fn hello() -> Encoder {
    Encoder::default().number(CLIENT_MAGIC).number(1 << 8 | 35).number(0).number(0)
}

/// Sends these bytes and reads the answers to the end.
async fn say(dial: &mpsc::Sender<GuestStream>, known: bool, bytes: &[u8]) -> Vec<u8> {
    let (guest, host) = tokio::io::duplex(64 * 1024);
    dial.send(Box::new(host)).await.unwrap_or_else(|_| panic!("the gate is gone"));
    let (mut from, mut to) = tokio::io::split(guest);
    let saying = async {
        if known {
            let _ = to.write_all(format!("{{\"token\":\"{SECRET}\"}}\n").as_bytes()).await;
        }
        // The gate may have closed the connection.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut back = Vec::new();
    let ((), _) = tokio::join!(saying, from.read_to_end(&mut back));
    back
}

fn assert_harmless(world: &World) {
    for (_, operation, argument) in &world.asked {
        assert!(HARMLESS.contains(operation), "the daemon was asked for {operation}");
        let is_path = StorePath::parse(STORE, argument.as_bytes()).is_ok();
        assert!(is_path || *operation == 29 && is_hash_part(argument), "{operation} of {argument:?}");
    }
    world.assert_held_before_asked();
}
