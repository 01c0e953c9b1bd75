//! Limits a listener's connections: those that are not authenticated yet cannot keep others out.
//!
//! ```text
//!            arrives            sends something             authenticates
//!  accept ──────────▶ silent ──────────────────▶ speaking ──────────────▶ authenticated
//!                       │                           │
//!                       └── evicted at once ────────┴── evicted after its stay ──▶ closed
//! ```
//!
//! Every user of this computer can connect to a loopback port and send nothing. So unauthenticated connections have
//! slots of their own. If these are full, a new connection evicts the oldest one, silent ones first. A connection that
//! has sent something keeps its slot for a minimum stay, long enough to authenticate, however many others connect. If
//! all slots have such connections, the next one waits in the socket's queue. An authenticated connection is never
//! evicted.

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

/// A listener's limits.
#[derive(Clone, Copy, Debug)]
pub struct SlotLimits {
    /// Connections that are not authenticated.
    pub unauthenticated: usize,
    /// All connections.
    pub all: usize,
    /// How long a speaking connection keeps its slot in any case, counted from its arrival.
    pub stay: Duration,
}

/// The slots of one listener. Clones share them.
#[derive(Clone, Debug)]
pub struct ConnectionSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The listener's name, for the log.
    name: String,
    limits: SlotLimits,
    connections: Mutex<Connections>,
    changed: Notify,
}

/// The connections. Numbers grow in the order of arrival.
#[derive(Debug, Default)]
struct Connections {
    last: u64,
    silent: BTreeMap<u64, Unauthenticated>,
    speaking: BTreeMap<u64, Unauthenticated>,
    authenticated: usize,
    /// The log has a warning that there are too many.
    warned: bool,
}

#[derive(Debug)]
struct Unauthenticated {
    arrived: Instant,
    evicted: CancellationToken,
}

impl Connections {
    fn unauthenticated(&self) -> usize {
        self.silent.len() + self.speaking.len()
    }

    /// Evicts a connection if that is needed. The error is the time of the next attempt; `None`: after the next change.
    fn evict_if_full(&mut self, limits: SlotLimits, now: Instant) -> Result<Option<Unauthenticated>, Option<Instant>> {
        let unauthenticated = self.unauthenticated();
        if unauthenticated < limits.unauthenticated && unauthenticated + self.authenticated < limits.all {
            return Ok(None);
        }
        if let Some((_, oldest)) = self.silent.pop_first() {
            return Ok(Some(oldest));
        }
        let Some(oldest) = self.speaking.first_entry() else { return Err(None) };
        match oldest.get().arrived + limits.stay {
            over if over <= now => Ok(Some(oldest.remove())),
            over => Err(Some(over)),
        }
    }
}

impl ConnectionSlots {
    /// Creates the slots of one listener.
    pub fn new(name: impl Into<String>, limits: SlotLimits) -> ConnectionSlots {
        ConnectionSlots(Arc::new(Shared {
            name: name.into(),
            limits,
            connections: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// A slot for the next connection, once one is free. Cancel-safe.
    pub async fn acquire(&self) -> Slot {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            match self.try_acquire() {
                Ok(slot) => return slot,
                Err(Some(over)) => tokio::select! { () = changed => {}, () = sleep_until(over) => {} },
                Err(None) => changed.await,
            }
        }
    }

    /// The number of unauthenticated connections that have sent something.
    pub fn speaking(&self) -> usize {
        self.lock().speaking.len()
    }

    fn try_acquire(&self) -> Result<Slot, Option<Instant>> {
        let now = Instant::now();
        let mut connections = self.lock();
        let made = connections.evict_if_full(self.0.limits, now);
        let full = !matches!(made, Ok(None));
        if full && !connections.warned {
            tracing::warn!(
                unauthenticated = connections.unauthenticated(),
                authenticated = connections.authenticated,
                "{}: more connections than slots; unauthenticated ones are closed or wait",
                self.0.name
            );
        }
        // Warns again only after the number has halved, or the warnings would fill the log.
        connections.warned =
            full || (connections.warned && connections.unauthenticated() > self.0.limits.unauthenticated / 2);
        if let Some(oldest) = made? {
            oldest.evicted.cancel();
        }
        connections.last += 1;
        let (number, evicted) = (connections.last, CancellationToken::new());
        connections.silent.insert(number, Unauthenticated { arrived: now, evicted: evicted.clone() });
        Ok(Slot { slots: self.clone(), number, evicted, authenticated: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first look at a connection, by the task that serves it, and a future that waits for that look.
pub fn first_look() -> (FirstLook, impl Future<Output = ()>) {
    let (taken, wait) = oneshot::channel();
    // It fails where the connection has ended by then.
    (FirstLook(taken), async move { drop(wait.await) })
}

/// To be polled beside the serving of the connection, after it.
pub struct FirstLook(oneshot::Sender<()>);

impl FirstLook {
    /// Reports that the connection was looked at, once the runtime has seen what may have come with it. Never ends.
    pub async fn is_done(self) {
        yield_now().await;
        let _ = self.0.send(());
        pending().await
    }
}

/// One connection's slot, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: ConnectionSlots,
    number: u64,
    evicted: CancellationToken,
    authenticated: AtomicBool,
}

impl Slot {
    /// Records that the connection has sent something.
    pub fn set_speaking(&self) {
        let mut connections = self.slots.lock();
        if let Some(connection) = connections.silent.remove(&self.number) {
            connections.speaking.insert(self.number, connection);
        }
    }

    /// Records that the connection has authenticated. It is not evicted any more, even if it was just about to be.
    pub fn set_authenticated(&self) {
        let mut connections = self.slots.lock();
        if !self.authenticated.swap(true, Relaxed) {
            connections.silent.remove(&self.number);
            connections.speaking.remove(&self.number);
            connections.authenticated += 1;
        }
        drop(connections);
        self.slots.0.changed.notify_waiters();
    }

    /// Whether it has sent nothing yet.
    pub fn is_silent(&self) -> bool {
        self.slots.lock().silent.contains_key(&self.number)
    }

    /// Whether it has not authenticated.
    pub fn is_unauthenticated(&self) -> bool {
        !self.authenticated.load(Relaxed)
    }

    /// Resolves when the connection is evicted.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
        if !self.is_unauthenticated() {
            pending().await
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut connections = self.slots.lock();
        if self.is_unauthenticated() {
            connections.silent.remove(&self.number);
            connections.speaking.remove(&self.number);
        } else {
            connections.authenticated -= 1;
        }
        drop(connections);
        self.slots.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, poll};
    use tokio::time::advance;

    const STAY: Duration = Duration::from_secs(10);

    fn slots(unauthenticated: usize, all: usize) -> ConnectionSlots {
        ConnectionSlots::new("a door", SlotLimits { unauthenticated, all, stay: STAY })
    }

    fn evicted(slot: &Slot) -> bool {
        slot.evicted().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_one_is_evicted_before_any_speaking_one() {
        let slots = slots(3, 100);
        let (speaking, silent, later) = (slots.acquire().await, slots.acquire().await, slots.acquire().await);
        speaking.set_speaking();
        advance(STAY * 2).await;
        let next = slots.acquire().await;
        assert_eq!([&speaking, &silent, &later, &next].map(evicted), [false, true, false, false]);
        let _another = slots.acquire().await;
        assert_eq!([&speaking, &later, &next].map(evicted), [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_speaking_one_has_its_stay_and_the_next_waits_for_its_end() {
        let slots = slots(2, 100);
        let (first, second) = (slots.acquire().await, slots.acquire().await);
        first.set_speaking();
        second.set_speaking();
        let mut next = pin!(slots.acquire());
        assert!(poll!(next.as_mut()).is_pending());
        advance(STAY - Duration::from_millis(1)).await;
        assert!(poll!(next.as_mut()).is_pending() && !evicted(&first));
        let next = next.await;
        assert_eq!([&first, &second, &next].map(evicted), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_authenticated_one_is_never_evicted_and_frees_a_slot_for_others() {
        let slots = slots(1, 2);
        let authenticated = slots.acquire().await;
        authenticated.set_authenticated();
        let connection = slots.acquire().await;
        // All slots are taken: by an authenticated connection and by another one.
        let next = slots.acquire().await;
        assert_eq!([&authenticated, &connection, &next].map(evicted), [false, true, false]);
        next.set_authenticated();
        let mut waits = pin!(slots.acquire());
        advance(STAY * 100).await;
        assert!(poll!(waits.as_mut()).is_pending() && !evicted(&authenticated) && !evicted(&next));
        drop(authenticated);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_authenticates_just_in_time_stays() {
        let slots = slots(1, 100);
        let first = slots.acquire().await;
        let second = slots.acquire().await;
        first.set_authenticated();
        assert_eq!([&first, &second].map(evicted), [false, false]);
        drop((first, second));
        let connections = slots.lock();
        assert_eq!((connections.unauthenticated(), connections.authenticated), (0, 0));
    }
}
