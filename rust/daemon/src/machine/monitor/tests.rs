//! The monitor of a guest in memory, under a paused clock: when the guest is asked, what is published, when it is killed.

use super::{
    super::{
        activity::PROBE_INTERVAL as INTERVAL,
        observe,
        watched::{Watched, name},
    },
    *,
};
use crate::events::Events;
use dvn_hypervisor::{GuestAgent, sim::Script, sim_agent};
use dvn_lifecycle::Policy;
use dvn_protocol::messages::Answer;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(60);

struct Bench {
    handle: Handle,
    events: Arc<Events>,
    watched: Watched,
    let_go: Arc<AtomicU32>,
}

impl Bench {
    fn new(agent: Arc<dyn GuestAgent>, policy: Policy) -> Bench {
        Bench::with(agent, policy, Some(LIMIT))
    }

    fn with(agent: Arc<dyn GuestAgent>, policy: Policy, hang_timeout: Option<Duration>) -> Bench {
        Bench::of(Script::default(), agent, policy, hang_timeout)
    }

    fn of(script: Script, agent: Arc<dyn GuestAgent>, policy: Policy, hang_timeout: Option<Duration>) -> Bench {
        let mut watched = Watched::new(script, agent, policy, hang_timeout);
        let events = Arc::new(Events::default());
        watched.tasks.spawn(observe::builds(name(), watched.activities.clone(), Arc::clone(&events)));
        let let_go = Arc::<AtomicU32>::default();
        let (mut activities, theirs) = (watched.activities.clone(), Arc::clone(&let_go));
        watched.tasks.spawn(async move {
            while activities.wait_for(|now| now.settled).await.is_ok() {
                theirs.fetch_add(1, Relaxed);
                if activities.changed().await.is_err() {
                    return;
                }
            }
        });
        Bench { handle: watched.handle.clone(), events, watched, let_go }
    }

    fn building(&self) -> bool {
        self.watched.activity().builds > 0
    }

    fn running(&self) -> u32 {
        self.events.builds_of(&name()).running
    }
}

/// An agent, the number of builds that it reports, and how often it was asked for them.
fn agent() -> (Arc<dyn GuestAgent>, Arc<AtomicU32>, Arc<AtomicU32>) {
    let (builds, asked) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let theirs = (Arc::clone(&builds), Arc::clone(&asked));
    let agent = sim_agent::that_says(move |ask| match ask {
        Ask::Builds => {
            theirs.1.fetch_add(1, Relaxed);
            Answer::Builds { running: theirs.0.load(Relaxed) }
        }
        _ => Answer::Done,
    });
    (agent, builds, asked)
}

#[tokio::test(start_paused = true)]
async fn a_guest_in_use_is_asked_once_per_interval_and_an_unused_one_never() {
    let (agent, builds, asked) = agent();
    let bench = Bench::new(agent, Policy::TIMELESS);
    drop(bench.handle.acquire().await.unwrap());
    sleep(INTERVAL * 100).await;
    asked.store(0, Relaxed);
    let lease = bench.handle.acquire().await.unwrap();
    builds.store(2, Relaxed);
    sleep(INTERVAL * 10 + INTERVAL / 2).await;
    assert_eq!((bench.running(), asked.load(Relaxed)), (2, 11), "at once, and then once per interval");
    // Short connections cause no further questions.
    for _ in 0..100 {
        drop(bench.handle.acquire().await.unwrap());
        sleep(INTERVAL / 10).await;
    }
    assert_eq!(asked.load(Relaxed), 21);
    builds.store(0, Relaxed);
    drop(lease);
    sleep(INTERVAL * 1000).await;
    assert_eq!((bench.running(), asked.load(Relaxed)), (0, 22), "once more, to learn that they are over");
}

#[tokio::test(start_paused = true)]
async fn repeated_short_connections_do_not_cause_a_question_each() {
    let (agent, _, asked) = agent();
    let bench = Bench::new(agent, Policy::TIMELESS);
    for _ in 0..100 {
        let lease = bench.handle.acquire().await.unwrap();
        sleep(INTERVAL / 20).await;
        drop(lease);
        sleep(INTERVAL / 20).await;
    }
    let asked = asked.load(Relaxed);
    assert!((9..=11).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_only_builds_is_asked_each_minute_before_its_idle_time_is_over_and_after_it() {
    for idle in [None, Some(Duration::from_secs(3630))] {
        let (agent, builds, asked) = agent();
        let bench = Bench::new(agent, Policy { idle, ..Policy::TIMELESS });
        let lease = bench.handle.acquire().await.unwrap();
        sleep(INTERVAL * 2 + INTERVAL / 2).await;
        // Begun between the last question and the end of the last connection.
        builds.store(2, Relaxed);
        drop(lease);
        sleep(INTERVAL).await;
        assert_eq!((bench.running(), bench.building()), (2, true));
        asked.store(0, Relaxed);
        bench.let_go.store(0, Relaxed);
        sleep(LOOK_AGAIN * 60).await;
        assert_eq!((bench.running(), asked.load(Relaxed)), (2, 60), "{idle:?}");
        builds.store(1, Relaxed);
        sleep(LOOK_AGAIN * 60).await;
        // The lifecycle's minute begins at another time.
        let times = asked.swap(0, Relaxed);
        assert!(bench.running() == 1 && (120..=121).contains(&times), "{idle:?}: {times}");
        assert!(bench.building() && bench.handle.snapshot().phase.is_running());
        assert_eq!(bench.let_go.load(Relaxed), 0, "the store paths that it builds with are held");
        builds.store(0, Relaxed);
        sleep(LOOK_AGAIN * 1000).await;
        assert_eq!((bench.running(), bench.building(), asked.load(Relaxed)), (0, false, 1), "{idle:?}");
        assert_eq!(bench.handle.snapshot().phase.is_at_rest(), idle.is_some());
        assert!(bench.let_go.load(Relaxed) > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn builds_do_not_move_the_end_of_the_idle_time() {
    let (agent, builds, _) = agent();
    let bench = Bench::new(agent, Policy { idle: Some(Duration::from_secs(3600)), ..Policy::TIMELESS });
    builds.store(1, Relaxed);
    drop(bench.handle.acquire().await.unwrap());
    sleep(Duration::from_secs(1800)).await;
    builds.store(0, Relaxed);
    sleep(Duration::from_secs(1790)).await;
    assert!(bench.handle.snapshot().phase.is_running());
    sleep(Duration::from_secs(20)).await;
    assert!(bench.handle.snapshot().phase.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_lease_between_two_looks_causes_a_question() {
    let (agent, builds, asked) = agent();
    let bench = Bench::new(agent, Policy::TIMELESS);
    drop(bench.handle.acquire().await.unwrap());
    sleep(INTERVAL * 10).await;
    asked.store(0, Relaxed);
    let uses = bench.handle.snapshot().counters.uses;
    // Between the two only the supervisor runs on this thread.
    bench.handle.start(dvn_types::Sizes::default()).await.unwrap();
    assert_eq!(bench.handle.snapshot().counters.uses, uses + 1);
    builds.store(1, Relaxed);
    sleep(INTERVAL * 2).await;
    assert!(bench.building() && asked.load(Relaxed) >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_builds_without_a_connection_and_hangs_is_killed_as_well() {
    let (builds, hangs) = (Arc::new(AtomicU32::new(1)), Arc::<AtomicU32>::default());
    let theirs = (Arc::clone(&builds), Arc::clone(&hangs));
    let agent = sim_agent::that_may_say(move |_| {
        (theirs.1.load(Relaxed) == 0).then(|| Answer::Builds { running: theirs.0.load(Relaxed) })
    });
    let bench = Bench::new(agent.clone(), Policy::TIMELESS);
    drop(bench.handle.acquire().await.unwrap());
    sleep(INTERVAL * 2).await;
    // A late answer is not a hang.
    for _ in 0..20 {
        hangs.store(1, Relaxed);
        sleep(LIMIT / 2).await;
        hangs.store(0, Relaxed);
        sleep(LIMIT * 2).await;
        assert!(bench.building(), "the last answer still counts");
    }
    hangs.store(1, Relaxed);
    sleep(LOOK_AGAIN + LIMIT - Duration::from_secs(1)).await;
    sleep(INTERVAL).await;
    assert!(bench.handle.snapshot().phase.is_at_rest(), "{:?}", bench.handle.snapshot().phase);
    assert!(!bench.building());
}

#[tokio::test(start_paused = true)]
async fn a_guest_does_not_pay_for_the_silence_of_the_one_before() {
    let hangs = Arc::new(AtomicU32::new(1));
    let theirs = Arc::clone(&hangs);
    let agent = sim_agent::that_may_say(move |_| (theirs.load(Relaxed) == 0).then_some(Answer::Builds { running: 0 }));
    let script = Script { deaf_to_kill: LIMIT + Duration::from_secs(1), ..Script::default() };
    let bench = Bench::of(script, agent, Policy::TIMELESS, Some(LIMIT));
    let lease = bench.handle.acquire().await.unwrap();
    // A demand during the stop boots the next guest at once: no snapshot shows the guest off.
    let stopping = |snapshot: &dvn_lifecycle::Snapshot| matches!(snapshot.phase, Phase::Stopping { .. });
    timeout(LIMIT * 2, bench.handle.watch().wait_for(stopping)).await.unwrap().unwrap();
    hangs.store(0, Relaxed);
    drop(lease);
    let lease = bench.handle.acquire().await.unwrap();
    sleep(LIMIT * 3).await;
    assert_eq!((bench.handle.snapshot().boots, bench.handle.snapshot().phase.is_running()), (2, true));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_no_guest_is_killed() {
    let bench = Bench::with(sim_agent::detached(), Policy::TIMELESS, None);
    let lease = bench.handle.acquire().await.unwrap();
    sleep(Duration::from_secs(100_000)).await;
    assert!(bench.handle.snapshot().phase.is_running());
    drop(lease);
    sleep(Duration::from_secs(100_000)).await;
    assert!(bench.handle.snapshot().phase.is_running());
}

#[tokio::test(start_paused = true)]
async fn a_guest_in_use_that_does_not_answer_is_killed_and_one_that_answers_never() {
    let bench = Bench::new(agent().0, Policy::TIMELESS);
    let lease = bench.handle.acquire().await.unwrap();
    sleep(Duration::from_secs(100_000)).await;
    assert!(bench.handle.snapshot().phase.is_running());
    drop(lease);

    let bench = Bench::new(sim_agent::detached(), Policy::TIMELESS);
    let lease = bench.handle.acquire().await.unwrap();
    sleep(LIMIT - Duration::from_secs(1)).await;
    assert!(bench.handle.snapshot().phase.is_running());
    sleep(INTERVAL * 2).await;
    assert!(bench.handle.snapshot().phase.is_at_rest(), "{:?}", bench.handle.snapshot().phase);
    drop(lease);
    bench.handle.acquire().await.expect("and the next demand boots");
}
