//! The seam between this program and whatever runs the guest: six verbs and a value of capabilities.
//!
//! Backends differ in their [`Capabilities`], never in an `if backend == …` elsewhere.

use crate::{
    error::Report,
    spec::{Arch, MachineSpec},
};
use std::{pin::Pin, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(target_os = "linux")]
pub mod qemu;
#[cfg(test)]
pub mod sim;

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
    /// Host directories can be shared over VirtioFS.
    pub shares: bool,
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
    /// Opens a byte stream to a vsock port of the guest. Fails at once when nothing listens there.
    fn connect(&self, port: u32) -> Verb<'_, Result<GuestStream, Report>>;
    /// Takes the connections which the guest opens to this vsock port of the host, from now on.
    fn listen(&self, port: u32) -> Result<GuestListener, Report>;
    /// Resolves when the guest is gone and nothing of it is left. May be called often.
    fn exited(&self) -> Verb<'_, Exit>;
}

/// Connections that a guest opened to one port of the host. Dropping it closes the port.
pub struct GuestListener {
    incoming: tokio::sync::mpsc::Receiver<GuestStream>,
    _stop: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

impl GuestListener {
    /// `pump`, if any, feeds `incoming` and is ended with the listener.
    pub fn new(
        incoming: tokio::sync::mpsc::Receiver<GuestStream>,
        pump: Option<tokio_util::task::AbortOnDropHandle<()>>,
    ) -> Self {
        GuestListener { incoming, _stop: pump }
    }

    /// The next connection; `None` when the guest is gone.
    pub async fn accept(&mut self) -> Option<GuestStream> {
        self.incoming.recv().await
    }
}

/// The backend of this host, for programs found along `search_path`; `accelerator` overrides its own choice.
#[cfg(target_os = "linux")]
pub fn for_this_host(search_path: &std::ffi::OsStr, accelerator: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    Ok(Arc::new(qemu::Qemu::probe(search_path, accelerator)?))
}

/// The backend of this host: there is none yet for this operating system.
#[cfg(not(target_os = "linux"))]
pub fn for_this_host(_: &std::ffi::OsStr, _: Option<&str>) -> Result<Arc<dyn Hypervisor>, Report> {
    use crate::error::Kind;
    Err(Report::new(Kind::Host, format!("this build has no hypervisor for {}", std::env::consts::OS)))
}
