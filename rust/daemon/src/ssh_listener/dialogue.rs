//! Observes a client without knowing its protocol: which side sent something, and how often the guest answered.
//!
//! A handshake is a dialogue. A client that cannot complete it gets a few answers at most, whatever it sends. A client that
//! logs in gets more. The number of bytes depends on keys and algorithms, so bytes are not counted.

use super::turns::Turn;
use dvn_host::connection_slots::Slot;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// The number of the guest's answers after which a client counts as authenticated. An sshd gives two to a client that sends
/// nothing sensible (its banner, its algorithms), two more to one that has agreed on keys, and one for each step of a login and
/// of a session.
pub(super) const ANSWERS: u32 = 4;

/// A client's stream that counts the guest's answers.
///
/// If the client disconnects before the guest's first bytes, this keeps the client's turn until they arrive: the guest starts a
/// server for it all the same.
pub(super) struct Dialogue<S> {
    /// `None` once the client is gone.
    client: Option<S>,
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    abandoned: CancellationToken,
    answered: CancellationToken,
    slot: Arc<Slot>,
    /// The client has sent something since the guest's last answer.
    heard: bool,
    answers: u32,
    /// The turn to connect to the guest, until the guest's first bytes.
    turn: Option<Turn>,
}

impl<S> Dialogue<S> {
    /// For the client that has this slot. Its turn ends at the guest's first bytes.
    pub(super) fn new(client: S, slot: Arc<Slot>, turn: Turn) -> Self {
        Dialogue { client: Some(client), ..Dialogue::without_client(slot, turn) }
    }

    /// For a client that is gone: ends at the guest's first bytes.
    pub(super) fn without_client(slot: Arc<Slot>, turn: Turn) -> Self {
        let lost = {
            let slot = Arc::clone(&slot);
            Box::pin(async move { slot.evicted().await })
        };
        let (abandoned, answered) = Default::default();
        Dialogue { client: None, lost, abandoned, answered, slot, heard: false, answers: 0, turn: Some(turn) }
    }

    /// Cancelled when the client disconnects before the guest's first bytes.
    pub(super) fn abandoned(&self) -> CancellationToken {
        self.abandoned.clone()
    }

    /// Cancelled at the guest's first bytes.
    pub(super) fn answered(&self) -> CancellationToken {
        self.answered.clone()
    }

    /// Closes the client's side. Returns whether the guest has not sent anything yet.
    fn leave(&mut self) -> bool {
        self.client = None;
        self.abandoned.cancel();
        self.turn.is_some()
    }

    fn client_spoke(&mut self) {
        if self.answers < ANSWERS && !self.heard {
            self.heard = true;
            self.slot.set_speaking();
        }
    }

    fn guest_spoke(&mut self) {
        self.turn = None;
        self.answered.cancel();
        if self.heard {
            self.heard = false;
            self.answers += 1;
            if self.answers == ANSWERS {
                self.slot.set_authenticated();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Dialogue<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.client.is_some() && this.slot.is_unauthenticated() && this.lost.as_mut().poll(cx).is_ready() {
            return if this.leave() { Poll::Pending } else { Poll::Ready(Err(gone())) };
        }
        let before = buf.filled().len();
        match &mut this.client {
            Some(client) => ready!(Pin::new(client).poll_read(cx, buf))?,
            // The guest's first bytes end it.
            None => return Poll::Pending,
        }
        if buf.filled().len() > before {
            this.client_spoke();
        } else if this.turn.is_some() && this.slot.is_silent() && buf.remaining() > 0 {
            this.leave();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Dialogue<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(client) = &mut self.client else {
            self.turn = None;
            return Poll::Ready(Err(gone()));
        };
        let written = ready!(Pin::new(client).poll_write(cx, bytes))?;
        if written > 0 {
            self.guest_spoke();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.client {
            Some(client) => Pin::new(client).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.client {
            Some(client) => Pin::new(client).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client is gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh_listener::turns::{Client, Limits, Turns};
    use dvn_host::connection_slots::{ConnectionSlots, SlotLimits};
    use futures_util::FutureExt;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    async fn watched() -> (DuplexStream, Dialogue<DuplexStream>, Arc<Slot>, Turns) {
        let slots = ConnectionSlots::new("a door", SlotLimits { unauthenticated: 9, all: 9, stay: Duration::ZERO });
        let slot = slots.acquire().await;
        let turns = Turns::new(Limits { all: 1, silent: 1, silent_beside: 1 }, slots);
        let turn = turns.wait(Client::Silent).await;
        let (client, ours) = duplex(1 << 20);
        let slot = Arc::new(slot);
        (client, Dialogue::new(ours, Arc::clone(&slot), turn), slot, turns)
    }

    #[tokio::test]
    async fn answers_make_a_client_authenticated_and_bytes_do_not() {
        let (mut client, mut door, slot, _turns) = watched().await;
        door.write_all(&[0; 100_000]).await.unwrap();
        for _ in 0..100 {
            client.write_all(&[0; 1000]).await.unwrap();
            door.read_exact(&mut [0; 1000]).await.unwrap();
        }
        door.write_all(&[0; 1000]).await.unwrap();
        door.write_all(&[0; 1000]).await.unwrap();
        assert!(slot.is_unauthenticated(), "one answer, however many bytes");
        for _ in 1..ANSWERS {
            assert!(slot.is_unauthenticated());
            client.write_all(b"question").await.unwrap();
            door.read_exact(&mut [0; 8]).await.unwrap();
            door.write_all(b"answer").await.unwrap();
        }
        assert!(!slot.is_unauthenticated());
    }

    #[tokio::test]
    async fn the_guests_first_bytes_end_the_turn() {
        let (mut client, mut door, _slot, turns) = watched().await;
        client.write_all(b"banner").await.unwrap();
        door.read_exact(&mut [0; 6]).await.unwrap();
        assert!(turns.wait(Client::Speaking).now_or_never().is_none());
        door.write_all(b"banner").await.unwrap();
        assert!(turns.wait(Client::Speaking).now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_turn_of_a_client_that_disconnects_early_lasts_until_the_guests_first_bytes() {
        for evicted in [true, false] {
            let slots = ConnectionSlots::new("a door", SlotLimits { unauthenticated: 1, all: 9, stay: Duration::ZERO });
            let slot = Arc::new(slots.acquire().await);
            let turns = Turns::new(Limits { all: 1, silent: 1, silent_beside: 1 }, slots.clone());
            let (mut client, ours) = duplex(100);
            let mut door = Dialogue::new(ours, slot, turns.wait(Client::Silent).await);
            let mut newer = None;
            match evicted {
                true => newer = Some(slots.acquire().await),
                false => client.shutdown().await.unwrap(),
            }
            let mut word = [0; 1];
            assert!(door.read(&mut word).now_or_never().is_none(), "the guest does not see that it is gone");
            assert_eq!(client.read(&mut word).await.unwrap(), 0, "the client sees it at once");
            assert!(door.abandoned().is_cancelled());
            assert!(turns.wait(Client::Speaking).now_or_never().is_none(), "the guest still starts a server");
            door.write_all(b"banner").await.unwrap_err();
            assert!(turns.wait(Client::Speaking).now_or_never().is_some());
            drop(newer);
        }
    }
}
