//! What is seen to while a guest is in use: the host does not fall asleep, and the guest's clock follows the host's.
//!
//! ```text
//!   unused ── a lease, or a build without one ──▶ in use: hold the host awake ─ set the guest's clock
//!      ▲                                             │   each second: did the host's clock jump? set it again
//!      └────── unused for a while, or off ───────────┘
//! ```
//!
//! The rule: whoever does not use a guest, and builds nothing in it, causes no wake-up here. A guest that nobody uses may have
//! a wrong clock after the host slept; it is put right before the next connection gets to it. Builds without a lease are
//! [`super::pulse`]'s to know, and from the end of the idle time on the lifecycle's.

use super::{clock::GuestClock, pulse};
use dvn_host::search_path;
use dvn_lifecycle::{Handle, Phase, Snapshot};
use dvn_types::MachineName;
use std::{ffi::OsStr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// How often the clocks are compared: after the host slept, a guest's clock is wrong for no longer.
const LOOK: Duration = Duration::from_secs(1);

/// The host is held awake for so long after the last use: builds come in rows, and whether the guest goes on building is
/// known only once it has been asked and has answered.
const LINGER: Duration = pulse::BEAT.saturating_mul(3);

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

/// One machine to see to.
pub struct Vigil {
    /// Which.
    pub name: MachineName,
    /// The machine.
    pub handle: Handle,
    /// Whether its guest builds, as far as is known.
    pub building: watch::Receiver<bool>,
    /// Its guest's clock.
    pub clock: Arc<GuestClock>,
    /// What keeps the host awake, if there is something.
    pub inhibitor: Option<Inhibitor>,
}

impl Vigil {
    /// Sees to it for as long as its supervisor lives.
    pub async fn keep(self) {
        let mut need = Need { snapshots: self.handle.watch(), building: self.building.clone() };
        while need.becomes(|need| need == State::InUse).await {
            let _awake = self.inhibitor.as_ref().and_then(|inhibitor| inhibitor.hold(&self.name));
            self.follow_the_clock(&mut need).await;
        }
    }

    /// Keeps the guest's clock right until it is off, or has been unused for a while.
    async fn follow_the_clock(&self, need: &mut Need) {
        loop {
            if let Some(agent) = self.handle.agent() {
                self.clock.follow(self.handle.snapshot().boots, &agent).await;
            }
            match timeout(LOOK, need.becomes(|need| need != State::InUse)).await {
                Err(_) => {}
                Ok(true) if matches!(timeout(LINGER, need.becomes(|need| need != State::Unused)).await, Ok(true)) => {
                    if need.now() != State::InUse {
                        return;
                    }
                }
                Ok(_) => return,
            }
        }
    }
}

/// Whether somebody needs the guest, as it changes.
struct Need {
    snapshots: watch::Receiver<Snapshot>,
    building: watch::Receiver<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody holds a lease, or it builds.
    InUse,
    /// It is there.
    Unused,
    /// It is not.
    Off,
}

impl Need {
    fn now(&mut self) -> State {
        let building = *self.building.borrow_and_update();
        match self.snapshots.borrow_and_update().phase {
            Phase::Running { leases, builds, .. } if leases > 0 || builds > 0 || building => State::InUse,
            Phase::Stopped { .. } | Phase::Failed { .. } => State::Off,
            _ => State::Unused,
        }
    }

    /// Waits until it is so. False: the machine's supervisor is gone.
    async fn becomes(&mut self, wanted: impl Fn(State) -> bool) -> bool {
        loop {
            if wanted(self.now()) {
                return true;
            }
            let changed = tokio::select! {
                changed = self.snapshots.changed() => changed,
                changed = self.building.changed() => changed,
            };
            if changed.is_err() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_hypervisor::{
        GuestListener, GuestStream,
        sim::{Script, Sim},
        sim_agent,
    };
    use dvn_lifecycle::{InMemory, LOOK_AGAIN, Policy};
    use dvn_protocol::messages::{Answer, Ask, FromAgent, Request};
    use pulse::Pulse;
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        sync::mpsc,
        time::{Instant, sleep},
    };
    use tokio_util::task::AbortOnDropHandle;

    fn name() -> MachineName {
        "builder".parse().unwrap()
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
        let (agent, _) =
            dvn_guest::agent::Agent::await_ready(GuestListener::new(incoming, None), "t".into()).await.unwrap();
        let preparation = Arc::new(InMemory::with(Arc::new(agent)));
        let handle = dvn_lifecycle::spawn(name(), Arc::new(Sim::new(Script::default())), preparation, Policy::TIMELESS);
        (handle, heard)
    }

    fn vigil(handle: &Handle, building: watch::Receiver<bool>) -> Vigil {
        let clock = Arc::new(GuestClock::new(name()));
        Vigil { name: name(), handle: handle.clone(), building, clock, inhibitor: None }
    }

    /// Under the paused clock hours pass while the wall clock stands still: to this program the host's clocks jump all the time.
    #[tokio::test(start_paused = true)]
    async fn a_guest_in_use_is_told_the_time_after_each_jump_and_an_unused_one_never() {
        let (handle, heard) = machine().await;
        let (_building, building) = watch::channel(false);
        let vigil = tokio::spawn(vigil(&handle, building).keep());
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
        let (_building, building) = watch::channel(false);
        let vigil = vigil(&handle, building.clone());
        let mut need = Need { snapshots: handle.watch(), building };
        let watch = tokio::spawn(async move { vigil.follow_the_clock(&mut need).await });
        let lease = handle.acquire().await.unwrap();
        let began = Instant::now();
        drop(lease);
        handle.stop(true).await.unwrap();
        watch.await.unwrap();
        assert!(began.elapsed() < LOOK, "{:?}", began.elapsed());
        assert!(*heard.borrow() <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_builds_without_a_connection_is_seen_to_until_it_is_done_and_then_no_more() {
        let (builds, told) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let theirs = (Arc::clone(&builds), Arc::clone(&told));
        let agent = sim_agent::that_says(move |ask| match ask {
            Ask::Builds => Answer::Builds { running: theirs.0.load(Relaxed) },
            Ask::SetClock { .. } => {
                theirs.1.fetch_add(1, Relaxed);
                Answer::Done
            }
            _ => Answer::Done,
        });
        let preparation = Arc::new(InMemory::with(Arc::new(agent)));
        let handle = dvn_lifecycle::spawn(name(), Arc::new(Sim::new(Script::default())), preparation, Policy::TIMELESS);
        let building = watch::channel(false).0;
        let _vigil = AbortOnDropHandle::new(tokio::spawn(vigil(&handle, building.subscribe()).keep()));
        let pulse = Pulse {
            name: name(),
            handle: handle.clone(),
            chronicle: Arc::default(),
            let_go: Box::new(|| {}),
            hang_timeout: None,
            building,
        };
        let _pulse = AbortOnDropHandle::new(tokio::spawn(pulse.take()));
        let times = || told.swap(0, Relaxed);
        let lease = handle.acquire().await.unwrap();
        sleep(LINGER).await;
        // Begun just before the last connection ends.
        builds.store(1, Relaxed);
        drop(lease);
        for _ in 0..24 {
            times();
            sleep(Duration::from_secs(3600)).await;
            let times = times();
            assert!(times > 3500, "its clock is followed, as the host is kept awake: {times}");
        }
        builds.store(0, Relaxed);
        sleep(LOOK_AGAIN + LINGER + LOOK).await;
        times();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(times(), 0);
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
