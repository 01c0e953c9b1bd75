//! Sharing with scripted agents, and without a guest.

use super::*;
use dvn_config::{Config, File, HostFacts, Sources};
use dvn_host::machine_dir::StateDir;
use dvn_hypervisor::GuestListener;
use dvn_protocol::messages::{Answer, FromAgent, Request};
use std::{fs, path::Path};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
};

fn config(store_dir: &Path) -> Arc<BuilderConfig> {
    let text = format!("share-store = true\nstore-dir = {store_dir:?}\nstore-daemon = \"/nonexistent/socket\"");
    let sources = Sources {
        flags: vec![],
        env: vec![],
        file: File::parse(Path::new("/c.toml"), &text, None).unwrap(),
        machine: None,
        cwd: "/".into(),
        home: None,
        default_state_dir: "/s".into(),
    };
    let host = HostFacts { cores: 2, memory: 1 << 34, arch: None, rosetta: false, nix: false };
    Config::load(sources).unwrap().settings(&host).unwrap().machines.into_values().next().unwrap().builder
}

struct Bench {
    _tmp: tempfile::TempDir,
    dir: MachineDir,
    config: Arc<BuilderConfig>,
}

fn bench() -> Bench {
    let tmp = tempfile::tempdir().unwrap();
    let name = "builder".parse().unwrap();
    let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&name).unwrap();
    let config = config(tmp.path());
    Bench { _tmp: tmp, dir, config }
}

impl Bench {
    fn sharing(&self, config: &BuilderConfig) -> Arc<Sharing> {
        Sharing::new(&"builder".parse().unwrap(), config, &self.dir).unwrap().unwrap()
    }
}

/// An agent with scripted answers, and the requests that it received.
async fn agent(answer: fn(&Ask) -> Result<Answer, String>) -> (Arc<dyn GuestAgent>, mpsc::UnboundedReceiver<Ask>) {
    let (dial, incoming) = mpsc::channel(1);
    let (asked, asks) = mpsc::unbounded_channel();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    dial.send(Box::new(theirs) as _).await.unwrap();
    tokio::spawn(async move {
        let _port = dial;
        let mut lines = BufReader::new(ours);
        let ready = FromAgent::Ready {
            version: dvn_protocol::VERSION,
            token: "t".into(),
            kernel: String::new(),
            phases: vec![],
            data_disk: DataDisk::Kept,
            host_store: true,
        };
        let mut message = serde_json::to_string(&ready).unwrap();
        loop {
            lines.write_all(format!("{message}\n").as_bytes()).await.unwrap();
            let mut line = String::new();
            if lines.read_line(&mut line).await.unwrap() == 0 {
                return;
            }
            let Request { id, ask } = serde_json::from_str(&line).unwrap();
            message = serde_json::to_string(&FromAgent::Reply { id, result: answer(&ask) }).unwrap();
            let _ = asked.send(ask);
        }
    });
    let (agent, _) = crate::agent::Agent::await_ready(GuestListener::new(incoming, None), "t".into()).await.unwrap();
    (Arc::new(agent), asks)
}

#[test]
fn a_record_keeps_its_name_until_it_is_of_another_store_or_damaged_or_the_disk_is_new() {
    let bench = bench();
    let first = bench.sharing(&bench.config).record();
    assert_eq!(bench.sharing(&bench.config).record(), first);
    let moved = BuilderConfig { store_daemon: "/elsewhere".into(), ..(*bench.config).clone() };
    let second = bench.sharing(&moved).record();
    assert_ne!(second, first);
    let sharing = bench.sharing(&moved);
    assert_eq!(sharing.record(), second);
    sharing.begin_anew(&moved, &bench.dir).unwrap();
    let third = sharing.record();
    assert_ne!(third, second);
    assert_eq!(bench.sharing(&moved).record(), third);
    fs::write(bench.dir.store_state().join("record"), "{").unwrap();
    assert_ne!(bench.sharing(&moved).record(), third);
    let off = BuilderConfig { share_store: false, ..moved };
    assert!(Sharing::new(&"builder".parse().unwrap(), &off, &bench.dir).unwrap().is_none());
}

#[tokio::test]
async fn without_the_hosts_daemon_the_guest_leaves_its_store_once_for_all_connections() {
    let bench = bench();
    let sharing = bench.sharing(&bench.config);
    let (agent, mut asks) = agent(|_| Ok(Answer::Done)).await;
    assert!(
        sharing.enter(Some(&agent)).await.unwrap().is_none() && asks.try_recv().is_err(),
        "no guest builds on it yet"
    );
    sharing.set(Boot { in_use: true, ..Boot::default() });
    let (one, two) = tokio::join!(sharing.enter(Some(&agent)), sharing.enter(Some(&agent)));
    assert!(one.unwrap().is_none() && two.unwrap().is_none());
    assert_eq!((asks.recv().await, asks.try_recv().ok()), (Some(Ask::LeaveStore), None));
    let status = sharing.status(7);
    assert!(matches!(&status.sharing, StoreSharing::Left { why } if why.contains("cannot be reached")), "{status:?}");
    assert_eq!(status.copied_bytes, 7);
}

#[tokio::test]
async fn a_guest_that_cannot_leave_the_hosts_store_serves_no_connection() {
    let bench = bench();
    let sharing = bench.sharing(&bench.config);
    let (agent, _asks) = agent(|_| Err("it hangs".to_owned())).await;
    sharing.set(Boot { in_use: true, ..Boot::default() });
    for _ in 0..2 {
        let refused = sharing.enter(Some(&agent)).await.map(|_| ()).unwrap_err();
        assert!(refused.message.contains("it hangs") && !refused.hints.is_empty(), "{refused:?}");
    }
}

#[test]
fn a_long_list_goes_in_lines_that_the_agent_reads() {
    let path = |n: usize| format!("/nix/store/{n:032}-{}", "x".repeat(n % 200 + 1));
    let all: Vec<String> = (0..3000).map(path).collect();
    let lines: Vec<_> = batches(&all).collect();
    assert!(lines.len() > 2);
    for paths in &lines {
        let line = serde_json::to_string(&dvn_protocol::messages::Request {
            id: u64::MAX,
            ask: Ask::Forget { paths: paths.to_vec() },
        });
        assert!(line.unwrap().len() < MAX_LINE);
    }
    assert_eq!(lines.concat(), all);
    assert_eq!(batches(&[]).count(), 0);
}
