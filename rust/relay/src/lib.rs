//! Copies bytes both ways between a client and a guest, and decides when such a connection ends.
//!
//! vsock devices do not carry a half-close: when the host shuts down its half, the guest can no longer answer (measured
//! in `docs/guest-contract.md`). So the end of the client's input is not passed on at once. The connection continues
//! while the guest sends, and ends when it has been silent for [`QUIET`]. It counts as silent only while the relay
//! waits for it: bytes for a client that reads slowly wait, and are delivered in full. In the other direction, a guest
//! that has ended has closed both halves; the client receives everything that it sent, and has time to read it.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split},
    time::sleep,
};

/// How long one end may be silent once the other has ended.
pub const QUIET: Duration = Duration::from_secs(1);

/// Maximum bytes of one read: what a Linux pipe or socket returns at once.
const CHUNK: usize = 64 * 1024;

/// Counts the bytes of each direction.
#[derive(Debug, Default)]
pub struct ByteCounts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteCounts {
    /// Bytes from the client to the guest.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
    /// Bytes from the guest to the client.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

/// Copies bytes until one end has ended and the other is silent, or one has failed.
pub async fn copy<C, G>(client: C, guest: G, carried: &ByteCounts) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    G: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (from_client, mut to_client) = split(client);
    let (from_guest, mut to_guest) = split(guest);
    let (never, client_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    {
        let mut there = pin!(pump(from_client, &mut to_guest, &carried.sent, &never));
        let mut back = pin!(pump(from_guest, &mut to_client, &carried.received, &client_ended));
        tokio::select! {
            ended = &mut there => {
                ended?;
                client_ended.store(true, Relaxed);
                back.await?;
            }
            ended = &mut back => ended?,
        }
    }
    // The peer is gone already, or learns now that no more bytes follow.
    let _ = to_guest.shutdown().await;
    to_client.shutdown().await
}

/// Copies bytes until the end of `from` or, once `other_ended`, until one read has waited for [`QUIET`]. The task that sets
/// `other_ended` polls this future again.
async fn pump<R, W>(mut from: R, to: &mut W, count: &AtomicU64, other_ended: &AtomicBool) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = read_or_quiet(&mut from, &mut chunk, other_ended).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..read]).await?;
        count.fetch_add(read as u64, Relaxed);
    }
}

/// One read; 0 also after [`QUIET`] once the other side has ended. Nearly all reads come before that, one for each wake-up, and
/// cost no more than the read itself.
async fn read_or_quiet<R>(from: &mut R, chunk: &mut [u8], other_ended: &AtomicBool) -> io::Result<usize>
where
    R: AsyncRead + Unpin,
{
    let mut quiet = None;
    poll_fn(|cx| {
        let mut read = ReadBuf::new(chunk);
        if let Poll::Ready(outcome) = Pin::new(&mut *from).poll_read(cx, &mut read) {
            return Poll::Ready(outcome.map(|()| read.filled().len()));
        }
        if !other_ended.load(Relaxed) {
            return Poll::Pending;
        }
        quiet.get_or_insert_with(|| Box::pin(sleep(QUIET))).as_mut().poll(cx).map(|()| Ok(0))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, DuplexStream, duplex},
        task::JoinHandle,
    };

    fn carrying() -> (DuplexStream, DuplexStream, JoinHandle<(io::Result<()>, ByteCounts)>) {
        let (client, ours) = duplex(100);
        let (guest, theirs) = duplex(100);
        let task = tokio::spawn(async move {
            let carried = ByteCounts::default();
            (copy(ours, theirs, &carried).await, carried)
        });
        (client, guest, task)
    }

    async fn all(mut stream: DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_ends_still_gets_a_slow_answer() {
        let (mut client, mut guest, task) = carrying();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let client = tokio::spawn(all(client));
        let mut question = [0; 8];
        guest.read_exact(&mut question).await.unwrap();
        for _ in 0..100 {
            tokio::time::sleep(QUIET * 9 / 10).await;
            guest.write_all(&[7; 10]).await.expect("the guest can still write");
        }
        drop(guest);
        assert_eq!(client.await.unwrap(), [7; 1000]);
        let (ended, carried) = task.await.unwrap();
        ended.unwrap();
        assert_eq!((carried.sent(), carried.received()), (8, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_late_gets_all_that_the_guest_said() {
        let (mut client, mut guest, task) = carrying();
        client.shutdown().await.unwrap();
        let guest = tokio::spawn(async move { guest.write_all(&[3; 1000]).await });
        tokio::time::sleep(QUIET * 10).await;
        assert!(!guest.is_finished(), "the client's buffer is full");
        assert_eq!(all(client).await, [3; 1000]);
        guest.await.unwrap().unwrap();
        assert_eq!(task.await.unwrap().1.received(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_left_does_not_keep_a_silent_guest_in_use() {
        let (mut client, guest, task) = carrying();
        client.shutdown().await.unwrap();
        tokio::time::sleep(QUIET * 2).await;
        assert!(task.is_finished());
        assert_eq!(all(guest).await, b"", "the guest's stream ends");
    }

    #[tokio::test]
    async fn what_a_guest_said_before_it_ended_reaches_the_client_whole() {
        let (client, mut guest, task) = carrying();
        let client = tokio::spawn(all(client));
        guest.write_all(&[1; 5000]).await.unwrap();
        drop(guest);
        assert_eq!(client.await.unwrap(), [1; 5000]);
        task.await.unwrap().0.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_connection_may_be_silent_for_hours() {
        let (mut client, mut guest, task) = carrying();
        tokio::time::sleep(Duration::from_secs(100_000)).await;
        assert!(!task.is_finished());
        guest.write_all(b"built").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        drop((client, guest));
        task.await.unwrap().0.unwrap();
    }
}
