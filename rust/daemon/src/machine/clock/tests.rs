//! A guest's clock, under a paused clock of the host.

use super::{
    super::{
        activity::LINGER,
        watched::{Watched, name},
    },
    *,
};
use dvn_hypervisor::{GuestListener, GuestStream, sim_agent};
use dvn_lifecycle::LOOK_AGAIN;
use dvn_protocol::messages::{Answer, Ask, FromAgent, Request};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::{mpsc, watch},
    time::{advance, sleep},
};

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

/// An agent that counts how often it was asked to set its clock.
fn counting() -> (Arc<dyn GuestAgent>, Arc<AtomicU32>) {
    let asked = Arc::<AtomicU32>::default();
    let theirs = Arc::clone(&asked);
    let agent = sim_agent::that_says(move |_| {
        theirs.fetch_add(1, Relaxed);
        Answer::Done
    });
    (agent, asked)
}

/// Under the paused clock the wall clock moves on by itself, so that `advance` by much is a jump.
#[tokio::test(start_paused = true)]
async fn the_guest_is_asked_for_each_connection_and_once_for_those_that_come_together() {
    let (agent, asked) = counting();
    let clock = GuestClock::new("builder".parse().unwrap());
    let crowd = async |boot| {
        futures_util::future::join_all((0..20).map(|_| clock.put_right(boot, &agent))).await;
        asked.load(Relaxed)
    };
    for connections in 1..4 {
        assert_eq!(crowd(1).await, connections, "the guest may have changed its clock since");
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(crowd(2).await, 4, "another guest");
    advance(Duration::from_secs(3600)).await;
    assert_eq!(crowd(2).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_guest_in_use_is_asked_again_only_after_a_jump() {
    let (agent, asked) = counting();
    let clock = GuestClock::new("builder".parse().unwrap());
    for _ in 0..20 {
        clock.follow(1, &agent).await;
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(asked.load(Relaxed), 1);
    advance(Duration::from_secs(5)).await;
    clock.follow(1, &agent).await;
    assert_eq!(asked.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_delays_no_connection_for_long_and_is_asked_again() {
    let clock = GuestClock::new("builder".parse().unwrap());
    let silent = sim_agent::that_may_say(|_| None);
    let begun = Instant::now();
    futures_util::future::join_all((0..20).map(|_| clock.put_right(1, &silent))).await;
    assert_eq!(begun.elapsed(), TIMEOUT);
    let (agent, asked) = counting();
    clock.put_right(1, &agent).await;
    assert_eq!(asked.load(Relaxed), 1);

    advance(Duration::from_millis(1)).await;
    let begun = Instant::now();
    clock.put_right(1, &silent).await;
    assert_eq!(begun.elapsed(), SHORT_TIMEOUT, "its clock was right a moment ago");
}

/// A guest in memory whose agent answers everything, and how often it was asked to set its clock.
async fn machine() -> (Watched, watch::Receiver<u32>) {
    let (counter, asked) = watch::channel(0);
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
            counter.send_modify(|n| *n += u32::from(matches!(request.ask, Ask::SetClock { .. })));
            let reply = FromAgent::Reply { id: request.id, result: Ok(Answer::Done) };
            write.write_all(format!("{}\n", serde_json::to_string(&reply).unwrap()).as_bytes()).await.unwrap();
        }
    });
    let (agent, _) =
        dvn_guest::agent::Agent::await_ready(GuestListener::new(incoming, None), "t".into()).await.unwrap();
    (Watched::timeless(Arc::new(agent)), asked)
}

impl Watched {
    fn follow_the_clock(&mut self) {
        let clock = Arc::new(GuestClock::new(name()));
        self.tasks.spawn(during(clock, self.handle.clone(), self.uses()));
    }
}

/// Under the paused clock hours pass while the wall clock does not advance: to this program the host's clocks keep jumping.
#[tokio::test(start_paused = true)]
async fn a_guest_in_use_sets_its_clock_after_each_jump_and_an_unused_one_never() {
    let (mut watched, asked) = machine().await;
    watched.follow_the_clock();
    let handle = watched.handle.clone();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(*asked.borrow(), 0, "it is unused");
    let lease = handle.acquire().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    let times = *asked.borrow();
    assert!((9..=12).contains(&times), "at once, and within a second of each jump: {times}");
    drop(lease);
    sleep(LINGER * 2).await;
    let times = *asked.borrow();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(*asked.borrow(), times, "it is unused again");
    assert!(watched.tasks.try_join_next().is_none_or(|ended| ended.is_ok()), "a task was lost");
    let _lease = handle.acquire().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!(*asked.borrow() > times, "it works in the next use");
}

#[tokio::test(start_paused = true)]
async fn a_use_ends_at_once_when_the_guest_is_off() {
    let (mut watched, asked) = machine().await;
    watched.follow_the_clock();
    let (handle, mut uses) = (watched.handle.clone(), watched.uses());
    let lease = handle.acquire().await.unwrap();
    assert!(uses.begins().await);
    let began = Instant::now();
    drop(lease);
    handle.stop(true).await.unwrap();
    uses.ends().await;
    assert!(began.elapsed() < LOOK, "{:?}", began.elapsed());
    assert!(*asked.borrow() <= 1);
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_a_guest_that_builds_without_a_connection_is_kept_until_the_end_of_the_build() {
    let (builds, asked) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let theirs = (Arc::clone(&builds), Arc::clone(&asked));
    let agent = sim_agent::that_says(move |ask| match ask {
        Ask::Builds => Answer::Builds { running: theirs.0.load(Relaxed) },
        Ask::SetClock { .. } => {
            theirs.1.fetch_add(1, Relaxed);
            Answer::Done
        }
        _ => Answer::Done,
    });
    let mut watched = Watched::timeless(agent);
    watched.follow_the_clock();
    let handle = watched.handle.clone();
    let times = || asked.swap(0, Relaxed);
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
async fn a_resumed_guest_sets_its_clock_before_the_first_lease() {
    let (Watched { handle, .. }, asked) = machine().await;
    drop(handle.acquire().await.unwrap());
    handle.pause().await.unwrap();
    assert_eq!(*asked.borrow(), 0);
    let _lease = handle.acquire().await.unwrap();
    assert_eq!(*asked.borrow(), 1);
}
