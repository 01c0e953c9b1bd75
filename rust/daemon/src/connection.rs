//! The way of a client into a guest: a lease first, then a stream to the guest, then bytes both ways.
//!
//! A client that connects while no guest runs is held until one does. What is true of every door: the lease lives exactly as long
//! as the connection, and dozes while nothing has moved on it for the idle timeout. So a connection that was left open does
//! not keep the guest for ever; its guest goes one idle timeout later, unless something builds there.

use crate::chronicle::Visit;
use dvn_guest::sharing::Hold;
use dvn_hypervisor::GuestStream;
use dvn_lifecycle::Lease;
use dvn_relay::{ByteCounts, copy};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// Looks at a connection in one time of allowed silence, and the shortest time between two.
const LOOKS: u32 = 4;
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// A client's way to one service of a guest. While it lives the guest is in use.
pub struct Connection {
    pub lease: Lease,
    pub guest: GuestStream,
    pub visit: Visit,
    /// How long the connection may be silent before it no longer keeps the guest; `None` for ever.
    pub silence: Option<Duration>,
    /// What it may use of the host's store stays there for as long.
    pub _hold: Option<Arc<Hold>>,
}

impl Connection {
    /// Carries bytes both ways until both ends are done. Returns the bytes sent to and received from the guest.
    pub async fn carry<S>(self, client: S) -> std::io::Result<(u64, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut lease = self.lease;
        let carried = &self.visit.carried;
        let outcome = tokio::select! {
            outcome = copy(client, self.guest, carried) => outcome,
            () = doze_in_silence(&mut lease, carried, self.silence) => Ok(()),
        };
        drop(lease);
        outcome.map(|()| (self.visit.carried.sent(), self.visit.carried.received()))
    }
}

/// Looks from time to time whether something has moved. Never ends.
async fn doze_in_silence(lease: &mut Lease, carried: &ByteCounts, silence: Option<Duration>) {
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
