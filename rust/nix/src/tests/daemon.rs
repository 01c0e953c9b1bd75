//! A fake Nix daemon for these tests: it speaks the protocol, knows the paths it is given, records every request, and
//! collects garbage as Nix does.

use crate::{
    path::StorePath,
    wire::{CLIENT_MAGIC, DAEMON_MAGIC, Decoder, Encoder, WireError, message},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncWriteExt, BufStream},
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinSet},
};

/// Deviations from the usual behaviour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Minor protocol version; 0 means 38.
    pub minor: u64,
    /// It sends log messages between answers.
    pub chatty: bool,
    /// It closes the connection in the middle of a path's description.
    pub dies: bool,
}

#[derive(Debug, Default)]
pub struct World {
    /// Valid paths: hash and references.
    pub paths: BTreeMap<StorePath, (String, Vec<StorePath>)>,
    pub quirks: Quirks,
    /// Connection, operation, path.
    pub asked: Vec<(u64, u64, String)>,
    /// What each open connection holds.
    pub held: HashMap<u64, BTreeSet<StorePath>>,
    connections: u64,
}

impl World {
    /// Deletes paths that no connection holds.
    pub fn collect_garbage(&mut self) {
        let mut live: BTreeSet<StorePath> = BTreeSet::new();
        let mut next: Vec<StorePath> = self.held.values().flatten().cloned().collect();
        while let Some(path) = next.pop() {
            if let Some((_, references)) = self.paths.get(&path)
                && live.insert(path)
            {
                next.extend(references.iter().cloned());
            }
        }
        self.paths.retain(|path, _| live.contains(path));
    }

    /// Asserts that each description was asked for by a connection that held the path by then.
    pub fn assert_held_before_asked(&self) {
        let mut held = BTreeSet::new();
        for (connection, operation, path) in &self.asked {
            match operation {
                11 => drop(held.insert((connection, path))),
                26 => assert!(held.contains(&(connection, path)), "{path} was asked about before it was held"),
                _ => {}
            }
        }
    }

    pub fn count(&self, operation: u64) -> usize {
        self.asked.iter().filter(|(_, asked, _)| *asked == operation).count()
    }
}

pub struct Daemon {
    pub socket: PathBuf,
    pub world: Arc<Mutex<World>>,
    accepting: AbortHandle,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Daemon {
    /// Stops with all connections and starts again with the same paths.
    pub async fn restart(&mut self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        *self = Daemon::at(&self.socket, Arc::clone(&self.world));
    }

    pub fn start(dir: &Path) -> Daemon {
        Daemon::at(&dir.join("daemon.sock"), Arc::default())
    }

    fn at(socket: &Path, world: Arc<Mutex<World>>) -> Daemon {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::clone(&world);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let id = {
                    let mut world = shared.lock().unwrap();
                    world.connections += 1;
                    world.connections
                };
                let held = Held(id, Arc::clone(&shared));
                connections.spawn(async move {
                    let _ = serve(stream, id, &held.1).await;
                });
            }
        });
        Daemon { socket: socket.to_owned(), world, accepting: accepting.abort_handle() }
    }
}

/// Releases a connection's temporary roots when it ends.
struct Held(u64, Arc<Mutex<World>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.1.lock().unwrap().held.remove(&self.0);
    }
}

async fn serve(stream: UnixStream, id: u64, world: &Mutex<World>) -> Result<(), WireError> {
    let quirks = world.lock().unwrap().quirks;
    let mut peer = Decoder(BufStream::new(stream));
    assert_eq!(peer.number().await?, CLIENT_MAGIC);
    let minor = if quirks.minor == 0 { 38 } else { quirks.minor };
    let hello = Encoder::default().number(DAEMON_MAGIC).number(1 << 8 | minor);
    say(&mut peer, hello).await?;
    let theirs = peer.number().await? & 0xff;
    if theirs.min(minor) >= 38 {
        peer.list(100, 100).await?;
        say(&mut peer, Encoder::default().list(&["realisation-with-path-not-hash"])).await?;
    }
    assert_eq!((peer.number().await?, peer.number().await?), (0, 0));
    say(&mut peer, Encoder::default().bytes(b"2.99").number(2).number(message::LAST)).await?;
    while let Some(operation) = peer.number_or_end().await? {
        let argument = String::from_utf8(peer.bytes(1000).await?).unwrap();
        let path = StorePath::parse("/nix/store", argument.as_bytes()).ok();
        let mut answer = Encoder::default();
        if quirks.chatty {
            answer = chatter(answer);
        }
        answer = answer.number(message::LAST);
        {
            let mut world = world.lock().unwrap();
            world.asked.push((id, operation, argument.clone()));
            let found = path.as_ref().and_then(|path| world.paths.get(path).cloned());
            let all = |chosen: &dyn Fn(&StorePath, &[StorePath]) -> bool| -> Vec<String> {
                let chosen = world.paths.iter().filter(|(path, (_, references))| chosen(path, references));
                chosen.map(|(path, _)| path.within("/nix/store")).collect()
            };
            answer = match operation {
                6 => answer.list(&all(&|_, references| path.as_ref().is_some_and(|path| references.contains(path)))),
                11 => {
                    world.held.entry(id).or_default().extend(path);
                    answer.number(1)
                }
                26 => match found {
                    None => answer.number(0),
                    Some((hash, references)) => {
                        let references: Vec<_> = references.iter().map(|path| path.within("/nix/store")).collect();
                        let answer = answer.number(1).bytes(b"").bytes(hash.as_bytes()).list(&references);
                        answer.number(1).number(1000).number(0).list(&["key:sig"]).bytes(b"")
                    }
                },
                29 => answer.bytes(all(&|path, _| path.name().starts_with(&argument)).concat().as_bytes()),
                33 => answer.list(&all(&|path, _| path.name().ends_with(".drv"))),
                41 if found.is_none() => Encoder::error(&format!("path '{argument}' is not valid")),
                41 => answer.number(1).bytes(b"out").bytes(b"/nix/store/out"),
                other => panic!("the gate must never ask for {other}"),
            };
        }
        if quirks.dies && operation == 26 {
            peer.0.write_all(&answer.as_slice()[..30]).await?;
            return Ok(peer.0.flush().await?);
        }
        say(&mut peer, answer).await?;
    }
    Ok(())
}

async fn say(peer: &mut Decoder<BufStream<UnixStream>>, words: Encoder) -> Result<(), WireError> {
    peer.0.write_all(words.as_slice()).await?;
    Ok(peer.0.flush().await?)
}

/// Log messages that a daemon may send before each answer.
fn chatter(words: Encoder) -> Encoder {
    words
        .number(message::NEXT)
        .bytes(b"warning: something\n")
        .number(message::START_ACTIVITY)
        .number(7)
        .number(3)
        .number(0)
        .bytes(b"copying")
        .number(2)
        .number(0)
        .number(5)
        .number(1)
        .bytes(b"field")
        .number(0)
        .number(message::RESULT)
        .number(7)
        .number(105)
        .number(1)
        .number(0)
        .number(5)
        .number(message::STOP_ACTIVITY)
        .number(7)
}
