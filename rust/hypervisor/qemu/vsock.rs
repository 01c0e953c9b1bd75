//! The host's side of vsock, as vhost-device-vsock offers it: a Unix socket to dial the guest (`CONNECT port`, `OK …`), and
//! one Unix socket for each port of ours that the guest may dial.

use super::command::Sockets;
use crate::hypervisor::{GuestListener, GuestStream};
use std::{io, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Longest answer to `CONNECT`, in bytes: `OK ` and a port number.
const LONGEST_ANSWER: usize = 32;

/// How long the guest may take to accept. It does so in its kernel, so this is for a guest that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a stream to a port of the guest.
pub async fn connect(runtime_dir: &Path, port: u32) -> io::Result<UnixStream> {
    let dial = async {
        let mut stream = UnixStream::connect(Sockets(runtime_dir).vsock()).await?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        let mut answer = Vec::with_capacity(LONGEST_ANSWER);
        // Byte by byte: what follows the newline is the guest's.
        while answer.last() != Some(&b'\n') && answer.len() < LONGEST_ANSWER {
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
        }
        if answer.starts_with(b"OK ") {
            Ok(stream)
        } else {
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens on that port of the guest"))
        }
    };
    timeout(PATIENCE, dial).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Takes the guest's connections to a port of the host, until it has `exited`.
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
                    // Out of descriptors, most likely: others will be closed.
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
        connect(tmp.path(), 22).await
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
        assert!(timeout(PATIENCE, listener.accept()).await.expect("it does not wait").is_none());
    }
}
