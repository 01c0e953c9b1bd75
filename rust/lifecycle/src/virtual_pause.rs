//! Pauses, under a paused clock, with the fixtures of `virtual_time`.

use super::{
    Phase,
    pause_jobs::PAUSE_TIMEOUT,
    virtual_time::{MINUTE, POLICY, Rig, Way},
};
use dvn_hypervisor::{Exit, sim::Script};
use dvn_types::Kind;
use std::{sync::atomic::Ordering::SeqCst, time::Duration};
use tokio::time::{Instant, sleep};

const PAUSED: Phase = Phase::Paused { leases: 0, resuming: false };

fn pauses(rig: &Rig) -> (usize, usize) {
    (rig.sim.counters().pauses.load(SeqCst), rig.sim.counters().resumes.load(SeqCst))
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_stays_paused_for_days_until_a_demand() {
    let rig = Rig::healthy();
    let lease = rig.machine.acquire().await.unwrap();
    rig.machine.pause().await.unwrap();
    assert_eq!(rig.phase(), Phase::Paused { leases: 1, resuming: false }, "a lease is kept");
    rig.machine.pause().await.unwrap();
    drop(lease);
    sleep(100 * 24 * 60 * MINUTE).await;
    assert_eq!((rig.phase(), pauses(&rig)), (PAUSED, (1, 0)), "idle time does not count");

    let lease = rig.machine.acquire().await.unwrap();
    assert_eq!((rig.leases(), rig.boots(), pauses(&rig)), (1, 1, (1, 1)));
    drop(lease);
    let begun = Instant::now();
    rig.until(Phase::is_at_rest).await;
    assert!(begun.elapsed() >= 180 * MINUTE, "the idle time begins anew");
    let counters = rig.machine.snapshot().counters;
    assert_eq!((counters.ready, counters.failed, counters.restarts), (1, 0, 0));
    assert_eq!((counters.pauses, counters.exits), (1, [1, 0, 0]));
    let idle = counters.idle(Instant::now());
    assert!(idle >= 180 * MINUTE && idle < 181 * MINUTE, "{idle:?}");
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn resume_does_not_boot() {
    let rig = Rig::healthy();
    for refused in [rig.machine.pause().await, rig.machine.resume().await] {
        assert_eq!(refused.unwrap_err().kind, Kind::Busy);
    }
    assert_eq!(rig.boots(), 0);
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.resume().await.unwrap();
    assert_eq!(pauses(&rig), (0, 0), "there was nothing to resume");
    rig.machine.pause().await.unwrap();
    rig.machine.resume().await.unwrap();
    assert!(rig.phase().is_running());
    assert_eq!((rig.boots(), pauses(&rig)), (1, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_is_powered_off_and_not_killed() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.pause().await.unwrap();
    rig.machine.stop(false).await.unwrap();
    assert_eq!(rig.phase(), Phase::Stopped { last: Some(Exit::PoweredOff) });
    assert_eq!((rig.kills(), pauses(&rig)), (0, (1, 1)), "it was resumed, so that it reacts to its power button");

    drop(rig.machine.acquire().await.unwrap());
    rig.machine.pause().await.unwrap();
    rig.machine.stop(true).await.unwrap();
    assert_eq!((rig.phase(), pauses(&rig)), (Phase::Stopped { last: Some(Exit::Killed) }, (2, 1)));
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_the_hypervisor_does_not_pause_keeps_running() {
    let rig = Rig::new(Script { pause_error: Some("no".into()), ..Script::default() }, Way::default(), POLICY);
    let _lease = rig.machine.acquire().await.unwrap();
    assert_eq!(rig.machine.pause().await.unwrap_err().message, "no");
    assert_eq!(rig.leases(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_be_resumed_is_replaced() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.pause().await.unwrap();
    rig.sim.rescript(|script| script.halts_wedged = true);
    let begun = Instant::now();
    let _lease = rig.machine.acquire().await.unwrap();
    assert!(begun.elapsed() < PAUSE_TIMEOUT + Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((rig.boots(), rig.kills(), rig.leases()), (2, 1, 1));

    // The guest of that boot cannot be paused, either, and no demand waits for another.
    let refused = rig.machine.pause().await.unwrap_err();
    assert!(refused.message.contains("did not pause"), "{refused}");
    rig.until(Phase::is_at_rest).await;
    assert_eq!((rig.boots(), rig.machine.snapshot().counters.restarts), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_dies_while_paused_is_noticed() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.pause().await.unwrap();
    rig.sim.guest().unwrap().end(Exit::Crashed("QEMU was killed".into()));
    rig.until(Phase::is_at_rest).await;
    drop(rig.machine.acquire().await.unwrap());
    assert_eq!(rig.boots(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_daemon_ends_a_paused_guest() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.pause().await.unwrap();
    rig.machine.shut_down().await;
    rig.assert_nothing_left();
    assert_eq!(rig.machine.resume().await.unwrap_err().kind, Kind::Busy);
}
