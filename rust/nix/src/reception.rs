//! Who is let in: connections of the guest that present this boot's token, and not too many of them at once.
//!
//! ```text
//!   stranger ── token ──▶ queue ── its turn ──▶ served
//!      │                    ├─ too long ──▶ told so
//!      └─ else: closed      └─ too many ──▶ told so; closed, if many are told so already
//! ```
//!
//! Whoever is told so reads an error of Nix's own protocol, which a client shows. The queue is first come, first served.
//!
//! Any program in the guest may dial the port, a build in Nix's sandbox too. Those who have not shown the token yet wait as
//! [`Strangers`].

use super::{connection::Guest, door, state::Inner};
use dvn_hypervisor::{GuestListener, GuestStream, Strangers};
use dvn_protocol::StoreGreeting;
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Longest first line, with the newline.
const LONGEST_LINE: u64 = 4096;

/// Counts a connection for as long as it is served.
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

/// Serves the connections of one guest until it is gone.
pub async fn serve(inner: &Arc<Inner>, mut listener: GuestListener, token: String) {
    let limits = inner.settings.limits;
    let token: Arc<str> = token.into();
    let mut strangers = Strangers::new(limits.strangers, limits.greeting);
    let places = Arc::new(Semaphore::new(limits.connections));
    let (mut guests, mut refused) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            stream = listener.accept() => {
                let Some(stream) = stream else { return };
                let token = Arc::clone(&token);
                strangers.add(async move { recognise(stream, &token).await });
            }
            Some(stranger) = strangers.next() => match stranger {
                Some(guest) if guests.len() < limits.connections.saturating_add(limits.queue) => {
                    guests.spawn(in_turn(Arc::clone(inner), guest, Arc::clone(&places)));
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

/// Serves a connection once there is a place.
async fn in_turn(inner: Arc<Inner>, guest: Guest, places: Arc<Semaphore>) {
    // The semaphore is never closed, and is fair.
    match timeout(inner.settings.limits.turn, places.acquire()).await {
        Ok(_place) => {
            let counted = Counted::new(&inner);
            door::serve(inner, guest).await;
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
    door::refuse(limits, guest, why).await;
}

/// Reads the first line. `None`: not one of ours.
async fn recognise(stream: GuestStream, token: &str) -> Option<Guest> {
    let mut guest = BufStream::new(stream);
    let mut line = Vec::new();
    (&mut guest).take(LONGEST_LINE).read_until(b'\n', &mut line).await.ok()?;
    if line.last() != Some(&b'\n') {
        return None;
    }
    let greeting: StoreGreeting = serde_json::from_slice(&line).ok()?;
    (greeting.token == token).then_some(guest)
}
