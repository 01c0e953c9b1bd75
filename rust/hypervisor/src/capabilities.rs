//! What a backend can do on this host.

use dvn_types::{Arch, Kind, Report};
use serde::Serialize;

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
    /// Guests can stand still and go on: [`Guest::pause`](crate::Guest::pause), [`Guest::resume`](crate::Guest::resume).
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

/// A guest cannot be given what virtual machines of its own need.
pub(crate) fn cannot_nest(why: &str) -> Report {
    Report::new(Kind::Host, format!("a guest cannot run virtual machines here: {why}"))
        .hint("set nested-virtualization to false; builds that need the feature kvm need another builder")
}
