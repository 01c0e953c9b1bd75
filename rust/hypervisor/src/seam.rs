//! The seam itself: the verbs of a guest, what runs it, and the streams between the two sides.

use crate::{
    capabilities::{Capabilities, cannot_suspend},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// A two-way byte stream to or from a guest's vsock port. `shutdown` closes our half.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A boxed [`Stream`].
pub type GuestStream = Box<dyn Stream>;

/// Why a guest is no longer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It powered itself off, as asked or of its own accord.
    PoweredOff,
    /// [`Guest::kill`] ended it.
    Killed,
    /// [`Guest::suspend`] saved it.
    Suspended,
    /// It panicked, was reset, or the hypervisor or one of its helpers failed: why, in a sentence.
    Crashed(String),
}

/// As the API spells it.
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

/// A way to run guests. One implementation per virtual machine monitor.
pub trait Hypervisor: Send + Sync + 'static {
    /// What it can do here.
    fn capabilities(&self) -> &Capabilities;
    /// Starts a guest; resolves when it runs, long before it is ready. Dropping the future leaves no guest behind.
    fn boot(&self, spec: MachineSpec) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>>;
    /// Has a guest go on that [`Guest::suspend`] saved at `state`; resolves when it runs, and the state is gone then. The spec is that of
    /// the boot, but for `runtime_dir` and `console_log`, and the disks are as the guest left them; otherwise it is refused and the state
    /// stays. Dropping the future leaves no guest behind.
    ///
    /// [`Capabilities::suspend`] tells where it works.
    fn restore(&self, spec: MachineSpec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        drop((spec, state));
        Box::pin(std::future::ready(Err(cannot_suspend(self.capabilities().backend, "it does not save guests"))))
    }
}

/// One booted guest. Dropping the last reference kills it.
pub trait Guest: Send + Sync + 'static {
    /// Presses the power button; resolves once pressed, not once off.
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Pulls the plug. Resolves once told; [`Guest::exited`] says when it is done.
    fn kill(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Halts the guest's processors; resolves once they stand still. Its memory and its connections stay. An error means that
    /// it runs on.
    fn pause(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Has a paused guest go on.
    fn resume(&self) -> BoxFuture<'_, Result<(), Report>>;
    /// Opens a byte stream to a vsock port of the guest. Fails at once when nothing listens there.
    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>>;
    /// Takes the connections which the guest opens to this vsock port of the host, from now on.
    fn listen(&self, port: u32) -> Result<GuestListener, Report>;
    /// Resolves when the guest is gone and nothing of it is left. May be called often.
    fn exited(&self) -> BoxFuture<'_, Exit>;
    /// Saves the guest at `state`, outside of the boot's own directory, and ends it; resolves when it is gone ([`Exit::Suspended`]) and the
    /// state is whole. An error means that it goes on as before, or has ended in another way. A state that was there is removed in any
    /// case: the machine has run since. Goes on if the future is dropped.
    ///
    /// [`Capabilities::suspend`] tells where it works.
    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        drop(state);
        Box::pin(std::future::ready(Err(Report::new(
            Kind::Host,
            "this guest cannot be suspended: its backend does not save guests",
        ))))
    }
    /// Its screen, if it has one that this program can see.
    fn display(&self) -> Option<Arc<dyn Display>> {
        None
    }
}

/// A guest's screen. It may outlive the guest; then every question fails.
pub trait Display: Send + Sync + 'static {
    /// What it shows now: a PNG.
    fn screenshot(&self) -> BoxFuture<'_, Result<Vec<u8>, Report>>;
}

/// Connections that a guest opened to a port of the host, or to several. Dropping it closes them.
pub struct GuestListener(Vec<Port>);

struct Port {
    incoming: tokio::sync::mpsc::Receiver<GuestStream>,
    _stop: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

impl GuestListener {
    /// `pump`, if any, feeds `incoming` and is ended with the listener.
    pub fn new(
        incoming: tokio::sync::mpsc::Receiver<GuestStream>,
        pump: Option<tokio_util::task::AbortOnDropHandle<()>>,
    ) -> Self {
        GuestListener(vec![Port { incoming, _stop: pump }])
    }

    /// Both as one.
    #[must_use]
    pub fn and(mut self, other: GuestListener) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The next connection; `None` when the guest is gone. May be dropped and called again.
    pub async fn accept(&mut self) -> Option<GuestStream> {
        std::future::poll_fn(|context| {
            let arrived = self.0.iter_mut().map(|port| port.incoming.poll_recv(context)).find(Poll::is_ready);
            arrived.unwrap_or(Poll::Pending)
        })
        .await
    }
}

/// Removes a boot's own directory, which holds the initrd with the guest's host key.
pub(crate) fn remove_boot_files(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), "cannot remove a boot's files: {e}");
        }
        _ => {}
    }
}

/// [`Guest::exited`], as the one who looks after the guest tells it.
pub(crate) fn told_exit(exit: &watch::Receiver<Option<Exit>>) -> BoxFuture<'static, Exit> {
    let mut exit = exit.clone();
    Box::pin(async move {
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Killed),
            // Whoever tells it ends without a word only when the runtime does, and the guest with it.
            Err(_) => Exit::Killed,
        }
    })
}
