//! Data that the daemon's parts exchange. None of it is sent over the API; [`crate::wire`] is, and is converted at the
//! edge.

/// Sizes for one boot that override the configured ones; `None` keeps the configured one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Processors.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Size of the data disk in bytes.
    pub disk_size: Option<u64>,
}

/// What runs in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Linux.
    Linux,
    /// macOS.
    MacOs,
}

impl GuestKind {
    /// How many guests of this kind a computer runs at once: macOS lets a Mac have two of its own.
    pub fn most_at_once(self) -> Option<usize> {
        match self {
            GuestKind::Linux => None,
            GuestKind::MacOs => Some(2),
        }
    }
}

impl std::fmt::Display for GuestKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GuestKind::Linux => "Linux",
            GuestKind::MacOs => "macOS",
        })
    }
}

/// What stays when a machine's state is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The keys.
    pub keys: bool,
    /// The generations.
    pub generations: bool,
}

/// The phases of one boot, in milliseconds after the demand that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootTimeline {
    /// Unix time of the demand in milliseconds.
    pub demand_unix_ms: u64,
    /// In chronological order.
    pub phases: Vec<TimelinePhase>,
    /// The state of the data disk: `formatted`, `kept`, `rebuilt`.
    pub data_disk: String,
    /// The guest's kernel release.
    pub kernel: String,
}

/// A phase of a [`BootTimeline`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePhase {
    /// `prepared`, `hypervisor`, `guest: kernel`, …, `ready`, `ssh banner`.
    pub name: String,
    /// Milliseconds after the demand.
    pub at_ms: u64,
}
