//! [`Guest`] for Virtualization.

use super::{
    bridge::{self, Machine},
    reason::describe,
    sink::Connection,
    suspend,
};
use crate::{
    seam::{Exit, Guest, GuestListener, GuestStream, exit_future},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Time limit for the guest's kernel to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The guest's connections that may wait to be accepted, for each port.
const BACKLOG: usize = 16;

/// A guest. Dropping it kills it.
pub struct VzGuest {
    /// Weak: the `VmTask` decides how long it lives.
    pub machine: Weak<Machine>,
    pub spec: MachineSpec,
    /// The machine's identifier, if it can be saved.
    pub identity: Option<String>,
    /// Whether a machine like this can be suspended.
    pub savable: Result<(), Report>,
    pub kill: CancellationToken,
    /// The guest has been saved and must end.
    pub saved: CancellationToken,
    pub exit: watch::Receiver<Option<Exit>>,
}

impl VzGuest {
    fn machine(&self) -> Result<Arc<Machine>, Report> {
        suspend::alive(&self.machine)
    }

    async fn ask<D: bridge::Done>(
        &self,
        what: &str,
        question: impl FnOnce(&Machine) -> D + Send,
    ) -> Result<(), Report> {
        suspend::ask(&self.machine, what, question).await
    }
}

impl Drop for VzGuest {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Guest for VzGuest {
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.ask("press the power button", |machine| machine.request_stop()))
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), Report>> {
        self.kill.cancel();
        Box::pin(std::future::ready(Ok(())))
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.ask("pause the guest", |machine| machine.pause()))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(self.ask("resume the guest", |machine| machine.resume()))
    }

    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>> {
        Box::pin(async move {
            let cannot = |why: &str| {
                Report::new(Kind::Guest, format!("cannot connect to vsock port {port} of the guest: {why}"))
            };
            let answer = self.machine()?.connect(port);
            match timeout(CONNECT_TIMEOUT, answer).await {
                Ok(Ok(connection)) => match VsockStream::new(connection) {
                    Ok(stream) => Ok(Box::new(stream) as GuestStream),
                    Err(e) => Err(cannot(&e.to_string())),
                },
                Ok(Err(failure)) => Err(cannot(&describe(&failure))),
                Err(_) => Err(cannot("it did not answer")),
            }
        })
    }

    fn listen(&self, port: u32) -> Result<GuestListener, Report> {
        let machine = self.machine()?;
        let (arrived, mut arrivals) = mpsc::channel(BACKLOG);
        let answer = machine.listen(port, arrived);
        let guard = PortGuard { machine: self.machine.clone(), port };
        let (found, incoming) = mpsc::channel::<GuestStream>(BACKLOG);
        let pump = tokio::spawn(async move {
            let _guard = guard;
            if let Err(failure) = answer.await {
                tracing::warn!(port, "the guest cannot reach the host's vsock port: {}", describe(&failure));
                return;
            }
            while let Some(connection) = arrivals.recv().await {
                match VsockStream::new(connection) {
                    Ok(stream) => {
                        if found.send(Box::new(stream)).await.is_err() {
                            return;
                        }
                    }
                    Err(e) => tracing::warn!(port, "lost a connection of the guest: {e}"),
                }
            }
        });
        Ok(GuestListener::new(incoming, Some(AbortOnDropHandle::new(pump))))
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        exit_future(&self.exit)
    }

    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        if let Err(why) = &self.savable {
            return Box::pin(std::future::ready(Err(why.clone())));
        }
        let (machine, spec, identity) = (self.machine.clone(), self.spec.clone(), self.identity.clone());
        let (saved, exited) = (self.saved.clone(), exit_future(&self.exit));
        // In a task, so that it completes or is undone even if this future is dropped.
        let work = tokio::spawn(async move {
            suspend::save(&machine, state.clone(), identity, move || suspend::facts(&spec)).await?;
            saved.cancel();
            match exited.await {
                Exit::Suspended => Ok(()),
                other => {
                    suspend::blocking(move || crate::saved::forget(&state)).await?;
                    Err(suspend::cannot(format!("it was saved, but then it {other}")))
                }
            }
        });
        Box::pin(async { work.await.unwrap_or_else(|e| Err(suspend::cannot(e.to_string()))) })
    }
}

/// Keeps a port open to the guest until it is dropped.
struct PortGuard {
    machine: Weak<Machine>,
    port: u32,
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.upgrade() {
            drop(machine.unlisten(self.port));
        }
    }
}

/// A connection as a stream.
struct VsockStream {
    // Dropped first, so that this descriptor is closed before the framework's.
    stream: UnixStream,
    _connection: Connection,
}

impl VsockStream {
    /// `UnixStream` works with any stream socket, since it only reads, writes and shuts down.
    fn new(connection: Connection) -> io::Result<VsockStream> {
        let (descriptor, connection) = connection.split().ok_or(io::ErrorKind::NotConnected)?;
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Ok(VsockStream { stream: UnixStream::from_std(stream)?, _connection: connection })
    }
}

impl AsyncRead for VsockStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for VsockStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_shutdown(cx)) {
            // The other side has closed already.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}
