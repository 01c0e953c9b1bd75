//! The gate to the host's store with a real Nix on both ends: a daemon with a store of its own as the host's, and Nix's
//! commands, or a whole `local-overlay` store, as the guest's. No VM: what the guest's agent does is done by a few lines here.

// The test's Nix is made for Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use dvn_hypervisor::{GuestListener, GuestStream};
use dvn_nix::{HostStore, Limits, StoreSettings};
use dvn_protocol::StoreGreeting;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional, duplex},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    sync::mpsc,
    time::{sleep, timeout},
};

const TOKEN: &str = "secret";
const PATIENCE: Duration = Duration::from_secs(60);
const FEATURES: &str = "extra-experimental-features = local-overlay-store";

/// A host with a Nix daemon and a gate, and a socket on the guest's side of it.
struct Host {
    dir: tempfile::TempDir,
    store: HostStore,
    _daemon: Child,
}

impl Host {
    /// `settings` are lines of nix.conf for the daemon.
    async fn with(settings: &str) -> Host {
        let dir = tempfile::Builder::new().prefix("dvn-").tempdir_in("/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("host/nix/store")).unwrap();
        let mut daemon = nix("nix-daemon", dir.path());
        daemon.env("NIX_REMOTE", format!("local?root={}", at("host").display()));
        daemon.env("NIX_DAEMON_SOCKET_PATH", at("host.sock")).env("NIX_CONFIG", format!("{FEATURES}\n{settings}"));
        let log = fs::File::create(at("daemon.log")).unwrap();
        let daemon = daemon.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap();
        let socket = at("host.sock");
        until("the daemon", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        let store = HostStore::new(StoreSettings {
            daemon_socket: at("host.sock"),
            store_dir: at("host/nix/store"),
            logical_dir: "/nix/store".into(),
            state_dir: dir.path().to_owned(),
            limits: Limits::default(),
        })
        .unwrap();
        let host = Host { dir, store, _daemon: daemon };
        host.be_a_guest();
        host
    }

    async fn new() -> Host {
        Host::with("").await
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The agent's part: each connection to a socket goes through the gate, with the token before it.
    fn be_a_guest(&self) {
        let listener = UnixListener::bind(self.at("gate.sock")).unwrap();
        let (dial, incoming) = mpsc::channel::<GuestStream>(8);
        let store = self.store.clone();
        tokio::spawn(async move { store.serve(GuestListener::new(incoming, None), TOKEN.into()).await });
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut ours, theirs) = duplex(64 * 1024);
                dial.send(Box::new(theirs)).await.unwrap();
                tokio::spawn(async move {
                    let greeting = serde_json::to_string(&StoreGreeting { token: TOKEN.into() }).unwrap();
                    ours.write_all(format!("{greeting}\n").as_bytes()).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut ours).await;
                });
            }
        });
    }

    /// The host's store, opened directly.
    fn direct(&self) -> String {
        format!("local?root={}", self.at("host").display())
    }

    /// The host's store through its daemon.
    fn daemon(&self) -> String {
        format!("unix://{}", self.at("host.sock").display())
    }

    /// The host's store as a guest may see it.
    fn gate(&self) -> String {
        format!("unix://{}", self.at("gate.sock").display())
    }

    async fn run(&self, store: &str, args: &[&str]) -> Output {
        let mut command = nix(args[0], self.dir.path());
        let output = command.env("NIX_REMOTE", store).args(&args[1..]).kill_on_drop(true).output();
        timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{args:?} does not end")).unwrap()
    }

    /// What a command prints; it must succeed.
    async fn ok(&self, store: &str, args: &[&str]) -> String {
        let output = self.run(store, args).await;
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {err}");
        out.trim().to_owned()
    }

    /// What a command complains of; it must fail.
    async fn fails(&self, store: &str, args: &[&str]) -> String {
        let output = self.run(store, args).await;
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Evaluates to a path, which is then in the host's store.
    async fn make(&self, expression: &str) -> String {
        let args = ["nix-instantiate", "--eval", "--read-write-mode", "-E", expression];
        self.ok(&self.direct(), &args).await.trim_matches('"').to_owned()
    }

    fn exists(&self, path: &str) -> bool {
        self.at("host").join(&path[1..]).exists()
    }

    /// Everything in the host's store: what the database says, and what lies there.
    async fn inventory(&self) -> (String, BTreeSet<PathBuf>) {
        let files = fs::read_dir(self.at("host/nix/store")).unwrap().map(|entry| entry.unwrap().path());
        // `.links` comes and goes by itself.
        let files = files.filter(|path| path.file_name().unwrap() != ".links").collect();
        (self.ok(&self.direct(), &["nix", "path-info", "--all", "--json", "--sigs"]).await, files)
    }
}

fn nix(program: &str, home: &Path) -> Command {
    let nix = std::env::var_os("DVN_TEST_NIX").expect("DVN_TEST_NIX is not set: run these tests with `make test`");
    let mut command = Command::new(Path::new(&nix).join(program));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home).env("NIX_CONFIG", FEATURES);
    command.current_dir(home).stdin(Stdio::null());
    command
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A text that refers to a text.
const CHAIN: &str = r#"builtins.toFile "top" "${builtins.toFile "middle" "${builtins.toFile "bottom" "x"}"}""#;

/// A derivation that could be built, but mustn't be here.
const DERIVATION: &str =
    r#"(derivation { name = "d"; system = builtins.currentSystem; builder = "/bin/sh"; }).drvPath"#;

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_as_the_host_would() {
    let host = Host::new().await;
    let top = host.make(CHAIN).await;
    let drv = host.make(DERIVATION).await;
    for query in [
        &["nix-store", "--query", "--requisites", &top][..],
        &["nix-store", "--query", "--references", &top],
        &["nix-store", "--query", "--hash", &top],
        &["nix-store", "--query", "--size", &top],
        &["nix-store", "--query", "--tree", &top],
        &["nix-store", "--check-validity", &top, &drv],
        &["nix-store", "--query", "--deriver", &top],
        &["nix-store", "--query", "--references", &drv],
    ] {
        let told = host.ok(&host.gate(), query).await;
        assert_eq!(told, host.ok(&host.daemon(), query).await, "{query:?}");
    }
    let info = host.ok(&host.gate(), &["nix", "store", "info", "--json"]).await;
    let untrusted = [r#""trusted":0"#, r#""trusted":false"#].iter().any(|form| info.contains(form));
    assert!(untrusted && info.contains("darwin-vz-nix"), "{info}");
    let none = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-none";
    assert!(host.fails(&host.gate(), &["nix-store", "--query", "--hash", none]).await.contains("is not valid"));
    // The chain was told of, and a derivation.
    let told = host.store.trusted_paths();
    assert!(told.len() == 4 && told.contains(&top) && told.contains(&drv), "{told:?}");
    let all = host.ok(&host.gate(), &["nix", "path-info", "--all"]).await;
    assert_eq!(all.lines().collect::<BTreeSet<_>>(), told.iter().map(String::as_str).collect());
    let middle = told.iter().find(|path| path.ends_with("-middle")).unwrap();
    assert_eq!(host.ok(&host.gate(), &["nix-store", "--query", "--referrers", middle]).await, top);
    // What the host gets later is seen at once.
    let late = host.make(r#"builtins.toFile "late" """#).await;
    host.ok(&host.gate(), &["nix-store", "--query", "--hash", &late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_refused_with_its_name_and_nothing_changes() {
    let host = Host::new().await;
    let top = host.make(CHAIN).await;
    let drv = host.make(DERIVATION).await;
    let before = host.inventory().await;
    fs::write(host.at("file"), "new").unwrap();
    let other = format!("local?root={}", host.at("other").display());
    let file = host.at("file").display().to_string();
    let added = host.ok(&other, &["nix", "store", "add", &file]).await;
    let key = host.ok(&other, &["nix", "key", "generate-secret", "--key-name", "k"]).await;
    fs::write(host.at("key"), key).unwrap();
    let key = host.at("key").display().to_string();
    let gate = host.gate();
    let built = format!("{drv}^*");
    // So that `--all` is something.
    host.ok(&gate, &["nix-store", "--query", "--hash", &top]).await;
    for (operation, args) in [
        ("AddToStore", &["nix", "store", "add", &file][..]),
        ("AddToStore", &["nix-store", "--add", &file]),
        ("AddMultipleToStore", &["nix", "copy", "--no-check-sigs", "--from", &other, "--to", &gate, &added]),
        ("CollectGarbage", &["nix", "store", "gc"]),
        ("CollectGarbage", &["nix-store", "--delete", &top]),
        ("CollectGarbage", &["nix-collect-garbage"]),
        ("FindRoots", &["nix-store", "--gc", "--print-roots"]),
        ("QueryMissing", &["nix", "build", "--no-link", &built]),
        ("OptimiseStore", &["nix", "store", "optimise"]),
        ("VerifyStore", &["nix-store", "--verify", "--repair"]),
        ("AddSignatures", &["nix", "store", "sign", "--key-file", &key, "--all"]),
        ("AddToStore", &["nix-instantiate", "-E", "derivation { name = \"n\"; system = \"s\"; builder = \"b\"; }"]),
    ] {
        let error = host.fails(&gate, args).await;
        assert!(error.contains("read-only") && error.contains(operation), "{args:?}: {error}");
    }
    assert_eq!(host.inventory().await, before);
    assert!(host.store.figures().denied >= 12);
    assert_eq!(host.store.figures().turned_away, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_overlay_store_takes_over_paths_without_copying_any() {
    let host = Host::new().await;
    let top = host.make(CHAIN).await;
    for dir in ["guest", "upper"] {
        fs::create_dir_all(host.at(dir)).unwrap();
    }
    let lower = format!("unix://{}?real={}", host.at("gate.sock").display(), host.at("host/nix/store").display());
    let guest = format!(
        "local-overlay://?root={}&lower-store={}&upper-layer={}&check-mount=false",
        host.at("guest").display(),
        lower.replace(':', "%3A").replace('/', "%2F").replace('?', "%3F").replace('=', "%3D"),
        host.at("upper").display()
    );
    host.ok(&guest, &["nix", "copy", "--no-check-sigs", "--from", &host.direct(), "--to", &guest, &top]).await;
    let told: BTreeSet<_> = host.store.trusted_paths().into_iter().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    let registered = host.ok(&guest, &["nix", "path-info", "--all"]).await;
    assert_eq!(registered.lines().map(str::to_owned).collect::<BTreeSet<_>>(), told);
    let own: Vec<_> =
        fs::read_dir(host.at("guest/nix/store")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(own.iter().all(|name| name == ".links"), "{own:?}");
    // It never asks for them again. That is why the known paths outlive the connection, and why the guest must be made to forget.
    host.store.close("to see who asks");
    host.ok(&guest, &["nix-store", "--check-validity", &top]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_collection_spares_what_a_session_holds_and_the_next_session_misses_the_rest() {
    let host = Host::new().await;
    let known = host.make(CHAIN).await;
    host.ok(&host.gate(), &["nix-store", "--query", "--requisites", &known]).await;
    let session = host.store.open_session().await.unwrap();
    assert_eq!(session.vanished, Vec::<String>::new());
    let mut spared = vec![known];
    for round in 0..5 {
        let told = host.make(&format!(r#"builtins.toFile "told" "{round}""#)).await;
        let untold = host.make(&format!(r#"builtins.toFile "untold" "{round}""#)).await;
        host.ok(&host.gate(), &["nix-store", "--query", "--hash", &told]).await;
        spared.push(told);
        host.ok(&host.direct(), &["nix-store", "--gc"]).await;
        assert!(!host.exists(&untold));
        assert!(spared.iter().all(|path| host.exists(path)), "round {round}");
    }
    drop(session);
    // The daemon's process for the session ends a moment after the connection.
    let trusted: BTreeSet<_> = host.store.trusted_paths().into_iter().collect();
    let begun = Instant::now();
    while spared.iter().any(|path| host.exists(path)) {
        assert!(begun.elapsed() < PATIENCE, "the roots are never let go");
        host.ok(&host.direct(), &["nix-store", "--gc"]).await;
    }
    let session = host.store.open_session().await.unwrap();
    assert_eq!(session.vanished.iter().cloned().collect::<BTreeSet<_>>(), trusted);
    host.store.forgotten(&session.vanished).unwrap();
    assert!(host.store.trusted_paths().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_while_garbage_was_collected_is_there_afterwards() {
    let host = Host::new().await;
    let session = host.store.open_session().await.unwrap();
    let (direct, gate) = (host.direct(), host.gate());
    let collecting = async {
        loop {
            host.ok(&direct, &["nix-store", "--gc"]).await;
        }
    };
    let building = async {
        let mut told = Vec::new();
        for round in 0..25 {
            // Two paths on one, so that the collector finds them in any order.
            let made = host
                .make(&format!(
                    r#"let x = builtins.toFile "x" "{round}"; in builtins.seq "${{builtins.toFile "y" "${{x}}"}}" (builtins.toFile "z" "${{x}}")"#
                ))
                .await;
            if host.run(&gate, &["nix-store", "--query", "--requisites", &made]).await.status.success() {
                told.push(made);
            }
            for path in host.store.trusted_paths() {
                assert!(host.exists(&path), "{path} is gone in round {round}, though it was told of and is held");
            }
        }
        told
    };
    let told = tokio::select! {
        told = building => told,
        () = collecting => return,
    };
    assert!(!told.is_empty(), "or this proves nothing");
    assert!(!session.is_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_nix_restored_under_other_names_is_not_valid() {
    let host = Host::with("use-case-hack = true").await;
    let tree = host.at("tree");
    fs::create_dir_all(tree.join("x")).unwrap();
    for name in ["a", "A", "x/b"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let other = format!("local?root={}", host.at("other").display());
    let tree = tree.display().to_string();
    let clash = host.ok(&other, &["nix", "store", "add", &tree]).await;
    let copy = ["nix", "copy", "--no-check-sigs", "--option", "use-case-hack", "true", "--from", &other];
    host.ok(&other, &[&copy[..], &["--to", &host.direct(), &clash]].concat()).await;
    let inside = fs::read_dir(host.at("host").join(&clash[1..])).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(inside.into_iter().any(|name| name == "a~nix~case~hack~1"), "or this proves nothing");
    let on_top = host
        .make(&format!(
            r#"builtins.toFile "on-top" "${{builtins.appendContext "{clash}" {{ "{clash}".path = true; }}}}""#
        ))
        .await;
    let plain = host.make(CHAIN).await;
    host.ok(&host.gate(), &["nix-store", "--query", "--hash", &plain]).await;
    for path in [&clash, &on_top] {
        host.ok(&host.daemon(), &["nix-store", "--query", "--hash", path]).await;
        let error = host.fails(&host.gate(), &["nix-store", "--query", "--hash", path]).await;
        assert!(error.contains("is not valid"), "{error}");
    }
    let refused = host.store.figures().refused;
    assert!(refused.iter().any(|(path, why)| *path == clash && why.contains("a~nix~case~hack~1")), "{refused:?}");
    assert!(refused.iter().any(|(path, why)| *path == on_top && why.contains("refers to")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_and_ten_thousand_connections_leave_the_host_alive() {
    let host = Host::new().await;
    let top = host.make(CHAIN).await;
    let before = host.inventory().await;
    for round in 0..10_000_u64 {
        let mut stream = UnixStream::connect(host.at("gate.sock")).await.unwrap();
        // A greeting as it should be, and then numbers that are none.
        let words = [0x6e69_7863, 0x126, 0, 0, round % 64, round << 40, u64::MAX];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let _ = stream.write_all(&bytes[..(round as usize % 57)]).await;
    }
    until("the connections to be over", || host.store.figures().connections == 0).await;
    host.ok(&host.gate(), &["nix-store", "--query", "--hash", &top]).await;
    assert_eq!(host.inventory().await, before);
}
