//! The interface of a backend: [`Hypervisor`] starts guests, [`Guest`] controls one, streams connect it to the host.

use crate::{
    capabilities::{Capabilities, cannot_suspend},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    any::Any,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// A two-way byte stream to or from a guest's vsock port. `shutdown` closes the host's direction.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A boxed [`Stream`].
pub type GuestStream = Box<dyn Stream>;

/// What a guest holds until it is gone. The backend only drops it.
pub type Hold = Box<dyn Any + Send>;

/// Why a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It powered itself off, on request or by itself.
    PoweredOff,
    /// [`Guest::kill`] ended it.
    Killed,
    /// [`Guest::suspend`] saved it.
    Suspended,
    /// It panicked, was reset, or the hypervisor or one of its helpers failed. The text is the reason, as a sentence.
    Crashed(String),
}

/// The API's spelling.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::PoweredOff => f.write_str("powered-off"),
            Exit::Killed => f.write_str("killed"),
            Exit::Suspended => f.write_str("suspended"),
            Exit::Crashed(why) => write!(f, "crashed: {why}"),
        }
    }
}

/// A backend: runs guests with one virtual machine monitor.
pub trait Hypervisor: Send + Sync + 'static {
    /// What the backend can do on this host.
    fn capabilities(&self) -> &Capabilities;
    /// Starts a guest. Resolves when it runs, long before it is ready. Dropping the future ends the guest, which may take
    /// a while.
    ///
    /// Drops `hold` once there is no guest any more and its resources are released: after its end and before
    /// [`Guest::exited`] resolves, or after a boot that failed or whose future was dropped.
    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>>;
    /// Starts a guest that holds nothing.
    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        self.boot_holding(spec, Box::new(()))
    }
    /// Restores a guest that [`Guest::suspend`] saved at `state`. Resolves when it runs; the state is removed then. The
    /// spec must equal that of the boot, except for `runtime_dir` and `console_log`, and the disks must be unchanged;
    /// otherwise it fails and the state stays. Dropping the future and `hold` have the same effect as with a boot.
    ///
    /// [`Capabilities::suspend`] says which machines support it.
    fn restore_holding(
        &self,
        spec: MachineSpec,
        state: PathBuf,
        hold: Hold,
    ) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        drop((spec, state, hold));
        Box::pin(std::future::ready(Err(cannot_suspend(self.capabilities().backend, "it does not save guests"))))
    }
    /// Restores a guest that holds nothing.
    fn restore(&self, spec: MachineSpec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        self.restore_holding(spec, state, Box::new(()))
    }
}

/// One booted guest. Dropping the last reference kills it.
pub trait Guest: Send + Sync + 'static {
    /// Presses the power button. Resolves once it is pressed, not once the guest is off.
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Forces the guest off. Resolves once requested; [`Guest::exited`] reports completion.
    fn kill(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Pauses the guest's processors. Resolves once they have stopped. Memory and connections stay. After an error the
    /// guest still runs.
    fn pause(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Resumes a paused guest.
    fn resume(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Opens a byte stream to a vsock port of the guest. Fails at once when nothing listens there.
    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>>;
    /// Accepts the connections that the guest opens to this vsock port of the host from now on.
    fn listen(&self, port: u32) -> Result<GuestListener, Report>;
    /// Resolves when the guest has ended and its resources are released. May be called repeatedly.
    fn exited(&self) -> BoxFuture<'_, Exit>;
    /// Saves the guest at `state`, outside of the boot's own directory, and ends it. Resolves when the guest has ended
    /// ([`Exit::Suspended`]) and the state is complete. After an error the guest runs as before, or has ended in
    /// another way. An older state at this path is removed in any case, since the machine has run after it was saved.
    /// The work continues if the future is dropped.
    ///
    /// [`Capabilities::suspend`] says which machines support it.
    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        drop(state);
        Box::pin(std::future::ready(Err(Report::new(
            Kind::Host,
            "this guest cannot be suspended: its backend does not save guests",
        ))))
    }
    /// The guest's screen, if it has one that the backend can capture.
    fn display(&self) -> Option<Arc<dyn Display>> {
        None
    }
}

/// A guest's screen. It may outlive the guest; every call then fails.
pub trait Display: Send + Sync + 'static {
    /// The current content as a PNG.
    fn screenshot(&self) -> BoxFuture<'_, Result<Vec<u8>, Report>>;
}

/// Connections that a guest opens to one or more ports of the host. Dropping it closes the ports.
pub struct GuestListener(Vec<Port>);

struct Port {
    incoming: tokio::sync::mpsc::Receiver<GuestStream>,
    _stop: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

impl GuestListener {
    /// `pump`, if any, is the task that feeds `incoming`. It is aborted with the listener.
    pub fn new(
        incoming: tokio::sync::mpsc::Receiver<GuestStream>,
        pump: Option<tokio_util::task::AbortOnDropHandle<()>>,
    ) -> Self {
        GuestListener(vec![Port { incoming, _stop: pump }])
    }

    /// Combines two listeners into one.
    #[must_use]
    pub fn and(mut self, other: GuestListener) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The next connection; `None` when the guest has ended. Cancel-safe.
    pub async fn accept(&mut self) -> Option<GuestStream> {
        std::future::poll_fn(|context| {
            let arrived = self.0.iter_mut().map(|port| port.incoming.poll_recv(context)).find(Poll::is_ready);
            arrived.unwrap_or(Poll::Pending)
        })
        .await
    }
}

/// Removes a boot's runtime directory, which contains the initrd with the guest's host key.
pub(crate) fn remove_boot_files(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), "cannot remove a boot's files: {e}");
        }
        _ => {}
    }
}

/// [`Guest::exited`] from the channel that the guest's task reports to.
pub(crate) fn exit_future(exit: &watch::Receiver<Option<Exit>>) -> BoxFuture<'static, Exit> {
    let mut exit = exit.clone();
    Box::pin(async move {
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Killed),
            // The task drops the channel without a report only when the runtime ends, and the guest with it.
            Err(_) => Exit::Killed,
        }
    })
}
