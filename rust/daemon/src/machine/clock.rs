//! A guest's clock, which is to follow the host's: while the host sleeps, the guest's stands still, and root in the guest may
//! set it to anything.
//!
//! The rule: each connection has the guest compare its clock with the host's before it gets in ([`GuestClock::put_right`]). The
//! guest sets its clock only where that is wrong, so no build sees time go back by what a message takes. While a guest is in use,
//! the same is done when the host's clocks have jumped ([`GuestClock::follow`]). Between uses the guest is not asked.

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

/// How often the host's clocks are compared while a guest is in use: after the host slept, a guest's clock is wrong for no
/// longer.
const LOOK: Duration = Duration::from_secs(1);

/// A difference between the two clocks of the host that is no sleep and no adjustment worth a correction.
const JITTER: Duration = Duration::from_millis(200);

/// A guest in use is asked again after so long: the host's clock is held right by others, the guest's drifts.
const DRIFTS: Duration = Duration::from_secs(3600);

/// How long a connection waits for a guest to look at its clock. The guest may be busy.
const WITHIN: Duration = Duration::from_secs(5);

/// The same where the clock was right at the last look and the host's have not jumped since.
const WITHIN_IF_KNOWN: Duration = Duration::from_secs(1);

/// Keeps the clock right during each use of the guest, for as long as the machine is there.
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
mod tests;
