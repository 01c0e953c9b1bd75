//! The way of a client into a guest: a lease first, then a stream to the guest, then bytes both ways.
//!
//! A client that connects while no guest runs is simply held until one does. What is true of every door: the lease lives
//! exactly as long as the connection, and dozes while nothing has moved on it for the idle timeout. So a connection that
//! somebody forgot does not keep the guest for ever; its guest goes one idle timeout later, unless something builds there.

mod carry;
#[cfg(test)]
mod crowd;
mod dialogue;
mod door;
#[cfg(test)]
mod strangers;
mod turns;

pub use carry::{Carried, carry};
pub use door::serve_ssh;

use crate::{daemon::Visit, guest::sharing::Hold, hypervisor::GuestStream, supervisor::Lease};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// Looks at a connection in one time of allowed silence, and the shortest time between two.
const LOOKS: u32 = 4;
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// A client's way to one service of a guest. While it lives the guest is in use.
pub struct Passage {
    pub(crate) lease: Lease,
    pub(crate) guest: GuestStream,
    pub(crate) visit: Visit,
    /// How long the connection may be silent before it no longer keeps the guest; `None` for ever.
    pub(crate) silence: Option<Duration>,
    /// What it may use of the host's store stays there for as long.
    pub(crate) _hold: Option<Arc<Hold>>,
}

impl Passage {
    /// Carries bytes both ways until both ends are done. Returns the bytes sent to and received from the guest.
    pub async fn carry<S>(self, client: S) -> std::io::Result<(u64, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut lease = self.lease;
        let carried = &self.visit.carried;
        let outcome = tokio::select! {
            outcome = carry(client, self.guest, carried) => outcome,
            () = doze_in_silence(&mut lease, carried, self.silence) => Ok(()),
        };
        drop(lease);
        outcome.map(|()| (self.visit.carried.sent(), self.visit.carried.received()))
    }
}

/// Looks from time to time whether something has moved. Never ends.
async fn doze_in_silence(lease: &mut Lease, carried: &Carried, silence: Option<Duration>) {
    let Some(silence) = silence else { return pending().await };
    // Often enough that a connection which wakes up is noticed well before its guest is stopped as idle.
    let pause = (silence / LOOKS).max(SHORTEST_LOOK);
    let moved = || (carried.sent(), carried.received());
    let (mut before, mut silent_for) = (moved(), Duration::ZERO);
    loop {
        tokio::time::sleep(pause).await;
        match moved() {
            now if now == before => {
                silent_for = silent_for.saturating_add(pause);
                if silent_for >= silence {
                    lease.doze();
                }
            }
            now => {
                (before, silent_for) = (now, Duration::ZERO);
                lease.wake();
            }
        }
    }
}
