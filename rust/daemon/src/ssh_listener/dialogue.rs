//! What the door can see of a client without knowing its protocol: who spoke, and how often the other side answered.
//!
//! A handshake is a dialogue. One that cannot go through it gets a few answers at most, whatever it sends; one that can, and
//! logs in, gets more. How many bytes that takes depends on keys and algorithms, so they are not counted.

use super::turns::Turn;
use dvn_host::connection_slots::Slot;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Answers of the guest after which a client is no stranger. An sshd gives two to a client that sends nothing sensible (its
/// banner, its algorithms), two more to one that has agreed on keys, and each step of a login and of a session is one.
pub(super) const ANSWERS: u32 = 4;

/// A client's stream, watched.
pub(super) struct Dialogue<S> {
    client: S,
    place: Arc<Slot>,
    /// The client has said something since the guest's last answer.
    heard: bool,
    answers: u32,
    /// To get to the guest: until it has said something.
    turn: Option<Turn>,
}

impl<S> Dialogue<S> {
    /// Of the client that has this place. Its turn ends at the guest's first word.
    pub(super) fn new(client: S, place: Arc<Slot>, turn: Turn) -> Self {
        Dialogue { client, place, heard: false, answers: 0, turn: Some(turn) }
    }

    fn client_spoke(&mut self) {
        if self.answers < ANSWERS && !self.heard {
            self.heard = true;
            self.place.set_speaking();
        }
    }

    fn guest_spoke(&mut self) {
        self.turn = None;
        if self.heard {
            self.heard = false;
            self.answers += 1;
            if self.answers == ANSWERS {
                self.place.set_authenticated();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Dialogue<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.client).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.client_spoke();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Dialogue<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.client).poll_write(cx, bytes))?;
        if written > 0 {
            self.guest_spoke();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
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
        let lobby = ConnectionSlots::new("a door", SlotLimits { unauthenticated: 9, all: 9, stay: Duration::ZERO });
        let place = lobby.acquire().await;
        let turns = Turns::new(Limits { all: 1, silent: 1, silent_beside: 1 }, lobby);
        let turn = turns.wait(Client::Silent).await;
        let (client, ours) = duplex(1 << 20);
        let place = Arc::new(place);
        (client, Dialogue::new(ours, Arc::clone(&place), turn), place, turns)
    }

    #[tokio::test]
    async fn answers_make_a_client_known_and_bytes_do_not() {
        let (mut client, mut door, place, _turns) = watched().await;
        door.write_all(&[0; 100_000]).await.unwrap();
        for _ in 0..100 {
            client.write_all(&[0; 1000]).await.unwrap();
            door.read_exact(&mut [0; 1000]).await.unwrap();
        }
        door.write_all(&[0; 1000]).await.unwrap();
        door.write_all(&[0; 1000]).await.unwrap();
        assert!(place.is_unauthenticated(), "one answer, however much was said");
        for _ in 1..ANSWERS {
            assert!(place.is_unauthenticated());
            client.write_all(b"question").await.unwrap();
            door.read_exact(&mut [0; 8]).await.unwrap();
            door.write_all(b"answer").await.unwrap();
        }
        assert!(!place.is_unauthenticated());
    }

    #[tokio::test]
    async fn the_guests_first_word_ends_the_turn() {
        let (mut client, mut door, _place, turns) = watched().await;
        client.write_all(b"banner").await.unwrap();
        door.read_exact(&mut [0; 6]).await.unwrap();
        assert!(turns.wait(Client::Speaking).now_or_never().is_none());
        door.write_all(b"banner").await.unwrap();
        assert!(turns.wait(Client::Speaking).now_or_never().is_some());
    }
}
