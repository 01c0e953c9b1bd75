//! A client's connection to a guest: a lease first, then a stream to the guest, then bytes both ways.
//!
//! A client that connects while no guest runs waits until one does. At every door, the lease lives exactly as long as the
//! connection. It is inactive while the connection has transferred nothing for the idle timeout. So an unused connection does
//! not keep the guest running for ever: the guest stops one idle timeout later, unless a build runs in it.

use crate::events::ConnectionRecord;
use dvn_guest::sharing::Hold;
use dvn_hypervisor::GuestStream;
use dvn_lifecycle::Lease;
use dvn_relay::{ByteCounts, copy};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// How often a connection's byte counts are compared within the allowed silence, and the shortest time between two comparisons.
const LOOKS: u32 = 4;
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// A client's connection to one service of a guest. While it is active, the guest is in use.
pub struct Connection {
    pub lease: Lease,
    pub guest: GuestStream,
    pub record: ConnectionRecord,
    /// How long the connection may be silent before it no longer keeps the guest running; `None`: for ever.
    pub silence: Option<Duration>,
    /// Keeps the paths of the host's store that the guest may use through this connection.
    pub _hold: Option<Arc<Hold>>,
}

impl Connection {
    /// Copies bytes both ways until both ends are done. Returns the numbers of bytes sent to and received from the guest.
    pub async fn carry<S>(self, client: S) -> std::io::Result<(u64, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut lease = self.lease;
        let carried = &self.record.carried;
        let outcome = tokio::select! {
            outcome = copy(client, self.guest, carried) => outcome,
            () = deactivate_when_silent(&mut lease, carried, self.silence) => Ok(()),
        };
        drop(lease);
        outcome.map(|()| (self.record.carried.sent(), self.record.carried.received()))
    }
}

/// Deactivates the lease while nothing is transferred, and activates it again with the next byte. Never ends.
async fn deactivate_when_silent(lease: &mut Lease, carried: &ByteCounts, silence: Option<Duration>) {
    let Some(silence) = silence else { return pending().await };
    // Often enough that renewed traffic is noticed well before the guest is stopped as idle.
    let pause = (silence / LOOKS).max(SHORTEST_LOOK);
    let moved = || (carried.sent(), carried.received());
    let (mut before, mut silent_for) = (moved(), Duration::ZERO);
    loop {
        tokio::time::sleep(pause).await;
        match moved() {
            now if now == before => {
                silent_for = silent_for.saturating_add(pause);
                if silent_for >= silence {
                    lease.deactivate();
                }
            }
            now => {
                (before, silent_for) = (now, Duration::ZERO);
                lease.activate();
            }
        }
    }
}
