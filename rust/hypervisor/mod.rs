//! The seam between this program and whatever runs the guest: eight verbs and a value of capabilities.
//!
//! Backends differ in their [`Capabilities`], never in an `if backend == …` elsewhere.

use crate::{
    error::{Kind, Report},
    spec::{Arch, MachineSpec},
};
use serde::Serialize;
use std::{ffi::OsStr, fmt, fs, io, path::Path, pin::Pin, sync::Arc, task::Poll};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

mod admission;
pub mod advice;
pub(crate) mod console;
#[cfg(target_os = "linux")]
pub mod qemu;
#[cfg(test)]
pub mod sim;
mod strangers;
#[cfg(vz)]
pub mod vz;

pub use admission::Wish;
pub use strangers::Strangers;

/// A future of a verb: boxed, so that backends are chosen at run time.
pub type Verb<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

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
    /// It panicked, was reset, or the hypervisor or one of its helpers failed: why, in a sentence.
    Crashed(String),
}

/// As the API spells it.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::PoweredOff => f.write_str("powered-off"),
            Exit::Killed => f.write_str("killed"),
            Exit::Crashed(why) => write!(f, "crashed: {why}"),
        }
    }
}

/// What a backend can do on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name: `qemu`, `vz`.
    pub backend: &'static str,
    /// How guest code is executed: `kvm`, `tcg`, `hvf`, …
    pub accelerator: &'static str,
    /// Guests it can boot, the host's own first.
    pub archs: Vec<Arch>,
    /// x86_64 programs run in an aarch64 guest through Rosetta.
    pub rosetta: bool,
    /// Guests can run virtual machines themselves.
    pub nested: bool,
    /// Host directories can be shared over VirtioFS.
    pub shares: bool,
    /// Guests can stand still and go on: [`Guest::pause`], [`Guest::resume`].
    pub pause: bool,
    /// Sizes of a guest that the backend accepts.
    pub limits: Limits,
    /// What it can do and cannot, with reasons, for people to read; nothing is decided by this.
    pub features: Vec<Feature>,
}

/// Smallest and largest, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Virtual processors.
    pub cores: (u32, u32),
    /// Memory in bytes.
    pub memory: (u64, u64),
}

/// Something that a backend may be able to do on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name, in words with dashes.
    pub name: &'static str,
    /// It works here.
    pub available: bool,
    /// Why so, and if it does not work, what would help.
    pub why: String,
}

/// A way to run guests. One implementation per virtual machine monitor.
pub trait Hypervisor: Send + Sync + 'static {
    /// What it can do here.
    fn capabilities(&self) -> &Capabilities;
    /// Starts a guest; resolves when it runs, long before it is ready. Dropping the future leaves no guest behind.
    fn boot(&self, spec: MachineSpec) -> Verb<'_, Result<Arc<dyn Guest>, Report>>;
}

/// One booted guest. Dropping the last reference kills it.
pub trait Guest: Send + Sync + 'static {
    /// Presses the power button; resolves once pressed, not once off.
    fn request_stop(&self) -> Verb<'_, Result<(), Report>>;
    /// Pulls the plug. Resolves once told; [`Guest::exited`] says when it is done.
    fn kill(&self) -> Verb<'_, Result<(), Report>>;
    /// Halts the guest's processors; resolves once they stand still. Its memory and its connections stay. An error means that
    /// it runs on.
    fn pause(&self) -> Verb<'_, Result<(), Report>>;
    /// Has a paused guest go on.
    fn resume(&self) -> Verb<'_, Result<(), Report>>;
    /// Opens a byte stream to a vsock port of the guest. Fails at once when nothing listens there.
    fn connect(&self, port: u32) -> Verb<'_, Result<GuestStream, Report>>;
    /// Takes the connections which the guest opens to this vsock port of the host, from now on.
    fn listen(&self, port: u32) -> Result<GuestListener, Report>;
    /// Resolves when the guest is gone and nothing of it is left. May be called often.
    fn exited(&self) -> Verb<'_, Exit>;
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

/// The backends that are built in, this computer's own first.
pub const BACKENDS: &[&str] = match (cfg!(target_os = "linux"), cfg!(vz)) {
    (true, true) => &["qemu", "vz"],
    (true, false) => &["qemu"],
    (false, true) => &["vz"],
    (false, false) => &[],
};

/// A backend, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// QEMU.
    Qemu,
    /// Apple's Virtualization.
    Vz,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Backend; 2] = [Backend::Qemu, Backend::Vz];

    /// As the setting spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Qemu => "qemu",
            Backend::Vz => "vz",
        }
    }
}

/// The backend asked for, or else this host's own: Virtualization on macOS, QEMU elsewhere. Helper programs are looked for
/// along `search_path`; `accelerator` overrides the backend's own choice.
pub fn for_this_host(
    backend: Option<Backend>,
    search_path: &OsStr,
    accelerator: Option<&str>,
) -> Result<Arc<dyn Hypervisor>, Report> {
    match backend.unwrap_or(if cfg!(target_os = "macos") { Backend::Vz } else { Backend::Qemu }) {
        Backend::Qemu => qemu(search_path, accelerator),
        Backend::Vz => vz(accelerator),
    }
}

#[cfg(target_os = "linux")]
fn qemu(search_path: &OsStr, accelerator: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    Ok(Arc::new(qemu::Qemu::probe(search_path, accelerator)?))
}

#[cfg(not(target_os = "linux"))]
fn qemu(_: &OsStr, _: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    Err(not_built(Backend::Qemu, "it is for Linux"))
}

#[cfg(vz)]
fn vz(accelerator: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    match accelerator {
        None => Ok(Arc::new(vz::Vz::probe()?)),
        Some(name) => Err(Report::new(Kind::Config, format!("the backend vz has no accelerator {name:?}"))
            .hint("leave accelerator out: Virtualization always uses the processor's own means")),
    }
}

#[cfg(not(vz))]
fn vz(_: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    Err(not_built(Backend::Vz, "it is for macOS"))
}

#[cfg(not(all(vz, target_os = "linux")))]
fn not_built(backend: Backend, why: &str) -> Report {
    Report::new(Kind::Config, format!("this program was built without the backend {}: {why}", backend.as_str()))
        .hint("leave backend out, or set it to auto")
}

/// A guest cannot be given what virtual machines of its own need.
fn cannot_nest(why: &str) -> Report {
    Report::new(Kind::Host, format!("a guest cannot run virtual machines here: {why}"))
        .hint("set nested-virtualization to false; builds that need the feature kvm need another builder")
}

/// Removes a boot's own directory, which holds the initrd with the guest's host key.
fn remove_boot_files(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), "cannot remove a boot's files: {e}");
        }
        _ => {}
    }
}

/// [`Guest::exited`], as the one who looks after the guest tells it.
fn told_exit(exit: &watch::Receiver<Option<Exit>>) -> Verb<'static, Exit> {
    let mut exit = exit.clone();
    Box::pin(async move {
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Killed),
            // Whoever tells it ends without a word only when the runtime does, and the guest with it.
            Err(_) => Exit::Killed,
        }
    })
}
