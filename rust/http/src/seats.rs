//! How much of the API those who have shown who they are may use at once: requests, streams that go on and on, and connections to
//! the guest are counted apart, so that none of them keeps the others out.
//!
//! ```text
//!            a request             its answer              has been sent
//!  (none) ────────────▶ asking ──────────────▶ answering ───────────────▶ idle ── the next request ─▶ asking
//!                         ├─ goes on and on ─▶ watching                     └── gives way to a newer one
//!                         └─ upgrade ────────▶ joined to the guest
//! ```
//!
//! Each connection has one seat, which [`sit`] takes for every request on it.

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

/// How long an answer may be on its way before its connection gives way to others. One that is read at once takes no time.
const SLOW: Duration = Duration::from_secs(10);

/// How many of each there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections with a request, or between two.
    pub(super) requests: usize,
    /// Answers that go on and on: events, logs that are followed, a status that is waited for.
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
    /// It had to give way.
    Lost,
}

#[derive(Debug)]
struct Taken {
    by: Use,
    since: Instant,
    lost: Arc<Notify>,
}

/// The seats of one socket.
#[derive(Clone, Debug)]
pub(super) struct Seats(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    limits: Limits,
    last: u64,
    taken: BTreeMap<u64, Taken>,
}

impl Table {
    fn count(&self, counts: impl Fn(Use) -> bool) -> usize {
        self.taken.values().filter(|taken| counts(taken.by)).count()
    }

    /// Puts the seat to another use. The time begins anew.
    fn put(&mut self, number: u64, by: Use) {
        if let Some(taken) = self.taken.get_mut(&number) {
            (taken.by, taken.since) = (by, Instant::now());
        }
    }

    /// Takes a seat among the requests, if there is one or one gives way.
    fn ask(&mut self, number: u64, lost: &Arc<Notify>) -> bool {
        if !matches!(self.taken.get(&number), Some(Taken { by: Use::Idle, .. })) {
            let ordinary = |by| matches!(by, Use::Idle | Use::Asking | Use::Answering);
            if self.count(ordinary) >= self.limits.requests && !self.have_one_give_way() {
                return false;
            }
            let taken = Taken { by: Use::Asking, since: Instant::now(), lost: Arc::clone(lost) };
            self.taken.insert(number, taken);
        }
        self.put(number, Use::Asking);
        true
    }

    /// The one that has had nothing to do for longest; or that does not read its answer.
    fn have_one_give_way(&mut self) -> bool {
        let slow = |taken: &Taken| taken.by == Use::Answering && taken.since.elapsed() >= SLOW;
        let may_go = self.taken.values_mut().filter(|taken| taken.by == Use::Idle || slow(taken));
        let Some(goes) = may_go.min_by_key(|taken| (taken.by != Use::Idle, taken.since)) else { return false };
        goes.by = Use::Lost;
        goes.lost.notify_one();
        true
    }
}

impl Seats {
    pub(super) fn new(limits: Limits) -> Seats {
        Seats(Arc::new(Mutex::new(Table { limits, last: 0, taken: BTreeMap::new() })))
    }

    /// For a connection with this slot. It has no seat before its first request.
    pub(super) fn seat(&self, place: Slot) -> Seat {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        drop(table);
        Seat(Arc::new(Sitter { seats: self.clone(), number, place, lost: Arc::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's seat. Clones are the same one; it is free when the last of them is dropped.
#[derive(Clone, Debug)]
pub(super) struct Seat(Arc<Sitter>);

#[derive(Debug)]
struct Sitter {
    seats: Seats,
    number: u64,
    place: Slot,
    lost: Arc<Notify>,
}

impl Seat {
    /// For the next request of a client that may ask.
    fn ask(&self) -> Answer<()> {
        let mut table = self.0.seats.lock();
        let most = table.limits.requests;
        if !table.ask(self.0.number, &self.0.lost) {
            let what = format!("{most} requests are being answered here, which is as many as there may be at once");
            return Err(Refusal::full(Report::new(Kind::Busy, what).hint("try again in a moment")).closing());
        }
        drop(table);
        self.0.place.set_authenticated();
        Ok(())
    }

    /// The answer is going to take as long as the client likes.
    pub(super) fn watch(&self) -> Answer<()> {
        let what = "clients follow events, logs or the status here";
        self.pass_to(
            Use::Watching,
            |limits| limits.watchers,
            what,
            "end one that is not needed any more, and try again",
        )
    }

    /// The connection is going to be one to the guest, if it can be made.
    pub(super) fn join(&self) -> Answer<Joined> {
        let hint = "end one that is not needed any more, or connect by ssh: the setting `listen` says where";
        self.pass_to(Use::Guest, |limits| limits.guests, "connections to the guest go through here", hint)?;
        Ok(Joined(self.clone()))
    }

    fn pass_to(&self, by: Use, limit: impl Fn(&Limits) -> usize, what: &str, hint: &str) -> Answer<()> {
        let mut table = self.0.seats.lock();
        let most = limit(&table.limits);
        if table.count(|other| other == by) >= most {
            let what = format!("{most} {what}, which is as many as there may be at once");
            return Err(Refusal::full(Report::new(Kind::Busy, what).hint(hint)));
        }
        table.put(self.0.number, by);
        Ok(())
    }

    /// From one use to another; from any other it stays as it is.
    fn change(&self, from: &[Use], to: Use) {
        let mut table = self.0.seats.lock();
        if table.taken.get(&self.0.number).is_some_and(|taken| from.contains(&taken.by)) {
            table.put(self.0.number, to);
        }
    }

    /// Resolves when the connection has to give way to another.
    pub(super) async fn lost(&self) {
        let seat_lost = async {
            loop {
                self.0.lost.notified().await;
                if self.0.seats.lock().taken.get(&self.0.number).is_some_and(|taken| taken.by == Use::Lost) {
                    return;
                }
            }
        };
        tokio::select! { () = self.0.place.evicted() => {}, () = seat_lost => {} }
    }
}

impl Drop for Sitter {
    fn drop(&mut self) {
        self.seats.lock().taken.remove(&self.number);
    }
}

/// A seat that is a connection to the guest, until this is dropped.
#[derive(Debug)]
pub(super) struct Joined(Seat);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.change(&[Use::Guest], Use::Asking);
    }
}

/// These routes, for clients that have a seat. Without [`Seat`] in a request's extensions nothing is counted.
pub(super) fn seated(routes: Router) -> Router {
    routes.layer(middleware::from_fn(sit))
}

async fn sit(request: Request, next: Next) -> Response {
    let Some(seat) = request.extensions().get::<Seat>().cloned() else { return next.run(request).await };
    if let Err(refusal) = seat.ask() {
        return refusal.into_response();
    }
    let response = next.run(request).await;
    seat.change(&[Use::Asking], Use::Answering);
    response.map(|body| Body::new(Answering { body, _end: End(seat) }))
}

/// An answer's body: when it has been sent, the seat's connection has nothing to do.
struct Answering {
    body: Body,
    _end: End,
}

struct End(Seat);

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

    struct Socket(ConnectionSlots, Seats);

    impl Socket {
        fn new() -> Socket {
            let room = SlotLimits { unauthenticated: 10, all: usize::MAX, stay: Duration::ZERO };
            Socket(ConnectionSlots::new("a socket", room), Seats::new(LIMITS))
        }

        async fn connection(&self) -> Seat {
            self.1.seat(self.0.acquire().await)
        }

        async fn asking(&self) -> Seat {
            let seat = self.connection().await;
            seat.ask().unwrap();
            seat
        }
    }

    fn answered(seat: &Seat) {
        seat.change(&[Use::Asking], Use::Answering);
        drop(End(seat.clone()));
    }

    fn lost(seat: &Seat) -> bool {
        seat.lost().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_idle_for_longest_gives_way_and_none_that_asks() {
        let socket = Socket::new();
        let (first, second) = (socket.asking().await, socket.asking().await);
        let third = socket.connection().await;
        assert_eq!(third.ask().unwrap_err().status(), 503);
        answered(&second);
        advance(Duration::from_secs(1)).await;
        answered(&first);
        third.ask().unwrap();
        assert_eq!([&first, &second, &third].map(lost), [false, true, false]);
        // One that is on its way out takes a seat again, if there is one.
        second.ask().unwrap();
        assert_eq!([&first, &second, &third].map(lost), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_an_answer_gives_way_after_a_while() {
        let socket = Socket::new();
        let (slow, asks) = (socket.asking().await, socket.asking().await);
        slow.change(&[Use::Asking], Use::Answering);
        let next = socket.connection().await;
        next.ask().unwrap_err();
        advance(SLOW).await;
        next.ask().unwrap();
        assert_eq!([&slow, &asks, &next].map(lost), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_take_no_seat_from_requests_and_have_a_limit_of_their_own() {
        let socket = Socket::new();
        let (watcher, guest) = (socket.asking().await, socket.asking().await);
        watcher.watch().unwrap();
        let joined = guest.join().unwrap();
        let (first, second) = (socket.asking().await, socket.asking().await);
        assert_eq!(first.watch().unwrap_err().status(), 503);
        assert_eq!(second.join().unwrap_err().status(), 503);
        // What ends makes room for the next.
        answered(&first);
        drop(End(watcher.clone()));
        second.watch().unwrap();
        drop((joined, guest));
        let third = socket.asking().await;
        let _joined = third.join().unwrap();
    }
}
