//! The host's side of vsock with vhost-device-vsock: a Unix socket to connect to the guest (`CONNECT port`, `OK …`),
//! and one Unix socket for each host port that the guest may connect to.
//!
//! The rule: a connection attempt is never closed before the device has answered it. When vhost-device-vsock 0.3.0
//! writes `OK` to a closed connection, its thread panics and all connections in both directions stall. So each attempt
//! runs in a separate task; if the client gives up, the task still waits until the answer comes or the guest ends.

use super::command::Sockets;
use crate::seam::{GuestListener, GuestStream};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Longest answer to `CONNECT`, in bytes: `OK ` and a port number.
const LONGEST_ANSWER: usize = 32;

/// Time limit for the guest to accept. Its kernel accepts, so only a guest that hangs exceeds it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most connection attempts that wait for an answer at once. The guest's kernel answers within milliseconds, so only a
/// guest that hangs reaches this limit. Each attempt uses a descriptor here and one in the device.
const UNANSWERED: usize = 512;

/// Connects to a guest's ports.
pub struct Dialler {
    runtime_dir: PathBuf,
    time_limit: Duration,
    unanswered: Arc<Semaphore>,
}

impl Dialler {
    /// For the guest with this runtime directory.
    pub fn new(runtime_dir: &Path) -> Dialler {
        let unanswered = Arc::new(Semaphore::new(UNANSWERED));
        Dialler { runtime_dir: runtime_dir.to_owned(), time_limit: CONNECT_TIMEOUT, unanswered }
    }

    /// Opens a stream to a port of the guest.
    pub async fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let answered = async {
            // The semaphore is never closed.
            let place = Arc::clone(&self.unanswered).acquire_owned().await.map_err(io::Error::other)?;
            let socket = Sockets(&self.runtime_dir).vsock();
            let call = tokio::spawn(async move {
                let answer = call(&socket, port).await;
                drop(place);
                answer
            });
            call.await.map_err(io::Error::other)?
        };
        timeout(self.time_limit, answered).await.unwrap_or_else(|_| {
            let why = format!("the guest did not accept the connection within {:?}", self.time_limit);
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}

/// Connects to a port, and waits for the answer as long as the device lives.
async fn call(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(LONGEST_ANSWER);
    // Byte by byte: the bytes after the newline belong to the guest's stream.
    while answer.last() != Some(&b'\n') && answer.len() < LONGEST_ANSWER {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
    }
    if answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
        Ok(stream)
    } else {
        let why = "the connection was refused: nothing listens on that port of the guest, or its vsock device fails";
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
    }
}

/// Accepts the guest's connections to a port of the host until the guest has `exited`.
pub fn listen<E>(
    runtime_dir: &Path,
    port: u32,
    exited: impl Future<Output = E> + Send + 'static,
) -> io::Result<GuestListener> {
    let listener = UnixListener::bind(Sockets(runtime_dir).vsock_port(port))?;
    let (found, incoming) = mpsc::channel::<GuestStream>(16);
    let pump = tokio::spawn(async move {
        let take = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if found.send(Box::new(stream)).await.is_err() {
                            return;
                        }
                    }
                    // Most likely out of descriptors; others will be closed.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::select! {
            () = take => {}
            _ = exited => {}
        }
    });
    Ok(GuestListener::new(incoming, Some(AbortOnDropHandle::new(pump))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    async fn answering(answer: &'static [u8]) -> io::Result<UnixStream> {
        let tmp = tempfile::tempdir().unwrap();
        let device = UnixListener::bind(Sockets(tmp.path()).vsock()).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = device.accept().await.unwrap();
            let mut asked = [0; 11];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 22\n");
            stream.write_all(answer).await.unwrap();
        });
        Dialler::new(tmp.path()).connect(22).await
    }

    #[tokio::test]
    async fn what_follows_the_answer_belongs_to_the_caller() {
        let mut stream = answering(b"OK 1073741824\nSSH-2.0-x").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "SSH-2.0-x");
    }

    #[tokio::test]
    async fn a_closed_or_strange_answer_is_a_refusal() {
        for answer in [&b""[..], b"NO\n", b"OK", &[b'x'; 100]] {
            let error = answering(answer).await.unwrap_err();
            assert!(
                matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
                "{error}"
            );
        }
    }

    /// A closed attempt would make the device stall all connections.
    #[tokio::test]
    async fn a_connection_attempt_is_never_closed_before_it_is_answered() {
        let tmp = tempfile::tempdir().unwrap();
        let device = UnixListener::bind(Sockets(tmp.path()).vsock()).unwrap();
        let soon = Duration::from_millis(100);
        let dialler = Dialler { time_limit: soon, ..Dialler::new(tmp.path()) };
        // One client is dropped while it waits, one reaches its time limit.
        let patient = Dialler::new(tmp.path());
        let dropped = tokio::spawn(async move { patient.connect(22).await.map(drop) });
        let (mut first, _) = device.accept().await.unwrap();
        first.read_exact(&mut [0; 11]).await.unwrap();
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        assert_eq!(dialler.connect(24).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut second, _) = device.accept().await.unwrap();
        second.read_exact(&mut [0; 11]).await.unwrap();
        for stream in [&mut first, &mut second] {
            assert!(timeout(soon, stream.read_u8()).await.is_err(), "it is not closed");
            stream.write_all(b"OK 22\n").await.expect("the task waits for the answer");
            assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "and then it ends");
        }
        assert_eq!(dialler.unanswered.available_permits(), UNANSWERED);
    }

    #[tokio::test]
    async fn a_guests_connection_arrives_and_a_dropped_listener_closes_its_port() {
        let tmp = tempfile::tempdir().unwrap();
        let mut listener = listen(tmp.path(), 1024, pending::<()>()).unwrap();
        let path = tmp.path().join("vsock_1024");
        let mut dialled = UnixStream::connect(&path).await.unwrap();
        dialled.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        listener.accept().await.unwrap().read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        drop(listener);
        tokio::task::yield_now().await;
        assert!(UnixStream::connect(&path).await.is_err());
    }

    #[tokio::test]
    async fn a_guest_that_is_gone_ends_its_listeners() {
        let tmp = tempfile::tempdir().unwrap();
        let (gone, exited) = tokio::sync::oneshot::channel::<()>();
        let mut listener = listen(tmp.path(), 1024, exited).unwrap();
        let _waits = UnixStream::connect(tmp.path().join("vsock_1024")).await.unwrap();
        assert!(listener.accept().await.is_some());
        gone.send(()).unwrap();
        assert!(timeout(CONNECT_TIMEOUT, listener.accept()).await.expect("it does not wait").is_none());
    }
}
