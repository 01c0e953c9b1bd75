//! The whole gate over real Unix sockets to a fake daemon, and over in-memory pipes to a fake guest.

mod daemon;
mod fuzz;
mod greetings;
mod limits;
mod queries;
mod sessions;

use super::{
    HostStore, Limits, StoreSettings,
    path::StorePath,
    wire::{CLIENT_MAGIC, DAEMON_MAGIC, Decoder, Encoder, WireError, message},
};
use daemon::{Daemon, World};
use dvn_hypervisor::{GuestListener, GuestStream};
use std::{
    fs,
    path::PathBuf,
    sync::MutexGuard,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const TOKEN: &str = "secret";

/// The path named after a letter.
fn path(letter: char) -> StorePath {
    StorePath::from_name(&format!("{}-{letter}", letter.to_string().repeat(32))).unwrap()
}

fn full(letter: char) -> String {
    path(letter).within("/nix/store")
}

struct Lab {
    tmp: tempfile::TempDir,
    daemon: Daemon,
    store: HostStore,
    dial: mpsc::Sender<GuestStream>,
    _serving: JoinHandle<()>,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(Limits::default())
    }

    fn with(limits: Limits) -> Lab {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("store")).unwrap();
        let daemon = Daemon::start(tmp.path());
        let store = HostStore::new(StoreSettings {
            daemon_socket: daemon.socket.clone(),
            store_dir: tmp.path().join("store"),
            logical_dir: "/nix/store".into(),
            state_dir: tmp.path().to_owned(),
            limits,
        })
        .unwrap();
        let (dial, _serving) = serving(&store);
        Lab { tmp, daemon, store, dial, _serving }
    }

    /// Restarts the gate, as a new daemon would, with a new guest.
    fn restart(&mut self) {
        self.store = HostStore::new(self.store.inner.settings.clone()).unwrap();
        (self.dial, self._serving) = serving(&self.store);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.daemon.world.lock().unwrap()
    }

    fn file(&self, letter: char) -> PathBuf {
        self.tmp.path().join("store").join(path(letter).name())
    }

    /// Adds a valid path: to the daemon's database, and as a directory in the share.
    fn add(&self, letter: char, references: &str) {
        fs::create_dir_all(self.file(letter)).unwrap();
        let info = (format!("hash{letter}"), references.chars().map(path).collect());
        self.world().paths.insert(path(letter), info);
    }

    /// Adds a changed name to a path's directory.
    fn change_name(&self, letter: char) {
        fs::write(self.file(letter).join("a~nix~case~hack~1"), "").unwrap();
    }

    async fn dial(&self) -> Guest {
        let (ours, theirs) = duplex(4096);
        self.dial.send(Box::new(theirs)).await.unwrap();
        let (from, to) = split(ours);
        Guest { from: Decoder(BufReader::new(from)), to }
    }

    /// A connection after its greeting.
    async fn guest(&self) -> Guest {
        let mut guest = self.dial().await;
        guest.greet(38).await.unwrap();
        guest
    }

    fn known_paths(&self) -> String {
        fs::read_to_string(self.tmp.path().join("store-ledger")).unwrap_or_default()
    }
}

fn serving(store: &HostStore) -> (mpsc::Sender<GuestStream>, JoinHandle<()>) {
    let (dial, incoming) = mpsc::channel(8);
    let store = store.clone();
    let serving = tokio::spawn(async move { store.serve(GuestListener::new(incoming, None), TOKEN.into()).await });
    (dial, serving)
}

/// The guest's end of a connection.
struct Guest {
    from: Decoder<BufReader<ReadHalf<DuplexStream>>>,
    to: WriteHalf<DuplexStream>,
}

impl Guest {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        timeout(TIMEOUT, self.to.write_all(bytes)).await.expect("the gate reads")?;
        Ok(())
    }

    async fn greet(&mut self, minor: u64) -> Result<(), WireError> {
        self.say(format!("{{\"token\":\"{TOKEN}\"}}\n").as_bytes()).await?;
        let hello = Encoder::default().number(CLIENT_MAGIC).number(1 << 8 | minor);
        self.say(hello.as_slice()).await?;
        assert_eq!(self.from.number().await?, DAEMON_MAGIC);
        let theirs = self.from.number().await?;
        assert_eq!(theirs, 1 << 8 | 35);
        self.say(Encoder::default().number(0).number(0).as_slice()).await?;
        assert!(self.from.text(100).await?.starts_with("darwin-vz-nix"));
        if minor >= 35 {
            assert_eq!(self.from.number().await?, 2, "not trusted");
        }
        self.outcome().await.map(|outcome| outcome.unwrap())
    }

    /// The outcome of a request: its error, if there is one.
    async fn outcome(&mut self) -> Result<Result<(), String>, WireError> {
        let reading = async {
            match self.from.number().await? {
                message::LAST => Ok(Ok(())),
                message::ERROR => {
                    assert_eq!(self.from.bytes(99).await?, b"Error");
                    assert_eq!(self.from.number().await?, 0);
                    assert_eq!(self.from.bytes(99).await?, b"Error");
                    let text = self.from.text(9999).await?;
                    assert_eq!((self.from.number().await?, self.from.number().await?), (0, 0));
                    Ok(Err(text))
                }
                other => panic!("{other:#x}"),
            }
        };
        timeout(TIMEOUT, reading).await.expect("an answer")
    }

    async fn ask(&mut self, operation: u64, argument: &str) -> Result<(), String> {
        let request = Encoder::default().number(operation).bytes(argument.as_bytes());
        self.say(request.as_slice()).await.map_err(|e| e.to_string())?;
        self.outcome().await.map_err(|e| e.to_string())?
    }

    async fn is_valid(&mut self, letter: char) -> bool {
        self.ask(1, &full(letter)).await.unwrap();
        self.from.number().await.unwrap() == 1
    }

    /// The hash and the references, if the path is valid.
    async fn info(&mut self, letter: char) -> Result<Option<(String, Vec<Vec<u8>>)>, String> {
        self.ask(26, &full(letter)).await?;
        Ok(self.description().await)
    }

    async fn description(&mut self) -> Option<(String, Vec<Vec<u8>>)> {
        let from = &mut self.from;
        if from.number().await.unwrap() == 0 {
            return None;
        }
        assert_eq!(from.bytes(99).await.unwrap(), b"");
        let described = (from.text(99).await.unwrap(), from.list(99, 999).await.unwrap());
        let rest = (from.number().await.unwrap(), from.number().await.unwrap(), from.number().await.unwrap());
        assert_eq!(rest, (1, 1000, 0));
        assert_eq!(from.list(9, 99).await.unwrap(), [b"key:sig"]);
        assert_eq!(from.bytes(99).await.unwrap(), b"");
        Some(described)
    }

    /// A query whose answer is a list of paths.
    async fn list(&mut self, operation: u64, letter: char) -> Vec<char> {
        self.ask(operation, &full(letter)).await.unwrap();
        self.letters().await
    }

    async fn letters(&mut self) -> Vec<char> {
        let list = self.from.list(100_000, 999).await.unwrap();
        let mut letters: Vec<_> = list.iter().map(|path| *path.last().unwrap() as char).collect();
        letters.sort_unstable();
        letters
    }

    async fn valid_of(&mut self, letters: &str) -> Vec<char> {
        let paths: Vec<_> = letters.chars().map(full).collect();
        self.say(Encoder::default().number(31).list(&paths).number(1).as_slice()).await.unwrap();
        self.outcome().await.unwrap().unwrap();
        self.letters().await
    }

    /// Whether the connection ends without a further byte.
    async fn is_closed(&mut self) -> bool {
        matches!(timeout(TIMEOUT, self.from.number_or_end()).await.expect("an end"), Ok(None) | Err(_))
    }
}

/// Polls for a condition that has no event to wait for.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < TIMEOUT, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}
