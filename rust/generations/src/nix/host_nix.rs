//! The host's `nix`, as one machine uses it.

use dvn_types::Report;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// A `nix` of the host, for one machine.
#[derive(Clone, Debug)]
pub struct Nix {
    /// Where it is, if configured.
    pub programs: Option<PathBuf>,
    /// `PATH` of the daemon.
    pub search_path: OsString,
    /// All other variables that it gets.
    pub environment: Vec<(OsString, OsString)>,
    /// The guest's store.
    pub address: String,
    /// Where its output goes.
    pub log: PathBuf,
    /// How long nothing may be heard of it.
    pub patience: Patience,
}

/// Why there is no bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something could not be reached; another time it may.
    Passing(Report),
    /// The recipe itself, or this host: it would fail again.
    Lasting(Report),
}

/// How long nothing may be heard of a step.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a `nix` may print nothing: it is told to name each path that is copied, so that this is the time for one path,
    /// also when the guest downloads it. After that only a build in the guest excuses it, and that for ever: compilers may be
    /// silent for hours.
    pub silence: Duration,
    /// How long the result may not move on while it is fetched.
    pub standstill: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { silence: Duration::from_secs(15 * 60), standstill: Duration::from_secs(5 * 60) }
    }
}
