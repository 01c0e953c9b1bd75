//! Apple's Virtualization, through the Swift shim: the backend on a Mac. On Linux the same code drives the stand-in of
//! `tests/virtualization-standin`.
//!
//! ```text
//!   Vz::boot ─▶ ShimSpec ─▶ bridge::Machine ─▶ start ─▶ VzGuest
//!                                 └──────┬──────┘
//!                             Crew::oversee: the one task that ends the machine, and the last to hold it
//! ```
//!
//! The rule that holds here: a machine is stopped before it is dropped, and is gone before [`Guest::exited`] says so.

pub mod bridge;
mod ffi;
mod host;
mod reason;
pub mod sink;
mod spec;
#[cfg(test)]
#[cfg(standin)]
mod standin;
#[cfg(test)]
#[cfg(standin)]
mod tests;

use super::console;
use crate::{
    capabilities::Capabilities,
    seam::{Exit, Guest, GuestListener, GuestStream, Hypervisor},
    spec::MachineSpec,
};
use bridge::{Events, Machine};
use dvn_types::{Arch, Kind, Report};
use futures_util::future::BoxFuture;
pub use host::{Host, Rosetta};
use reason::{describe, report};
use sink::{Connection, Event, Failure};
use spec::ShimSpec;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixStream, unix::pipe},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long the framework may take for what needs nothing of the guest.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the guest may take to accept a connection: its kernel does.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Connections of the guest's that may wait to be taken, for each port.
const BACKLOG: usize = 16;

/// The backend.
pub struct Vz {
    host: Host,
    capabilities: Capabilities,
}

impl Vz {
    /// Asks the system what it can do. That it can do nothing is an error of the first boot, not of this.
    pub fn probe() -> Result<Vz, Report> {
        let host = Host::ask()?;
        let capabilities = Capabilities {
            backend: "vz",
            accelerator: "hvf",
            archs: Arch::host().into_iter().collect(),
            rosetta: host.rosetta == Rosetta::Installed,
            nested: host.nested,
            shares: true,
            pause: true,
            limits: host.limits(),
            features: host.features(),
        };
        Ok(Vz { host, capabilities })
    }

    /// What this computer and its system can do.
    pub fn host(&self) -> &Host {
        &self.host
    }

    async fn boot(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, Report> {
        self.host.check(&spec)?;
        let cannot = |what: &str, e: io::Error| Report::new(Kind::Host, format!("cannot {what}: {e}"));
        let log = console::log(&spec.console_log).map_err(|e| cannot("write the console log", e))?;
        let (output, input) = io::pipe().map_err(|e| cannot("make a pipe for the console", e))?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).map_err(|e| cannot("read the console", e))?;
        let json = serde_json::to_string(&ShimSpec::new(&spec, input.as_raw_fd()))
            .map_err(|e| Report::new(Kind::Internal, format!("cannot describe the VM to the shim: {e}")))?;
        let (machine, events) = Machine::new(json).map_err(|e| report("cannot make the VM", &e))?;
        drop(input);

        let kill = CancellationToken::new();
        // Whoever gives this boot up gives the guest up.
        let abandoned = kill.clone().drop_guard();
        let (started_out, started) = oneshot::channel();
        let (exit_out, exit) = watch::channel(None);
        let crew = Crew {
            machine: Arc::clone(&machine),
            events,
            console: console::keep(output, log),
            kill: kill.clone(),
            runtime_dir: spec.runtime_dir,
        };
        tokio::spawn(async move { exit_out.send_replace(Some(crew.oversee(started_out).await)) });
        let machine = Arc::downgrade(&machine);
        match started.await {
            Ok(Ok(())) => {
                abandoned.disarm();
                Ok(Arc::new(VzGuest { machine, kill, exit }))
            }
            Ok(Err(failure)) => Err(report("cannot start the VM", &failure)),
            Err(_) => Err(Report::new(Kind::Boot, "the start of the VM was given up")),
        }
    }
}

impl Hypervisor for Vz {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(Vz::boot(self, spec))
    }
}

struct VzGuest {
    /// Alive as long as the overseer says.
    machine: std::sync::Weak<Machine>,
    kill: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

impl VzGuest {
    fn machine(&self) -> Result<Arc<Machine>, Report> {
        self.machine.upgrade().ok_or_else(|| Report::new(Kind::Guest, "the guest is gone"))
    }

    /// The machine is held for the question alone: it must be able to go while the answer is awaited.
    async fn ask<D: bridge::Done>(
        &self,
        what: &str,
        question: impl FnOnce(&Machine) -> D + Send,
    ) -> Result<(), Report> {
        let answer = question(&*self.machine()?);
        answer.await.map_err(|e| Report::new(Kind::Guest, format!("cannot {what}: {}", describe(&e))))
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
            match timeout(DIAL_PATIENCE, answer).await {
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
        crate::seam::told_exit(&self.exit)
    }
}

/// Keeps a port open to the guest until it is dropped.
struct PortGuard {
    machine: std::sync::Weak<Machine>,
    port: u32,
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.upgrade() {
            drop(machine.unlisten(self.port));
        }
    }
}

/// What belongs to one guest.
struct Crew {
    machine: Arc<Machine>,
    events: Events,
    console: AbortOnDropHandle<()>,
    kill: CancellationToken,
    runtime_dir: PathBuf,
}

impl Crew {
    /// Starts the machine, waits for its end or brings it about, and says why the guest is gone.
    async fn oversee(mut self, started: oneshot::Sender<Result<(), Failure>>) -> Exit {
        let exit = match self.start(started).await {
            Ok(()) => tokio::select! {
                biased;
                () = self.kill.cancelled() => self.stop().await,
                exit = ending(&mut self.events) => exit,
            },
            Err(exit) => exit,
        };
        drop(self.machine);
        // The events end when nothing of the machine is left.
        let gone = async { while self.events.recv().await.is_some() {} };
        if timeout(PATIENCE, gone).await.is_err() {
            tracing::error!("parts of a VM that has ended are still there after {PATIENCE:?}");
        }
        // What the guest said last is in the pipe and explains the end.
        let _ = timeout(PATIENCE, self.console).await;
        crate::seam::remove_boot_files(&self.runtime_dir);
        exit
    }

    async fn start(&mut self, started: oneshot::Sender<Result<(), Failure>>) -> Result<(), Exit> {
        // A machine cannot be stopped while it starts, so a kill has to wait; but not for ever.
        let given_up = async {
            self.kill.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        let answer = tokio::select! {
            answer = self.machine.start() => answer,
            () = given_up => return Err(Exit::Killed),
        };
        let failed = answer.as_ref().err().map(|e| Exit::Crashed(describe(e)));
        // Nobody waits for the start of a boot that was given up.
        let _ = started.send(answer);
        failed.map_or(Ok(()), Err)
    }

    async fn stop(&self) -> Exit {
        match timeout(PATIENCE, self.machine.stop()).await {
            Ok(Ok(())) => {}
            // It ended by itself just now, or dropping it must do.
            Ok(Err(failure)) => tracing::debug!("stopping the VM: {}", describe(&failure)),
            Err(_) => tracing::warn!("the VM did not stop within {PATIENCE:?}; letting go of it"),
        }
        Exit::Killed
    }
}

/// Waits until the machine ends by itself.
async fn ending(events: &mut Events) -> Exit {
    loop {
        match events.recv().await {
            Some(Event::Stopped) => return Exit::PoweredOff,
            Some(Event::Crashed(failure)) => return Exit::Crashed(describe(&failure)),
            Some(Event::NetworkLost(failure)) => {
                tracing::warn!("the guest has lost its network: {}", describe(&failure));
            }
            None => return Exit::Crashed("the virtual machine was lost".to_owned()),
        }
    }
}

/// A connection as a stream.
struct VsockStream {
    // Closed before the framework's own end of it.
    stream: UnixStream,
    _connection: Connection,
}

impl VsockStream {
    /// Any stream socket will do for `UnixStream`: it only reads, writes and shuts down.
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
            // The other side closed first.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}
