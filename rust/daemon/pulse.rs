//! Asks a guest in use for its builds, again and again: the answer is counted for events and metrics, and shows that the
//! guest lives. One that gives no answer for too long hangs, and is killed. One that is not used any more and builds nothing
//! lets go what is held on the host for it.
//!
//! ```text
//!   unused ── a lease ──▶ in use: asked at once and with every beat ── no answer for long ──▶ killed
//!      ▲                     │
//!      └─ asked once more ◀──┘ no lease for a beat
//! ```
//!
//! The rule: a guest is asked by one at a time. While somebody holds a lease that is this; without one it is the lifecycle,
//! which asks before it stops a guest as idle, and for which no answer is an end as well. So whoever does not use a guest
//! causes no wake-up here. These numbers are of the last look: a build shorter than [`BEAT`] may never be seen.

use super::chronicle::Chronicle;
use crate::{
    guest::sharing::Sharing,
    spec::MachineName,
    supervisor::{Handle, Phase},
};
use darwin_vz_agent::protocol::{Answer, Ask};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};

/// How often a guest in use is asked, and at least so many times before it is given up.
const BEAT: Duration = Duration::from_secs(5);
const BEATS: u32 = 4;

/// The pulse of one machine.
pub struct Pulse {
    /// Whose.
    pub name: MachineName,
    /// The machine.
    pub handle: Handle,
    /// Where builds are counted.
    pub chronicle: Arc<Chronicle>,
    /// What is held on the host for its guests, where something is.
    pub sharing: Option<Arc<Sharing>>,
    /// How long a guest in use may give no answer.
    pub hang_timeout: Duration,
}

impl Pulse {
    /// Takes it for as long as the machine's supervisor lives.
    pub async fn take(self) {
        let mut snapshots = self.handle.watch();
        let mut next = Instant::now();
        loop {
            let phase = snapshots.borrow_and_update().phase.clone();
            if has_leases(&phase) {
                let unused = async { snapshots.wait_for(|snapshot| !has_leases(&snapshot.phase)).await.is_ok() };
                let unused = tokio::select! {
                    unused = unused => Some(unused),
                    () = self.until_it_hangs(&mut next) => None,
                };
                match unused {
                    Some(true) => {}
                    Some(false) => return,
                    None => self.kill().await,
                }
                let moved = async { drop(snapshots.wait_for(|snapshot| !is_unused(&snapshot.phase)).await) };
                tokio::select! {
                    () = moved => {}
                    () = sleep_until(next) => {
                        next = Instant::now() + self.pause();
                        // No answer counts as no build, as it does to the lifecycle.
                        if self.look().await != Look::Busy && is_unused(&self.handle.snapshot().phase) {
                            self.rest();
                        }
                    }
                }
                continue;
            }
            match phase {
                // As the lifecycle has heard. Before it has asked it knows of none, which is no news.
                Phase::Running { builds: builds @ 1.., .. } => self.chronicle.builds(&self.name, builds),
                Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting => {}
                Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Failed { .. } => {
                    self.chronicle.builds(&self.name, 0);
                    self.rest();
                }
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks until no answer has come for so long. Any answer will do, and a guest on its way is none that hangs.
    async fn until_it_hangs(&self, next: &mut Instant) {
        let mut heard = Instant::now();
        while heard.elapsed() < self.hang_timeout {
            sleep_until(*next).await;
            // First, so that who comes while the answer is awaited, and goes, does not have it asked again.
            *next = Instant::now() + self.pause();
            if self.look().await != Look::Dead {
                heard = Instant::now();
            }
        }
    }

    fn pause(&self) -> Duration {
        (self.hang_timeout / BEATS).min(BEAT)
    }

    /// Asks, and counts what it says.
    async fn look(&self) -> Look {
        // A guest on its way builds nothing yet, and is none that hangs.
        let Some(agent) = self.handle.agent() else { return Look::Quiet };
        match timeout(self.hang_timeout, agent.ask(Ask::Builds)).await {
            Ok(Ok(Answer::Builds { running })) => {
                self.chronicle.builds(&self.name, running);
                if running > 0 { Look::Busy } else { Look::Quiet }
            }
            Ok(Ok(other)) => {
                tracing::debug!(machine = %self.name, "the guest was asked for its builds and answered {other:?}");
                Look::Quiet
            }
            Ok(Err(report)) => {
                tracing::debug!(machine = %self.name, "the guest did not say what it builds: {report}");
                Look::Dead
            }
            Err(_) => Look::Dead,
        }
    }

    fn rest(&self) {
        if let Some(sharing) = &self.sharing {
            sharing.rest();
        }
    }

    async fn kill(&self) {
        tracing::warn!(machine = %self.name, "the guest has not answered for {:?} and is killed", self.hang_timeout);
        if let Err(report) = self.handle.stop(true).await {
            tracing::warn!(machine = %self.name, "{report}");
        }
    }
}

/// What a guest shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It gives no answer.
    Dead,
    /// It builds nothing.
    Quiet,
    /// It builds.
    Busy,
}

fn is_unused(phase: &Phase) -> bool {
    matches!(phase, Phase::Running { leases: 0, .. })
}

fn has_leases(phase: &Phase) -> bool {
    matches!(phase, Phase::Running { leases: 1.., .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        guest::agent::Agent,
        hypervisor::sim::{Script, Sim},
        supervisor::{self, InMemory, Policy},
    };
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use tokio::time::sleep;
    use tokio_util::task::AbortOnDropHandle;

    const POLICY: Policy = Policy {
        idle: None,
        grace: Duration::ZERO,
        boot_timeout: Duration::MAX,
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };
    const LIMIT: Duration = Duration::from_secs(60);

    struct Bench {
        name: MachineName,
        handle: Handle,
        chronicle: Arc<Chronicle>,
        _pulse: AbortOnDropHandle<()>,
    }

    impl Bench {
        fn new(agent: Agent, policy: Policy) -> Bench {
            let name: MachineName = "builder".parse().unwrap();
            let preparation = Arc::new(InMemory::with(agent));
            let handle = supervisor::spawn(name.clone(), Arc::new(Sim::new(Script::default())), preparation, policy);
            let chronicle = Arc::new(Chronicle::default());
            let pulse = Pulse {
                name: name.clone(),
                handle: handle.clone(),
                chronicle: Arc::clone(&chronicle),
                sharing: None,
                hang_timeout: LIMIT,
            };
            Bench { name, handle, chronicle, _pulse: AbortOnDropHandle::new(tokio::spawn(pulse.take())) }
        }

        fn running(&self) -> u32 {
            self.chronicle.builds_of(&self.name).running
        }
    }

    /// An agent with so many builds, and how often it was asked for them.
    fn agent() -> (Agent, Arc<AtomicU32>, Arc<AtomicU32>) {
        let (builds, asked) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let theirs = (Arc::clone(&builds), Arc::clone(&asked));
        let agent = Agent::that_says(move |ask| match ask {
            Ask::Builds => {
                theirs.1.fetch_add(1, Relaxed);
                Answer::Builds { running: theirs.0.load(Relaxed) }
            }
            _ => Answer::Done,
        });
        (agent, builds, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_in_use_is_asked_once_in_a_beat_and_an_unused_one_never() {
        let (agent, builds, asked) = agent();
        let bench = Bench::new(agent, POLICY);
        drop(bench.handle.acquire().await.unwrap());
        sleep(BEAT * 100).await;
        asked.store(0, Relaxed);
        let lease = bench.handle.acquire().await.unwrap();
        builds.store(2, Relaxed);
        sleep(BEAT * 10 + BEAT / 2).await;
        assert_eq!((bench.running(), asked.load(Relaxed)), (2, 11), "at once, and then with every beat");
        // Connections that come and go add nothing to it.
        for _ in 0..100 {
            drop(bench.handle.acquire().await.unwrap());
            sleep(BEAT / 10).await;
        }
        assert_eq!(asked.load(Relaxed), 21);
        builds.store(0, Relaxed);
        drop(lease);
        sleep(BEAT * 1000).await;
        assert_eq!((bench.running(), asked.load(Relaxed)), (0, 22), "once more, to hear that they are over");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_again_and_again_alone_does_not_have_it_asked_each_time() {
        let (agent, _, asked) = agent();
        let bench = Bench::new(agent, POLICY);
        for _ in 0..100 {
            let lease = bench.handle.acquire().await.unwrap();
            sleep(BEAT / 20).await;
            drop(lease);
            sleep(BEAT / 20).await;
        }
        let asked = asked.load(Relaxed);
        assert!((9..=11).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_a_guest_without_a_lease_is_asked_by_the_lifecycle_alone() {
        let (agent, builds, asked) = agent();
        let idle = Some(Duration::from_secs(600));
        let bench = Bench::new(agent, Policy { idle, ..POLICY });
        builds.store(1, Relaxed);
        let lease = bench.handle.acquire().await.unwrap();
        sleep(BEAT * 2).await;
        drop(lease);
        sleep(BEAT * 2).await;
        assert_eq!(bench.running(), 1);
        asked.store(0, Relaxed);
        sleep(Duration::from_secs(600 + 5 * 60 - 30)).await;
        assert_eq!((bench.running(), asked.load(Relaxed)), (1, 5), "after the idle time, and then each minute");
        builds.store(0, Relaxed);
        sleep(Duration::from_secs(61)).await;
        assert_eq!(bench.running(), 0);
        assert!(bench.handle.snapshot().phase.is_at_rest());
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_in_use_that_does_not_answer_is_killed_and_one_that_answers_never() {
        let bench = Bench::new(agent().0, POLICY);
        let lease = bench.handle.acquire().await.unwrap();
        sleep(Duration::from_secs(100_000)).await;
        assert!(bench.handle.snapshot().phase.is_running());
        drop(lease);

        let bench = Bench::new(Agent::detached(), POLICY);
        let lease = bench.handle.acquire().await.unwrap();
        sleep(LIMIT - Duration::from_secs(1)).await;
        assert!(bench.handle.snapshot().phase.is_running());
        sleep(BEAT * 2).await;
        assert!(bench.handle.snapshot().phase.is_at_rest(), "{:?}", bench.handle.snapshot().phase);
        drop(lease);
        bench.handle.acquire().await.expect("and the next demand boots");
    }
}
