//! The backends, and which one this host uses.

#[cfg(target_os = "linux")]
use crate::qemu;
use crate::seam::Hypervisor;
#[cfg(vz)]
use crate::vz;
use dvn_types::{Kind, Report};
use std::{ffi::OsStr, sync::Arc};

/// The backends that are compiled in, this host's default first.
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

    /// The setting's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Qemu => "qemu",
            Backend::Vz => "vz",
        }
    }
}

/// The given backend, or this host's default: Virtualization on macOS, QEMU elsewhere. Helper programs are searched for
/// along `search_path`; `accelerator` overrides the backend's choice.
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
