//! A guest's clock, which is to follow the host's: while the host sleeps, the guest's stands still, and root in the guest may
//! set it to anything.
//!
//! The rule: each connection has the guest compare its clock with the host's before it gets in ([`GuestClock::put_right`]). The
//! guest sets its clock only where that is wrong, so no build sees time go back by what a message takes. While a guest is in use,
//! the same is done when the host's clocks have jumped ([`GuestClock::follow`]). Between uses the guest is not asked.

use dvn_hypervisor::GuestAgent;
use dvn_types::MachineName;
use std::time::{Duration, SystemTime};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// A difference between the two clocks of the host that is no sleep and no adjustment worth a correction.
const JITTER: Duration = Duration::from_millis(200);

/// A guest in use is asked again after so long: the host's clock is held right by others, the guest's drifts.
const DRIFTS: Duration = Duration::from_secs(3600);

/// How long a connection waits for a guest to look at its clock. The guest may be busy.
const WITHIN: Duration = Duration::from_secs(5);

/// The same where the clock was right at the last look and the host's have not jumped since.
const WITHIN_IF_KNOWN: Duration = Duration::from_secs(1);

/// What is known of the clock of one machine's guest.
pub(super) struct GuestClock {
    name: MachineName,
    known: Mutex<Option<Known>>,
}

/// A guest whose clock was right.
struct Known {
    /// The number of its boot.
    boot: u64,
    /// When it was right.
    right: Instant,
    /// When the guest was asked last, whether or not it answered.
    asked: Instant,
    /// The host's clocks when they were looked at last, and had not jumped.
    seen: Clocks,
}

impl GuestClock {
    pub(super) fn new(name: MachineName) -> GuestClock {
        GuestClock { name, known: Mutex::default() }
    }

    /// Has the guest of this boot look at its clock, for a connection that is about to get in. An answer to another connection
    /// counts if the question came after this call.
    pub(super) async fn put_right(&self, boot: u64, agent: &dyn GuestAgent) {
        let came = Instant::now();
        self.ask_unless(boot, agent, |known| known.asked >= came).await;
    }

    /// Does the same if the host's clocks have jumped, or if it is long ago.
    pub(super) async fn follow(&self, boot: u64, agent: &dyn GuestAgent) {
        self.ask_unless(boot, agent, |known| known.right.elapsed() < DRIFTS).await;
    }

    /// Many may come at once: each waits for the one before it, and none for longer than it would have by itself.
    async fn ask_unless(&self, boot: u64, agent: &dyn GuestAgent, suffices: impl Fn(&Known) -> bool) {
        let ask = async {
            let mut known = self.known.lock().await;
            let now = Clocks::now();
            let mut patience = WITHIN;
            match known.as_mut().filter(|known| known.boot == boot) {
                Some(known) if now.jumped_since(&known.seen) => {
                    tracing::info!(machine = %self.name, "the host's clock has jumped: it slept, or was set");
                }
                Some(known) => {
                    known.seen = now;
                    if suffices(known) {
                        return Ok(());
                    }
                    known.asked = now.awake;
                    patience = WITHIN_IF_KNOWN;
                }
                None => {}
            }
            match timeout(patience, agent.set_clock()).await {
                Ok(Ok(())) => *known = Some(Known { boot, right: now.awake, asked: now.awake, seen: now }),
                Ok(Err(report)) => {
                    tracing::debug!(machine = %self.name, "the guest did not look at its clock: {report}")
                }
                Err(late) => return Err(late),
            }
            Ok(())
        };
        if !matches!(timeout(WITHIN, ask).await, Ok(Ok(()))) {
            tracing::debug!(machine = %self.name, "the guest did not look at its clock: it gave no answer in time");
        }
    }
}

/// The host's two clocks: one stands still while it sleeps, one doesn't.
#[derive(Clone, Copy)]
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
    use dvn_hypervisor::sim_agent;
    use dvn_protocol::messages::Answer;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };
    use tokio::time::advance;

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

    /// An agent that counts how often it was told the time.
    fn counting() -> (Arc<dyn GuestAgent>, Arc<AtomicU32>) {
        let told = Arc::<AtomicU32>::default();
        let theirs = Arc::clone(&told);
        let agent = sim_agent::that_says(move |_| {
            theirs.fetch_add(1, Relaxed);
            Answer::Done
        });
        (agent, told)
    }

    /// Under the paused clock the wall clock moves on by itself, so that `advance` by much is a jump.
    #[tokio::test(start_paused = true)]
    async fn the_guest_is_asked_for_each_connection_and_once_for_those_that_come_together() {
        let (agent, told) = counting();
        let clock = GuestClock::new("builder".parse().unwrap());
        let crowd = async |boot| {
            futures_util::future::join_all((0..20).map(|_| clock.put_right(boot, &agent))).await;
            told.load(Relaxed)
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
        let (agent, told) = counting();
        let clock = GuestClock::new("builder".parse().unwrap());
        for _ in 0..20 {
            clock.follow(1, &agent).await;
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(told.load(Relaxed), 1);
        advance(Duration::from_secs(5)).await;
        clock.follow(1, &agent).await;
        assert_eq!(told.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_answer_keeps_nobody_for_long_and_is_told_later() {
        let clock = GuestClock::new("builder".parse().unwrap());
        let silent = sim_agent::that_may_say(|_| None);
        let begun = Instant::now();
        futures_util::future::join_all((0..20).map(|_| clock.put_right(1, &silent))).await;
        assert_eq!(begun.elapsed(), WITHIN);
        let (agent, told) = counting();
        clock.put_right(1, &agent).await;
        assert_eq!(told.load(Relaxed), 1);

        advance(Duration::from_millis(1)).await;
        let begun = Instant::now();
        clock.put_right(1, &silent).await;
        assert_eq!(begun.elapsed(), WITHIN_IF_KNOWN, "its clock was right a moment ago");
    }
}
