//! What is seen to while a guest is in use: the host does not fall asleep, and the guest's clock follows the host's.
//!
//! ```text
//!   unused ── a lease, or a build without one ──▶ in use: hold the host awake ─ set the guest's clock
//!      ▲                                             │   each second: did the host's clock jump? set it again
//!      └────── unused for a while, or off ───────────┘
//! ```
//!
//! The rule: whoever does not use a guest causes no wake-up here. A guest that nobody uses may have a wrong clock after the
//! host slept; it is put right when the next connection comes.

use crate::{
    search_path,
    spec::MachineName,
    supervisor::{Handle, Phase},
};
use std::{
    ffi::OsStr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

/// How often the clocks are compared: after the host slept, a guest's clock is wrong for no longer.
const LOOK: Duration = Duration::from_secs(1);

/// A difference between the two clocks of the host that is no sleep and no adjustment worth a correction.
const JITTER: Duration = Duration::from_millis(200);

/// The host is held awake for so long after the last use: builds come in rows.
const LINGER: Duration = Duration::from_secs(5);

/// A program that keeps the host from sleeping while a command of its own runs: ours ends with us, at the end of its input.
#[derive(Clone, Debug)]
pub struct Inhibitor {
    program: PathBuf,
    args: &'static [&'static str],
}

impl Inhibitor {
    /// What this host offers, if anything: systemd's `systemd-inhibit`, or macOS' `caffeinate`.
    pub fn find(path: &OsStr) -> Option<Inhibitor> {
        const SYSTEMD: &[&str] =
            &["--what=sleep:idle", "--who=darwin-vz-nix", "--why=a build runs in the VM", "--mode=block", "cat"];
        [("systemd-inhibit", SYSTEMD), ("caffeinate", &["-i", "/bin/cat"])]
            .into_iter()
            .find_map(|(name, args)| Some(Inhibitor { program: search_path::find(name, path, &[])?, args }))
    }

    fn hold(&self, machine: &MachineName) -> Option<Child> {
        let mut command = Command::new(&self.program);
        command.args(self.args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let held = command.spawn();
        if let Err(e) = &held {
            tracing::warn!(machine = %machine, "the host may fall asleep during builds: {}: {e}", self.program.display());
        }
        held.ok()
    }
}

/// Sees to a machine for as long as its supervisor lives.
pub async fn keep(name: MachineName, handle: Handle, inhibitor: Option<Inhibitor>) {
    while handle.watch().wait_for(|snapshot| in_use(&snapshot.phase)).await.is_ok() {
        let _awake = inhibitor.as_ref().and_then(|inhibitor| inhibitor.hold(&name));
        follow_the_clock(&name, &handle).await;
    }
}

/// Keeps the guest's clock right until it is off, or has been unused for a while.
async fn follow_the_clock(name: &MachineName, handle: &Handle) {
    let mut snapshots = handle.watch();
    let mut clocks = Clocks::now();
    set_clock(name, handle).await;
    loop {
        if timeout(LOOK, snapshots.wait_for(|snapshot| !in_use(&snapshot.phase))).await.is_ok() {
            let used = snapshots.wait_for(|snapshot| in_use(&snapshot.phase) || snapshot.phase.is_at_rest());
            match timeout(LINGER, used).await {
                Ok(Ok(snapshot)) if in_use(&snapshot.phase) => {}
                _ => return,
            }
        }
        let later = Clocks::now();
        if later.jumped_since(&clocks) {
            tracing::info!(machine = %name, "the host's clock has jumped: it slept, or was set");
            set_clock(name, handle).await;
        }
        clocks = later;
    }
}

fn in_use(phase: &Phase) -> bool {
    matches!(phase, Phase::Running { leases, builds, .. } if *leases > 0 || *builds > 0)
}

async fn set_clock(name: &MachineName, handle: &Handle) {
    let Some(agent) = handle.agent() else { return };
    if let Err(report) = agent.set_clock().await {
        tracing::debug!(machine = %name, "the guest's clock was not set: {report}");
    }
}

/// The host's two clocks: one stands still while it sleeps, one doesn't.
struct Clocks {
    awake: Instant,
    wall: SystemTime,
}

impl Clocks {
    fn now() -> Clocks {
        Clocks { awake: Instant::now(), wall: SystemTime::now() }
    }

    fn jumped_since(&self, before: &Clocks) -> bool {
        let awake = self.awake.saturating_duration_since(before.awake);
        match self.wall.duration_since(before.wall) {
            Ok(wall) => wall.abs_diff(awake) > JITTER,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        guest::agent::Agent,
        hypervisor::{
            GuestListener, GuestStream,
            sim::{Script, Sim},
        },
        supervisor::{self, InMemory, Policy},
    };
    use darwin_vz_agent::protocol::{Answer, Ask, FromAgent, Request};
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        sync::{mpsc, watch},
        time::sleep,
    };

    const POLICY: Policy = Policy {
        idle: None,
        grace: Duration::ZERO,
        boot_timeout: Duration::MAX,
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };

    fn name() -> MachineName {
        "builder".parse().unwrap()
    }

    #[test]
    fn a_sleep_and_a_set_clock_are_jumps_and_ordinary_time_is_none() {
        let before = Clocks::now();
        let after = |awake: u64, wall: i64| {
            let shift = Duration::from_millis(wall.unsigned_abs());
            let wall = if wall < 0 { before.wall - shift } else { before.wall + shift };
            Clocks { awake: before.awake + Duration::from_millis(awake), wall }.jumped_since(&before)
        };
        assert!(!after(1000, 1000) && !after(1000, 1150) && !after(5000, 4900));
        assert!(after(1000, 3_600_000), "an hour's sleep");
        assert!(after(1000, -1), "set back");
        assert!(after(1000, 1500) && after(1000, 500));
    }

    #[tokio::test]
    async fn the_host_is_held_while_the_guard_lives_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemd-inhibit");
        // As the real one: runs its last argument, and holds for as long.
        let script = "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\necho held >\"$0.state\"\n\"$1\"\necho let go >\"$0.state\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let Some(inhibitor) = Inhibitor::find(OsStr::new(&path)) else { panic!("it is on the path") };
        let state = || fs::read_to_string(dir.path().join("systemd-inhibit.state")).unwrap_or_default();
        let until = async |wanted: &str| {
            let patience = Duration::from_secs(20);
            let waiting = async {
                while state().trim() != wanted {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(patience, waiting).await.unwrap_or_else(|_| panic!("{wanted:?} is not so: {:?}", state()));
        };
        let mut held = inhibitor.hold(&name()).unwrap();
        until("held").await;
        assert!(held.try_wait().unwrap().is_none());
        // As at the daemon's own end, however it ends.
        drop(held.stdin.take());
        until("let go").await;
        assert!(Inhibitor::find(OsStr::new("/nowhere")).is_none());
    }

    /// A guest in memory whose agent answers everything, and how often it was told the time.
    async fn machine() -> (Handle, watch::Receiver<u32>) {
        let (told, heard) = watch::channel(0);
        let (dial, incoming) = mpsc::channel(1);
        let (mut guest, ours) = tokio::io::duplex(4096);
        dial.send(Box::new(ours) as GuestStream).await.unwrap();
        let ready = r#"{"type":"ready","version":1,"token":"t","kernel":"6","phases":[],"dataDisk":"kept"}"#;
        guest.write_all(format!("{ready}\n").as_bytes()).await.unwrap();
        tokio::spawn(async move {
            let _dial = dial;
            let (read, mut write) = tokio::io::split(guest);
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let request: Request = serde_json::from_str(&line).unwrap();
                told.send_modify(|n| *n += u32::from(matches!(request.ask, Ask::SetClock { .. })));
                let reply = FromAgent::Reply { id: request.id, result: Ok(Answer::Done) };
                write.write_all(format!("{}\n", serde_json::to_string(&reply).unwrap()).as_bytes()).await.unwrap();
            }
        });
        let (agent, _) = Agent::await_ready(GuestListener::new(incoming, None), "t".into()).await.unwrap();
        let preparation = Arc::new(InMemory::with(agent));
        let handle = supervisor::spawn(name(), Arc::new(Sim::new(Script::default())), preparation, POLICY);
        (handle, heard)
    }

    /// Under the paused clock hours pass while the wall clock stands still: to this program the host's clocks jump all the time.
    #[tokio::test(start_paused = true)]
    async fn a_guest_in_use_is_told_the_time_after_each_jump_and_an_unused_one_never() {
        let (handle, heard) = machine().await;
        let vigil = tokio::spawn(keep(name(), handle.clone(), None));
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(*heard.borrow(), 0, "nobody uses it");
        let lease = handle.acquire().await.unwrap();
        sleep(Duration::from_secs(10)).await;
        let told = *heard.borrow();
        assert!((9..=12).contains(&told), "at once, and within a second of each jump: {told}");
        drop(lease);
        sleep(LINGER * 2).await;
        let told = *heard.borrow();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(*heard.borrow(), told, "nobody uses it any more");
        assert!(!vigil.is_finished(), "it is there for the next use");
        vigil.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_host_may_sleep_once_the_guest_is_off_and_before_the_next_use_is_seen_to() {
        let (handle, heard) = machine().await;
        let watch = tokio::spawn({
            let handle = handle.clone();
            async move { follow_the_clock(&name(), &handle).await }
        });
        let lease = handle.acquire().await.unwrap();
        let began = Instant::now();
        drop(lease);
        handle.stop(true).await.unwrap();
        watch.await.unwrap();
        assert!(began.elapsed() < LOOK, "{:?}", began.elapsed());
        assert!(*heard.borrow() <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_goes_on_after_a_pause_is_told_the_time_before_anybody_gets_to_it() {
        let (handle, heard) = machine().await;
        drop(handle.acquire().await.unwrap());
        handle.pause().await.unwrap();
        assert_eq!(*heard.borrow(), 0);
        let _lease = handle.acquire().await.unwrap();
        assert_eq!(*heard.borrow(), 1);
    }
}
