//! Who is let in: connections of the guest that present this boot's token, and not too many of them.
//!
//! Any program in the guest may dial the port, a build in Nix's sandbox too. Those who have not shown the token yet wait in a
//! place of their own, where the oldest gives way to the newest: so a crowd of strangers cannot keep the agent out, which
//! shows the token at once.

use super::{Inner, door};
use crate::hypervisor::{GuestListener, GuestStream};
use darwin_vz_agent::StoreGreeting;
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufStream},
    task::JoinSet,
    time::timeout,
};

/// Longest first line, with the newline.
const LONGEST_LINE: u64 = 4096;

/// A guest's connection, buffered.
pub type Guest = BufStream<GuestStream>;

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
    let mut strangers: JoinSet<Option<Guest>> = JoinSet::new();
    let mut waiting = VecDeque::new();
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            stream = listener.accept() => {
                let Some(stream) = stream else { return };
                waiting.retain(|task: &tokio::task::AbortHandle| !task.is_finished());
                if waiting.len() >= limits.strangers && let Some(oldest) = waiting.pop_front() {
                    oldest.abort();
                }
                let token = Arc::clone(&token);
                let known = async move { timeout(limits.greeting, recognise(stream, &token)).await.ok().flatten() };
                waiting.push_back(strangers.spawn(known));
            }
            Some(stranger) = strangers.join_next() => match stranger.ok().flatten() {
                Some(guest) if guests.len() < limits.connections => {
                    let (inner, counted) = (Arc::clone(inner), Counted::new(inner));
                    guests.spawn(async move {
                        door::serve(inner, guest).await;
                        drop(counted);
                    });
                }
                _ => inner.record().turned_away(),
            },
            Some(_) = guests.join_next() => {}
        }
    }
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
