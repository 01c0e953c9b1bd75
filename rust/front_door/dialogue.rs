//! What the door can see of a client without knowing its protocol: who spoke, and how often the other side answered.
//!
//! A handshake is a dialogue. One that cannot go through it gets a few answers at most, whatever it sends; one that can, and
//! logs in, gets more. How many bytes that takes depends on keys and algorithms, so they are not counted.

use crate::lobby::Place;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// Answers of the guest after which a client is no stranger. An sshd gives two to a client that sends nothing sensible (its
/// banner, its algorithms), two more to one that has agreed on keys, and each step of a login and of a session is one.
pub(super) const ANSWERS: u32 = 4;

/// A client's stream, watched.
pub(super) struct Dialogue<S> {
    client: S,
    place: Arc<Place>,
    /// The client has said something since the guest's last answer.
    heard: bool,
    answers: u32,
    /// Held until the guest has said something.
    opening: Option<oneshot::Sender<()>>,
}

impl<S> Dialogue<S> {
    /// Of the client that has this place. `opening` is dropped at the guest's first word.
    pub(super) fn new(client: S, place: Arc<Place>, opening: oneshot::Sender<()>) -> Self {
        Dialogue { client, place, heard: false, answers: 0, opening: Some(opening) }
    }

    fn client_spoke(&mut self) {
        if self.answers < ANSWERS && !self.heard {
            self.heard = true;
            self.place.speaks();
        }
    }

    fn guest_spoke(&mut self) {
        self.opening = None;
        if self.heard {
            self.heard = false;
            self.answers += 1;
            if self.answers == ANSWERS {
                self.place.is_known();
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
    use crate::lobby::{Lobby, Room};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    async fn watched(opening: oneshot::Sender<()>) -> (DuplexStream, Dialogue<DuplexStream>, Arc<Place>) {
        let place = Lobby::new("a door", Room { strangers: 9, all: 9, stay: Duration::ZERO }).enter().await;
        let (client, ours) = duplex(1 << 20);
        let place = Arc::new(place);
        (client, Dialogue::new(ours, Arc::clone(&place), opening), place)
    }

    #[tokio::test]
    async fn answers_make_a_client_known_and_bytes_do_not() {
        let (mut client, mut door, place) = watched(oneshot::channel().0).await;
        door.write_all(&[0; 100_000]).await.unwrap();
        for _ in 0..100 {
            client.write_all(&[0; 1000]).await.unwrap();
            door.read_exact(&mut [0; 1000]).await.unwrap();
        }
        door.write_all(&[0; 1000]).await.unwrap();
        door.write_all(&[0; 1000]).await.unwrap();
        assert!(place.is_stranger(), "one answer, however much was said");
        for _ in 1..ANSWERS {
            assert!(place.is_stranger());
            client.write_all(b"question").await.unwrap();
            door.read_exact(&mut [0; 8]).await.unwrap();
            door.write_all(b"answer").await.unwrap();
        }
        assert!(!place.is_stranger());
    }

    #[tokio::test]
    async fn the_guests_first_word_ends_the_opening() {
        let (opening, mut opened) = oneshot::channel();
        let (mut client, mut door, _place) = watched(opening).await;
        client.write_all(b"banner").await.unwrap();
        door.read_exact(&mut [0; 6]).await.unwrap();
        assert!(matches!(opened.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        door.write_all(b"banner").await.unwrap();
        assert!(matches!(opened.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
