//! Connections of local users that have not shown yet who they are: where they wait, and which of them gives way.
//!
//! ```text
//!            arrives            sends something              shows who it is
//!  accept ──────────▶ silent ──────────────────▶ speaking ──────────────────▶ known
//!                       │                           │
//!                       └── gives way at once ──────┴── gives way after its stay ──▶ closed
//! ```
//!
//! Every user of this computer can connect to a loopback port and say nothing. So those who have not shown who they are have a
//! room of their own, in which the oldest gives way to the newest, first those that have sent nothing. One that has sent
//! something stays for a while, long enough to show who it is, even if a crowd dials all the time; if all are such, the next
//! one waits in the socket's queue. What is known never gives way.

use std::{
    collections::BTreeMap,
    future::pending,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How much room there is.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Connections that have not shown who they are.
    pub strangers: usize,
    /// All connections.
    pub all: usize,
    /// How long one that has sent something stays in any case, counted from its arrival.
    pub stay: Duration,
}

/// The room of one listener. Clones share it.
#[derive(Clone, Debug)]
pub struct Lobby(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whose room it is, for the log.
    name: String,
    room: Room,
    present: Mutex<Present>,
    changed: Notify,
}

/// Who is there. Numbers grow in the order of arrival.
#[derive(Debug, Default)]
struct Present {
    last: u64,
    silent: BTreeMap<u64, Stranger>,
    speaking: BTreeMap<u64, Stranger>,
    known: usize,
    /// The log says already that there are too many.
    told: bool,
}

#[derive(Debug)]
struct Stranger {
    arrived: Instant,
    gives_way: CancellationToken,
}

impl Present {
    fn strangers(&self) -> usize {
        self.silent.len() + self.speaking.len()
    }

    /// Has one give way where that is needed. An error says when to try again; `None`: once something has changed.
    fn make_room(&mut self, room: Room, now: Instant) -> Result<Option<Stranger>, Option<Instant>> {
        let strangers = self.strangers();
        if strangers < room.strangers && strangers + self.known < room.all {
            return Ok(None);
        }
        if let Some((_, oldest)) = self.silent.pop_first() {
            return Ok(Some(oldest));
        }
        let Some(oldest) = self.speaking.first_entry() else { return Err(None) };
        match oldest.get().arrived + room.stay {
            over if over <= now => Ok(Some(oldest.remove())),
            over => Err(Some(over)),
        }
    }
}

impl Lobby {
    /// An empty one.
    pub fn new(name: impl Into<String>, room: Room) -> Lobby {
        Lobby(Arc::new(Shared { name: name.into(), room, present: Mutex::default(), changed: Notify::new() }))
    }

    /// A place for the next connection, once there is one. May be dropped and called again.
    pub async fn enter(&self) -> Place {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            match self.try_enter() {
                Ok(place) => return place,
                Err(Some(over)) => tokio::select! { () = changed => {}, () = sleep_until(over) => {} },
                Err(None) => changed.await,
            }
        }
    }

    /// Strangers that have sent something.
    pub fn speaking(&self) -> usize {
        self.lock().speaking.len()
    }

    fn try_enter(&self) -> Result<Place, Option<Instant>> {
        let now = Instant::now();
        let mut present = self.lock();
        let made = present.make_room(self.0.room, now);
        let crowded = !matches!(made, Ok(None));
        if crowded && !present.told {
            tracing::warn!(
                strangers = present.strangers(),
                known = present.known,
                "{}: more connections than there is room for; those that have not shown who they are give way or wait",
                self.0.name
            );
        }
        // Not before the crowd has halved, or the log would be full of it.
        present.told = crowded || (present.told && present.strangers() > self.0.room.strangers / 2);
        if let Some(oldest) = made? {
            oldest.gives_way.cancel();
        }
        present.last += 1;
        let (number, gives_way) = (present.last, CancellationToken::new());
        present.silent.insert(number, Stranger { arrived: now, gives_way: gives_way.clone() });
        Ok(Place { lobby: self.clone(), number, gives_way, known: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.0.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first look at a connection, and when it was taken: by the task that serves it, which may be on another thread.
pub fn look() -> (Look, impl Future<Output = ()>) {
    let (taken, wait) = oneshot::channel();
    // It fails where the connection has ended by then.
    (Look(taken), async move { drop(wait.await) })
}

/// To be polled beside the serving of the connection, after it.
pub struct Look(oneshot::Sender<()>);

impl Look {
    /// Tells that the connection was looked at, once the runtime has heard of what may have come with it. Never ends.
    pub async fn is_done(self) {
        yield_now().await;
        let _ = self.0.send(());
        pending().await
    }
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    lobby: Lobby,
    number: u64,
    gives_way: CancellationToken,
    known: AtomicBool,
}

impl Place {
    /// The connection has sent something.
    pub fn speaks(&self) {
        let mut present = self.lobby.lock();
        if let Some(stranger) = present.silent.remove(&self.number) {
            present.speaking.insert(self.number, stranger);
        }
    }

    /// The connection has shown who it is. It does not give way any more, not even if it was just about to.
    pub fn is_known(&self) {
        let mut present = self.lobby.lock();
        if !self.known.swap(true, Relaxed) {
            present.silent.remove(&self.number);
            present.speaking.remove(&self.number);
            present.known += 1;
        }
        drop(present);
        self.lobby.0.changed.notify_waiters();
    }

    /// Whether it has sent nothing yet.
    pub fn is_silent(&self) -> bool {
        self.lobby.lock().silent.contains_key(&self.number)
    }

    /// Whether it has not shown who it is.
    pub fn is_stranger(&self) -> bool {
        !self.known.load(Relaxed)
    }

    /// Resolves when the place is another's.
    pub async fn lost(&self) {
        self.gives_way.cancelled().await;
        if !self.is_stranger() {
            pending().await
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.lobby.lock();
        if self.is_stranger() {
            present.silent.remove(&self.number);
            present.speaking.remove(&self.number);
        } else {
            present.known -= 1;
        }
        drop(present);
        self.lobby.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, poll};
    use tokio::time::advance;

    const STAY: Duration = Duration::from_secs(10);

    fn lobby(strangers: usize, all: usize) -> Lobby {
        Lobby::new("a door", Room { strangers, all, stay: STAY })
    }

    fn lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_that_is_silent_gives_way_before_any_that_speaks() {
        let lobby = lobby(3, 100);
        let (speaks, silent, later) = (lobby.enter().await, lobby.enter().await, lobby.enter().await);
        speaks.speaks();
        advance(STAY * 2).await;
        let next = lobby.enter().await;
        assert_eq!([&speaks, &silent, &later, &next].map(lost), [false, true, false, false]);
        let _another = lobby.enter().await;
        assert_eq!([&speaks, &later, &next].map(lost), [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_speaks_has_its_stay_and_the_next_waits_for_its_end() {
        let lobby = lobby(2, 100);
        let (first, second) = (lobby.enter().await, lobby.enter().await);
        first.speaks();
        second.speaks();
        let mut next = pin!(lobby.enter());
        assert!(poll!(next.as_mut()).is_pending());
        advance(STAY - Duration::from_millis(1)).await;
        assert!(poll!(next.as_mut()).is_pending() && !lost(&first));
        let next = next.await;
        assert_eq!([&first, &second, &next].map(lost), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_never_gives_way_and_frees_a_place_for_strangers() {
        let lobby = lobby(1, 2);
        let known = lobby.enter().await;
        known.is_known();
        let stranger = lobby.enter().await;
        // All places are taken: by one that is known, and by one that is not.
        let next = lobby.enter().await;
        assert_eq!([&known, &stranger, &next].map(lost), [false, true, false]);
        next.is_known();
        let mut waits = pin!(lobby.enter());
        advance(STAY * 100).await;
        assert!(poll!(waits.as_mut()).is_pending() && !lost(&known) && !lost(&next));
        drop(known);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_shows_who_it_is_just_in_time_stays() {
        let lobby = lobby(1, 100);
        let first = lobby.enter().await;
        let second = lobby.enter().await;
        first.is_known();
        assert_eq!([&first, &second].map(lost), [false, false]);
        drop((first, second));
        let present = lobby.lock();
        assert_eq!((present.strangers(), present.known), (0, 0));
    }
}
