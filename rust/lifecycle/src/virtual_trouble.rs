//! Failures of a guest, under a paused clock, with the fixtures of `virtual_time`.

use super::{
    BootEvent, Phase, Policy,
    virtual_time::{MINUTE, POLICY, Rig, Way, breathe},
};
use dvn_hypervisor::{Exit, sim::Script};
use dvn_types::{Kind, Sizes};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn unready() -> Way {
    Way { ready: None, ..Way::default() }
}

#[tokio::test(start_paused = true)]
async fn a_deaf_guest_is_asked_every_second_and_killed_after_the_grace() {
    let rig = Rig::new(Script { deaf_to_presses: usize::MAX, ..Script::default() }, Way::default(), POLICY);
    let _lease = rig.machine.acquire().await.unwrap();
    let asked = Instant::now();
    rig.machine.stop(false).await.unwrap();
    assert_eq!((asked.elapsed().as_secs(), rig.kills()), (30, 1));
    assert_eq!(rig.sim.counters().presses.load(SeqCst), 30);
    assert_eq!(rig.phase(), Phase::Stopped { last: Some(Exit::Killed) });
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_has_ended_is_dropped() {
    let rig = Rig::healthy();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.stop(false).await.unwrap();
    breathe().await;
    assert!(rig.sim.guest().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_press_of_the_power_button_is_repeated() {
    let rig = Rig::new(Script { deaf_to_presses: 2, ..Script::default() }, Way::default(), POLICY);
    drop(rig.machine.acquire().await.unwrap());
    let asked = Instant::now();
    rig.machine.stop(false).await.unwrap();
    assert_eq!((asked.elapsed().as_secs(), rig.kills()), (2, 0));
    assert_eq!(rig.phase(), Phase::Stopped { last: Some(Exit::PoweredOff) });
}

#[tokio::test(start_paused = true)]
async fn force_kills_at_once_also_while_stopping() {
    let rig = Rig::new(Script { deaf_to_presses: usize::MAX, ..Script::default() }, Way::default(), POLICY);
    drop(rig.machine.acquire().await.unwrap());
    let asked = Instant::now();
    let gentle = tokio::spawn({
        let machine = rig.machine.clone();
        async move { machine.stop(false).await }
    });
    sleep(5 * SECOND).await;
    rig.machine.stop(true).await.unwrap();
    gentle.await.unwrap().unwrap();
    assert_eq!((asked.elapsed().as_secs(), rig.kills()), (5, 1));
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_outlives_kills_is_killed_again_until_it_ends() {
    let script = Script { deaf_to_kill: 40 * SECOND, ..Script::default() };
    let rig = Rig::new(script, Way::default(), POLICY);
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.stop(true).await.unwrap();
    assert_eq!(rig.kills(), 3, "at once, after 30 s and after 60 s");
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_guest_that_never_ends_get_an_error() {
    let rig = Rig::new(Script { deaf_to_kill: 10 * MINUTE, ..Script::default() }, Way::default(), POLICY);
    drop(rig.machine.acquire().await.unwrap());
    let asked = Instant::now();
    let (stopped, demanded) = tokio::join!(rig.machine.stop(true), async {
        sleep(SECOND).await;
        rig.machine.acquire().await
    });
    assert_eq!((stopped.unwrap_err().kind, demanded.unwrap_err().kind), (Kind::Busy, Kind::Busy));
    assert_eq!(asked.elapsed().as_secs(), 90);
    rig.until(Phase::is_at_rest).await;
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_wedged_hypervisor_does_not_block_the_supervisor() {
    let rig = Rig::new(Script { verbs_wedged: true, ..Script::default() }, Way::default(), POLICY);
    drop(rig.machine.acquire().await.unwrap());
    let asked = Instant::now();
    rig.machine.stop(false).await.unwrap();
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.stop(true).await.unwrap();
    assert!(asked.elapsed() < 3 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failed_boot_tells_every_waiter_and_a_second_one_backs_off_doubling_to_a_cap() {
    let script = Script { boot_error: Some("no such accelerator".into()), ..Script::default() };
    let rig = Rig::new(script, Way::default(), POLICY);
    let (a, b, c) = tokio::join!(rig.machine.acquire(), rig.machine.acquire(), rig.machine.acquire());
    for answer in [a, b, c] {
        assert_eq!(answer.unwrap_err().message, "no such accelerator");
    }
    assert_eq!(rig.prepared.explained.load(SeqCst), 0, "without a guest the console has the output of another boot");
    rig.machine.acquire().await.unwrap_err();
    for (boots, backoff) in [10u64, 20, 40, 60, 60].into_iter().enumerate() {
        let boots = boots + 1;
        assert_eq!(rig.boots(), boots + 1);
        sleep(Duration::from_secs(backoff) - SECOND).await;
        let before = Instant::now();
        let refusal = rig.machine.acquire().await.unwrap_err();
        assert_eq!(before.elapsed(), Duration::ZERO, "refused at once");
        assert_eq!(refusal.message, "no such accelerator");
        assert!(refusal.hints.last().unwrap().contains("after 1s "), "{refusal:?}");
        let Phase::Failed { attempts, retry_at, .. } = rig.phase() else { panic!("{:?}", rig.phase()) };
        let retry_in_ms = retry_at.saturating_duration_since(Instant::now()).as_millis();
        assert_eq!(attempts as usize, boots + 1);
        assert!((900..=1000).contains(&retry_in_ms), "{retry_in_ms}");
        assert_eq!(rig.boots(), boots + 1, "no boot within the back-off");
        sleep(SECOND).await;
        rig.machine.acquire().await.unwrap_err();
    }
    // A boot that succeeds begins the count anew.
    rig.sim.rescript(|script| script.boot_error = None);
    sleep(60 * SECOND).await;
    drop(rig.machine.acquire().await.unwrap());
    rig.machine.stop(false).await.unwrap();
    rig.sim.rescript(|script| script.boot_error = Some("again".into()));
    rig.machine.acquire().await.unwrap_err();
    assert!(matches!(rig.phase(), Phase::Failed { attempts: 1, .. }));
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_explicit_start_insists_through_the_back_off() {
    let rig = Rig::new(Script { boot_error: Some("no".into()), ..Script::default() }, Way::default(), POLICY);
    rig.machine.acquire().await.unwrap_err();
    rig.machine.start(Sizes::default()).await.unwrap_err();
    assert_eq!(rig.boots(), 2);
    rig.sim.rescript(|script| script.boot_error = None);
    rig.machine.start(Sizes::default()).await.unwrap();
    breathe().await;
    assert_eq!((rig.boots(), rig.leases(), rig.machine.snapshot().boots), (3, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_failed_preparation_never_reaches_the_hypervisor() {
    let way = Way { prepare_error: Some("the bundle has no kernel".into()), ..Way::default() };
    let rig = Rig::new(Script::default(), way, POLICY);
    let refusal = rig.machine.acquire().await.unwrap_err();
    assert_eq!((refusal.kind, refusal.message.as_str()), (Kind::Bundle, "the bundle has no kernel"));
    assert_eq!((rig.boots(), rig.machine.snapshot().boots), (0, 1));
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn panics_are_failures() {
    let way = Way { prepare_panics: true, ..Way::default() };
    let rig = Rig::new(Script { boot_panics: true, ..Script::default() }, way, POLICY);
    let refusal = rig.machine.acquire().await.unwrap_err();
    assert!(refusal.kind == Kind::Internal && refusal.message.contains("the preparation panicked"), "{refusal:?}");
    rig.prepared.way.lock().unwrap().prepare_panics = false;
    let refusal = rig.machine.start(Sizes::default()).await.unwrap_err();
    assert!(refusal.kind == Kind::Internal && refusal.message.contains("the script says so"), "{refusal:?}");
    rig.sim.rescript(|script| script.boot_panics = false);
    rig.machine.start(Sizes::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_gets_ready_is_killed_and_the_cause_explained() {
    let rig = Rig::new(Script::default(), unready(), POLICY);
    let asked = Instant::now();
    let refusal = rig.machine.acquire().await.unwrap_err();
    assert_eq!(asked.elapsed().as_secs(), 120);
    assert!(refusal.message.contains("not ready within 2m"), "{refusal:?}");
    assert!(refusal.hints.iter().any(|hint| hint.contains("no init found")), "{refusal:?}");
    rig.until(Phase::is_at_rest).await;
    let Phase::Failed { cause, attempts: 1, .. } = rig.phase() else { panic!("{:?}", rig.phase()) };
    assert_eq!(cause, refusal, "the status shows the waiter's error");
    assert_eq!(rig.kills(), 1);
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_explanation_that_does_not_come_delays_little() {
    let way =
        Way { explain_wedged: true, ready_error: Some("the agent is of another version".into()), ..Way::default() };
    let rig = Rig::new(Script::default(), way, POLICY);
    let refusal = timeout(10 * SECOND, rig.machine.acquire()).await.unwrap().unwrap_err();
    assert_eq!(refusal.message, "the agent is of another version");
    rig.until(Phase::is_at_rest).await;
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_booting_tells_how_the_guest_ended() {
    let crash_after = Some(Duration::from_millis(300));
    // The agent's connection breaks a moment before the hypervisor notices.
    let way =
        Way { ready: Some(Duration::from_millis(200)), ready_error: Some("connection lost".into()), ..Way::default() };
    let rig = Rig::new(Script { crash_after, ..Script::default() }, way, POLICY);
    let refusal = rig.machine.acquire().await.unwrap_err();
    assert!(refusal.message.contains("kernel panic"), "{refusal:?}");
    assert_eq!(rig.kills(), 0);
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_wedged_boot_is_given_up_and_cancelled() {
    let rig = Rig::new(Script { boot_wedged: true, ..Script::default() }, Way::default(), POLICY);
    let asked = Instant::now();
    let refusal = rig.machine.acquire().await.unwrap_err();
    assert_eq!((refusal.kind, asked.elapsed().as_secs()), (Kind::Boot, 120));
    rig.until(Phase::is_at_rest).await;
    assert_eq!(rig.sim.counters().cancelled.load(SeqCst), 1);
    rig.sim.rescript(|script| script.boot_wedged = false);
    rig.machine.start(Sizes::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_during_each_part_of_a_boot_comes_to_rest() {
    // In the preparation, in the hypervisor, in the guest.
    for (after, prepares, boots, kills) in [(50, 1, 0, 0), (250, 1, 1, 0), (700, 1, 1, 1)] {
        let rig = Rig::healthy();
        let waiter = tokio::spawn({
            let machine = rig.machine.clone();
            async move { machine.acquire().await }
        });
        sleep(Duration::from_millis(after)).await;
        let asked = Instant::now();
        rig.machine.stop(false).await.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(100), "after {after} ms: {:?}", asked.elapsed());
        assert_eq!(waiter.await.unwrap().unwrap_err().kind, Kind::Busy);
        assert_eq!(rig.prepared.finished.load(SeqCst), prepares, "a preparation is never dropped");
        assert_eq!((rig.boots(), rig.kills()), (boots, kills), "after {after} ms");
        assert!(matches!(rig.phase(), Phase::Stopped { .. }), "a stop is no failure");
        rig.assert_nothing_left();
        drop(rig.machine.acquire().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn demand_stop_and_a_boot_that_fails_comes_to_rest() {
    let way = Way { prepare_error: Some("no".into()), prepare: 10 * SECOND, ..Way::default() };
    let rig = Rig::new(Script::default(), way, POLICY);
    let (demanded, stopped) = tokio::join!(rig.machine.acquire(), async {
        sleep(SECOND).await;
        rig.machine.stop(false).await
    });
    assert_eq!(demanded.unwrap_err().kind, Kind::Busy);
    stopped.unwrap();
    assert_eq!(rig.phase(), Phase::Stopped { last: None });
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_next_demand_boots_and_old_leases_do_no_harm() {
    let rig = Rig::healthy();
    let old = (rig.machine.acquire().await.unwrap(), rig.machine.acquire().await.unwrap());
    rig.sim.guest().unwrap().end(Exit::Crashed("qemu was killed".into()));
    rig.until(Phase::is_at_rest).await;
    let crashed = Phase::Stopped { last: Some(Exit::Crashed("qemu was killed".into())) };
    assert_eq!(rig.phase(), crashed);
    assert!(old.0.guest().connect(22).await.is_err());
    let dead = std::sync::Arc::downgrade(old.0.guest());
    let _new = rig.machine.acquire().await.unwrap();
    drop(old);
    breathe().await;
    assert_eq!((rig.boots(), rig.leases()), (2, 1));
    assert_eq!(dead.strong_count(), 0, "nothing is kept of a guest that is gone");
    sleep(1000 * MINUTE).await;
    assert_eq!(rig.leases(), 1, "the new lease still holds the guest");
}

#[tokio::test(start_paused = true)]
async fn shut_down_stops_and_refuses() {
    let rig = Rig::healthy();
    let _lease = rig.machine.acquire().await.unwrap();
    let (_, refused) = tokio::join!(rig.machine.shut_down(), async {
        sleep(Duration::from_millis(50)).await;
        rig.machine.acquire().await
    });
    assert_eq!(refused.unwrap_err().kind, Kind::Busy);
    assert_eq!(rig.phase(), Phase::Stopped { last: Some(Exit::PoweredOff) });
    assert_eq!(rig.machine.start(Sizes::default()).await.unwrap_err().kind, Kind::Busy);
    rig.machine.stop(false).await.unwrap();
    rig.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn without_handles_the_guest_is_killed_and_the_task_ends() {
    let rig = Rig::healthy();
    let lease = rig.machine.acquire().await.unwrap();
    let mut watch = rig.machine.watch();
    drop(rig.machine);
    while watch.changed().await.is_ok() {}
    assert_eq!(watch.borrow().phase, Phase::Stopped { last: Some(Exit::Killed) });
    assert_eq!((rig.sim.counters().alive.load(SeqCst), rig.sim.counters().kills.load(SeqCst)), (0, 1));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn times_too_long_to_count_are_for_ever() {
    let policy = Policy { idle: Some(Duration::MAX), boot_timeout: Duration::MAX, ..POLICY };
    let rig = Rig::new(Script::default(), Way::default(), policy);
    drop(rig.machine.acquire().await.unwrap());
    sleep(365 * 24 * 60 * MINUTE).await;
    assert!(rig.phase().is_running());
}

/// A file on a volume that does not answer causes this.
#[tokio::test(start_paused = true)]
async fn a_preparation_that_hangs_holds_up_neither_a_stop_nor_the_daemons_end_nor_what_comes_after() {
    let hangs = Way { prepare: Duration::MAX, ..Way::default() };
    for shut_down in [false, true] {
        let rig = Rig::new(Script::default(), hangs.clone(), POLICY);
        let waiter = tokio::spawn({
            let machine = rig.machine.clone();
            async move { machine.acquire().await }
        });
        sleep(SECOND).await;
        let asked = Instant::now();
        match shut_down {
            true => rig.machine.shut_down().await,
            false => rig.machine.stop(false).await.unwrap(),
        }
        assert!(asked.elapsed() < 10 * SECOND, "{:?}", asked.elapsed());
        assert_eq!(waiter.await.unwrap().unwrap_err().kind, Kind::Busy);
        assert_eq!((rig.boots(), rig.phase()), (0, Phase::Stopped { last: None }));
    }

    let rig = Rig::new(Script::default(), hangs, POLICY);
    let late = rig.machine.acquire().await.unwrap_err();
    assert!(late.message.contains("had not started"), "{late}");
    rig.until(Phase::is_at_rest).await;
    *rig.prepared.way.lock().unwrap() = Way::default();
    rig.machine.start(Sizes::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_provider_gets_the_events_of_each_boot() {
    let rig = Rig::healthy();
    rig.machine.start(Sizes::default()).await.unwrap();
    rig.machine.stop(false).await.unwrap();
    rig.machine.start(Sizes::default()).await.unwrap();
    rig.sim.guest().unwrap().end(Exit::Crashed("virtiofsd ended".into()));
    rig.until(Phase::is_at_rest).await;
    let crashed = Exit::Crashed("virtiofsd ended".into());
    let expected = [BootEvent::Ready, BootEvent::Ended(Exit::PoweredOff), BootEvent::Ready, BootEvent::Ended(crashed)];
    assert_eq!(*rig.prepared.boot_events.lock().unwrap(), expected);

    for way in [
        Way { prepare_error: Some("no bundle".into()), ..Way::default() },
        Way { ready_error: Some("no root".into()), ..Way::default() },
        Way { ready: None, ..Way::default() },
    ] {
        let rig = Rig::new(Script::default(), way, POLICY);
        let refusal = rig.machine.acquire().await.unwrap_err();
        rig.until(Phase::is_at_rest).await;
        let events = rig.prepared.boot_events.lock().unwrap().clone();
        let Some(BootEvent::Failed(why)) = events.first() else { panic!("{events:?}") };
        assert_eq!(why.message, refusal.message);
    }
}
