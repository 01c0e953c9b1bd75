//! Keeps a guest's clock in sync with the host's. While the host sleeps, the guest's clock stops, and root in the guest may set
//! it to anything.
//!
//! The rule: before a connection is established, the guest compares its clock with the host's ([`GuestClock::put_right`]). It
//! sets its clock only if that is wrong, so that no build sees time go back by the latency of a message. While a guest is in
//! use, the same happens when the host's clocks have jumped ([`GuestClock::follow`]). Between uses the guest is not asked.

use super::activity::Uses;
use dvn_hypervisor::GuestAgent;
use dvn_lifecycle::Handle;
use dvn_types::MachineName;
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// How often the host's clocks are compared while a guest is in use: so long at most is a guest's clock wrong after the host
/// has slept.
const LOOK: Duration = Duration::from_secs(1);

/// The largest difference between the host's two clocks that is neither a sleep nor an adjustment worth a correction.
const JITTER: Duration = Duration::from_millis(200);

/// A guest in use is asked again after this time, because its clock drifts while NTP adjusts the host's.
const DRIFTS: Duration = Duration::from_secs(3600);

/// How long a connection waits for the guest to check its clock. The guest may be busy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The same if the clock was right at the last check and the host's clocks have not jumped since.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the clock in sync during each use of the guest, until the machine is removed.
pub(super) async fn during(clock: Arc<GuestClock>, handle: Handle, mut uses: Uses) {
    while uses.begins().await {
        let mut over = pin!(uses.ends());
        loop {
            if let Some(agent) = handle.agent() {
                clock.follow(handle.snapshot().boots, &agent).await;
            }
            if timeout(LOOK, &mut over).await.is_ok() {
                break;
            }
        }
    }
}

/// The last check of the clock of one machine's guest.
pub(super) struct GuestClock {
    name: MachineName,
    known: Mutex<Option<Known>>,
}

/// A guest whose clock was right.
struct Known {
    /// The number of its boot.
    boot: u64,
    /// When its clock was right.
    right: Instant,
    /// When the guest was last asked, whether or not it answered.
    asked: Instant,
    /// The host's clocks at the last comparison without a jump.
    seen: Clocks,
}

impl GuestClock {
    pub(super) fn new(name: MachineName) -> GuestClock {
        GuestClock { name, known: Mutex::default() }
    }

    /// Has the guest of this boot check its clock before a connection is established. An answer for another connection counts
    /// if its question was asked after this call.
    pub(super) async fn put_right(&self, boot: u64, agent: &dyn GuestAgent) {
        let came = Instant::now();
        self.ask_unless(boot, agent, |known| known.asked >= came).await;
    }

    /// Does the same if the host's clocks have jumped, or if the last check is long ago.
    pub(super) async fn follow(&self, boot: u64, agent: &dyn GuestAgent) {
        self.ask_unless(boot, agent, |known| known.right.elapsed() < DRIFTS).await;
    }

    /// Concurrent calls wait for each other, but no call takes longer than [`TIMEOUT`].
    async fn ask_unless(&self, boot: u64, agent: &dyn GuestAgent, suffices: impl Fn(&Known) -> bool) {
        let ask = async {
            let mut known = self.known.lock().await;
            let now = Clocks::now();
            let mut limit = TIMEOUT;
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
                    limit = SHORT_TIMEOUT;
                }
                None => {}
            }
            match timeout(limit, agent.set_clock()).await {
                Ok(Ok(())) => *known = Some(Known { boot, right: now.awake, asked: now.awake, seen: now }),
                Ok(Err(report)) => {
                    tracing::debug!(machine = %self.name, "the guest did not check its clock: {report}")
                }
                Err(late) => return Err(late),
            }
            Ok(())
        };
        if !matches!(timeout(TIMEOUT, ask).await, Ok(Ok(()))) {
            tracing::debug!(machine = %self.name, "the guest did not check its clock: it gave no answer in time");
        }
    }
}

/// The host's two clocks: the monotonic one stops while the host sleeps, the wall clock does not.
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
mod tests;
