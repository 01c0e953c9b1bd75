//! Accepts the guest's connections: those that present this boot's token, up to a limit at once.
//!
//! ```text
//!   unauthenticated ── token ──▶ queue ── its turn ──▶ served
//!      │                          ├─ timeout ──▶ error
//!      └─ otherwise: closed       └─ queue full ──▶ error, or closed if too many errors are being sent
//! ```
//!
//! The error is one of Nix's own protocol, so a client shows it. The queue is first come, first served.
//!
//! Any program in the guest can dial the port, also a build in Nix's sandbox. Connections without a token yet wait in
//! [`Unauthenticated`].

use super::{connection::Guest, server, state::Inner};
use dvn_hypervisor::{GuestListener, GuestStream, Unauthenticated};
use dvn_protocol::StoreGreeting;
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Longest first line in bytes, with the newline.
const LONGEST_LINE: u64 = 4096;

/// Counts a connection while it is served.
struct Counted(Arc<Inner>);

impl Counted {
    fn new(inner: &Arc<Inner>) -> Counted {
        inner.record().connected();
        Counted(Arc::clone(inner))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.record().disconnected();
    }
}

/// Serves one guest's connections until the guest is gone.
pub async fn serve(inner: &Arc<Inner>, mut listener: GuestListener, token: String) {
    let limits = inner.settings.limits;
    let token: Arc<str> = token.into();
    let mut unauthenticated = Unauthenticated::new(limits.unauthenticated, limits.greeting);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (mut guests, mut refused) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            stream = listener.accept() => {
                let Some(stream) = stream else { return };
                let token = Arc::clone(&token);
                unauthenticated.add(async move { authenticate(stream, &token).await });
            }
            Some(authenticated) = unauthenticated.next() => match authenticated {
                Some(guest) if guests.len() < limits.connections.saturating_add(limits.queue) => {
                    guests.spawn(serve_when_free(Arc::clone(inner), guest, Arc::clone(&slots)));
                }
                Some(guest) if refused.len() < limits.queue => {
                    refused.spawn(refuse(Arc::clone(inner), guest));
                }
                _ => inner.record().turned_away(),
            },
            Some(_) = guests.join_next() => {}
            Some(_) = refused.join_next() => {}
        }
    }
}

/// Waits for a free slot, then serves the connection.
async fn serve_when_free(inner: Arc<Inner>, guest: Guest, slots: Arc<Semaphore>) {
    // The semaphore is never closed, and is fair.
    match timeout(inner.settings.limits.turn, slots.acquire()).await {
        Ok(_slot) => {
            let counted = Counted::new(&inner);
            server::serve(inner, guest).await;
            drop(counted);
        }
        Err(_) => refuse(inner, guest).await,
    }
}

async fn refuse(inner: Arc<Inner>, guest: Guest) {
    inner.record().turned_away();
    let limits = inner.settings.limits;
    let why = format!(
        "the host's store is busy: of {} connections at once none ended within {:?}",
        limits.connections, limits.turn
    );
    server::refuse(limits, guest, why).await;
}

/// Reads the first line. `None`: the connection has no valid token.
async fn authenticate(stream: GuestStream, token: &str) -> Option<Guest> {
    let mut guest = BufStream::new(stream);
    let mut line = Vec::new();
    (&mut guest).take(LONGEST_LINE).read_until(b'\n', &mut line).await.ok()?;
    if line.last() != Some(&b'\n') {
        return None;
    }
    let greeting: StoreGreeting = serde_json::from_slice(&line).ok()?;
    (greeting.token == token).then_some(guest)
}
