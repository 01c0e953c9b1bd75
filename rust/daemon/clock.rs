//! A guest's clock, which is to follow the host's: while the host sleeps, the guest's stands still.
//!
//! The rule: whether the host's clocks have jumped is asked before anybody gets to the guest ([`GuestClock::put_right`]), so
//! that a connection finds a clock that is right, however long nobody has used the guest. Between uses nobody asks.

use crate::{guest::agent::Agent, spec::MachineName};
use std::time::{Duration, SystemTime};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// A difference between the two clocks of the host that is no sleep and no adjustment worth a correction.
const JITTER: Duration = Duration::from_millis(200);

/// After so long a clock that nobody has set is set when it is looked at: the host's is held right by others, the guest's is not.
const DRIFTS: Duration = Duration::from_secs(3600);

/// Whoever waits for a right clock does without it after so long: a busy guest may take its time to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What is known of the clock of one machine's guest.
pub(super) struct GuestClock {
    name: MachineName,
    right: Mutex<Option<Right>>,
}

/// A guest whose clock was right.
struct Right {
    /// The number of its boot.
    boot: u64,
    /// When it was set.
    set: Instant,
    /// The host's clocks when they were looked at last, and had not jumped.
    seen: Clocks,
}

impl GuestClock {
    pub(super) fn new(name: MachineName) -> GuestClock {
        GuestClock { name, right: Mutex::default() }
    }

    /// Sets the clock of the guest of this boot, if it has not been set lately or the host's clocks have jumped since.
    pub(super) async fn put_right(&self, boot: u64, agent: &Agent) {
        // Many may come at once after a sleep: they wait for the first, and none for longer than it would have by itself.
        if timeout(WITHIN, self.follow(boot, agent)).await.is_err() {
            tracing::debug!(machine = %self.name, "the guest's clock was not set: the guest did not answer in {WITHIN:?}");
        }
    }

    async fn follow(&self, boot: u64, agent: &Agent) {
        let mut right = self.right.lock().await;
        let now = Clocks::now();
        if let Some(right) = right.as_mut().filter(|right| right.boot == boot) {
            if now.jumped_since(&right.seen) {
                tracing::info!(machine = %self.name, "the host's clock has jumped: it slept, or was set");
            } else if now.awake.saturating_duration_since(right.set) < DRIFTS {
                right.seen = now;
                return;
            }
        }
        match agent.set_clock().await {
            Ok(()) => *right = Some(Right { boot, set: now.awake, seen: now }),
            Err(report) => tracing::debug!(machine = %self.name, "the guest's clock was not set: {report}"),
        }
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
    use darwin_vz_agent::protocol::Answer;
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

    /// Under the paused clock the wall clock moves on by itself, so that `advance` is a jump.
    #[tokio::test(start_paused = true)]
    async fn it_is_set_once_for_each_boot_and_each_jump_however_many_ask() {
        let told = Arc::<AtomicU32>::default();
        let theirs = Arc::clone(&told);
        let agent = Agent::that_says(move |_| {
            theirs.fetch_add(1, Relaxed);
            Answer::Done
        });
        let clock = GuestClock::new("builder".parse().unwrap());
        let crowd = async |boot| {
            futures_util::future::join_all((0..20).map(|_| clock.put_right(boot, &agent))).await;
            told.load(Relaxed)
        };
        assert_eq!((crowd(1).await, crowd(1).await), (1, 1));
        assert_eq!(crowd(2).await, 2, "another guest");
        advance(Duration::from_secs(3600)).await;
        assert_eq!(crowd(2).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_answer_keeps_nobody_for_long_and_is_told_later() {
        let clock = GuestClock::new("builder".parse().unwrap());
        let silent = Agent::that_may_say(|_| None);
        let begun = Instant::now();
        futures_util::future::join_all((0..20).map(|_| clock.put_right(1, &silent))).await;
        assert_eq!(begun.elapsed(), WITHIN);
        let told = Arc::<AtomicU32>::default();
        let theirs = Arc::clone(&told);
        let agent = Agent::that_says(move |_| {
            theirs.fetch_add(1, Relaxed);
            Answer::Done
        });
        clock.put_right(1, &agent).await;
        assert_eq!(told.load(Relaxed), 1);
    }
}
