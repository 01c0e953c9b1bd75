//! Limits how much of the API authenticated clients may use at once. Requests, streaming answers and connections to the
//! guest are counted separately, so that none of them blocks the others.
//!
//! ```text
//!            a request             its answer              has been sent
//!  (none) ────────────▶ asking ──────────────▶ answering ───────────────▶ idle ── the next request ─▶ asking
//!                         ├─ streams ────────▶ watching                     └── a newer one ─▶ evicted
//!                         └─ upgrade ────────▶ joined to the guest
//! ```
//!
//! Each connection has one slot, which [`take_slot`] occupies for every request.

use super::refusal::{Answer, Refusal};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use dvn_host::connection_slots::Slot;
use dvn_types::{Kind, Report};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Time until a connection whose answer is still being sent may be evicted. A client that reads at once is never that
/// slow.
const SLOW: Duration = Duration::from_secs(10);

/// The limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections with a request, or between two.
    pub(super) requests: usize,
    /// Streaming answers: events, followed logs, a status that is waited for.
    pub(super) watchers: usize,
    /// Connections to the guest.
    pub(super) guests: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Idle,
    Asking,
    Answering,
    Watching,
    Guest,
    /// It was evicted.
    Evicted,
}

#[derive(Debug)]
struct Taken {
    by: Use,
    since: Instant,
    evicted: Arc<Notify>,
}

/// The slots of one socket.
#[derive(Clone, Debug)]
pub(super) struct RequestSlots(Arc<Mutex<SlotTable>>);

#[derive(Debug)]
struct SlotTable {
    limits: Limits,
    last: u64,
    taken: BTreeMap<u64, Taken>,
}

impl SlotTable {
    fn count(&self, counts: impl Fn(Use) -> bool) -> usize {
        self.taken.values().filter(|taken| counts(taken.by)).count()
    }

    /// Changes the use of a slot, and restarts its time.
    fn put(&mut self, number: u64, by: Use) {
        if let Some(taken) = self.taken.get_mut(&number) {
            (taken.by, taken.since) = (by, Instant::now());
        }
    }

    /// Occupies a slot for a request, if one is free or can be evicted.
    fn ask(&mut self, number: u64, evicted: &Arc<Notify>) -> bool {
        if !matches!(self.taken.get(&number), Some(Taken { by: Use::Idle, .. })) {
            let ordinary = |by| matches!(by, Use::Idle | Use::Asking | Use::Answering);
            if self.count(ordinary) >= self.limits.requests && !self.evict_one() {
                return false;
            }
            let taken = Taken { by: Use::Asking, since: Instant::now(), evicted: Arc::clone(evicted) };
            self.taken.insert(number, taken);
        }
        self.put(number, Use::Asking);
        true
    }

    /// Evicts the connection that has been idle for longest, or else one that does not read its answer.
    fn evict_one(&mut self) -> bool {
        let slow = |taken: &Taken| taken.by == Use::Answering && taken.since.elapsed() >= SLOW;
        let candidates = self.taken.values_mut().filter(|taken| taken.by == Use::Idle || slow(taken));
        let Some(victim) = candidates.min_by_key(|taken| (taken.by != Use::Idle, taken.since)) else { return false };
        victim.by = Use::Evicted;
        victim.evicted.notify_one();
        true
    }
}

impl RequestSlots {
    pub(super) fn new(limits: Limits) -> RequestSlots {
        RequestSlots(Arc::new(Mutex::new(SlotTable { limits, last: 0, taken: BTreeMap::new() })))
    }

    /// For a connection with this slot. It occupies no slot before its first request.
    pub(super) fn slot(&self, place: Slot) -> RequestSlot {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        drop(table);
        RequestSlot(Arc::new(SlotOwner { slots: self.clone(), number, place, evicted: Arc::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's slot. Clones share it; dropping the last one frees it.
#[derive(Clone, Debug)]
pub(super) struct RequestSlot(Arc<SlotOwner>);

#[derive(Debug)]
struct SlotOwner {
    slots: RequestSlots,
    number: u64,
    place: Slot,
    evicted: Arc<Notify>,
}

impl RequestSlot {
    /// Occupies the slot for the next authenticated request.
    fn ask(&self) -> Answer<()> {
        let mut table = self.0.slots.lock();
        let most = table.limits.requests;
        if !table.ask(self.0.number, &self.0.evicted) {
            let what = format!("{most} requests are being answered, which is the limit");
            return Err(Refusal::full(Report::new(Kind::Busy, what).hint("try again in a moment")).closing());
        }
        drop(table);
        self.0.place.set_authenticated();
        Ok(())
    }

    /// Counts the answer as streaming.
    pub(super) fn watch(&self) -> Answer<()> {
        let what = "clients follow events, logs or the status here";
        self.pass_to(
            Use::Watching,
            |limits| limits.watchers,
            what,
            "close one that is not needed any more, and try again",
        )
    }

    /// Counts the connection as one to the guest, if the limit allows it.
    pub(super) fn join(&self) -> Answer<Joined> {
        let hint = "close one that is not needed any more, or connect by ssh: the setting `listen` has the address";
        self.pass_to(Use::Guest, |limits| limits.guests, "connections to the guest are open", hint)?;
        Ok(Joined(self.clone()))
    }

    fn pass_to(&self, by: Use, limit: impl Fn(&Limits) -> usize, what: &str, hint: &str) -> Answer<()> {
        let mut table = self.0.slots.lock();
        let most = limit(&table.limits);
        if table.count(|other| other == by) >= most {
            let what = format!("{most} {what}, which is the limit");
            return Err(Refusal::full(Report::new(Kind::Busy, what).hint(hint)));
        }
        table.put(self.0.number, by);
        Ok(())
    }

    /// Changes the use if it is one of `from`.
    fn change(&self, from: &[Use], to: Use) {
        let mut table = self.0.slots.lock();
        if table.taken.get(&self.0.number).is_some_and(|taken| from.contains(&taken.by)) {
            table.put(self.0.number, to);
        }
    }

    /// Resolves when the connection is evicted.
    pub(super) async fn evicted(&self) {
        let slot_evicted = async {
            loop {
                self.0.evicted.notified().await;
                if self.0.slots.lock().taken.get(&self.0.number).is_some_and(|taken| taken.by == Use::Evicted) {
                    return;
                }
            }
        };
        tokio::select! { () = self.0.place.evicted() => {}, () = slot_evicted => {} }
    }
}

impl Drop for SlotOwner {
    fn drop(&mut self) {
        self.slots.lock().taken.remove(&self.number);
    }
}

/// Counts the slot as a connection to the guest until it is dropped.
#[derive(Debug)]
pub(super) struct Joined(RequestSlot);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.change(&[Use::Guest], Use::Asking);
    }
}

/// Applies the limits to these routes. A request without a [`RequestSlot`] among its extensions is not counted.
pub(super) fn with_slots(routes: Router) -> Router {
    routes.layer(middleware::from_fn(take_slot))
}

async fn take_slot(request: Request, next: Next) -> Response {
    let Some(slot) = request.extensions().get::<RequestSlot>().cloned() else { return next.run(request).await };
    if let Err(refusal) = slot.ask() {
        return refusal.into_response();
    }
    let response = next.run(request).await;
    slot.change(&[Use::Asking], Use::Answering);
    response.map(|body| Body::new(Answering { body, _end: End(slot) }))
}

/// The body of an answer. When it has been sent, the slot is idle.
struct Answering {
    body: Body,
    _end: End,
}

struct End(RequestSlot);

impl Drop for End {
    fn drop(&mut self) {
        self.0.change(&[Use::Answering, Use::Watching], Use::Idle);
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_host::connection_slots::{ConnectionSlots, SlotLimits};
    use futures_util::FutureExt;
    use tokio::time::advance;

    const LIMITS: Limits = Limits { requests: 2, watchers: 1, guests: 1 };

    struct Socket(ConnectionSlots, RequestSlots);

    impl Socket {
        fn new() -> Socket {
            let room = SlotLimits { unauthenticated: 10, all: usize::MAX, stay: Duration::ZERO };
            Socket(ConnectionSlots::new("a socket", room), RequestSlots::new(LIMITS))
        }

        async fn connection(&self) -> RequestSlot {
            self.1.slot(self.0.acquire().await)
        }

        async fn asking(&self) -> RequestSlot {
            let slot = self.connection().await;
            slot.ask().unwrap();
            slot
        }
    }

    fn answered(slot: &RequestSlot) {
        slot.change(&[Use::Asking], Use::Answering);
        drop(End(slot.clone()));
    }

    fn evicted(slot: &RequestSlot) -> bool {
        slot.evicted().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_evicted_and_none_with_a_request() {
        let socket = Socket::new();
        let (first, second) = (socket.asking().await, socket.asking().await);
        let third = socket.connection().await;
        assert_eq!(third.ask().unwrap_err().status(), 503);
        answered(&second);
        advance(Duration::from_secs(1)).await;
        answered(&first);
        third.ask().unwrap();
        assert_eq!([&first, &second, &third].map(evicted), [false, true, false]);
        // An evicted connection that has not closed yet occupies a slot again, if one is free.
        second.ask().unwrap();
        assert_eq!([&first, &second, &third].map(evicted), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_read_its_answer_is_evicted_after_a_while() {
        let socket = Socket::new();
        let (slow, asks) = (socket.asking().await, socket.asking().await);
        slow.change(&[Use::Asking], Use::Answering);
        let next = socket.connection().await;
        next.ask().unwrap_err();
        advance(SLOW).await;
        next.ask().unwrap();
        assert_eq!([&slow, &asks, &next].map(evicted), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_take_no_slot_from_requests_and_have_a_limit_of_their_own() {
        let socket = Socket::new();
        let (watcher, guest) = (socket.asking().await, socket.asking().await);
        watcher.watch().unwrap();
        let joined = guest.join().unwrap();
        let (first, second) = (socket.asking().await, socket.asking().await);
        assert_eq!(first.watch().unwrap_err().status(), 503);
        assert_eq!(second.join().unwrap_err().status(), 503);
        // Each end frees a slot.
        answered(&first);
        drop(End(watcher.clone()));
        second.watch().unwrap();
        drop((joined, guest));
        let third = socket.asking().await;
        let _joined = third.join().unwrap();
    }
}
