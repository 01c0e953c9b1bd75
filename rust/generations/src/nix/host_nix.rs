//! The host's `nix`, configured for one machine.

use dvn_types::Report;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// The host's `nix`, configured for one machine.
#[derive(Clone, Debug)]
pub struct Nix {
    /// Its directory, if configured.
    pub programs: Option<PathBuf>,
    /// The daemon's `PATH`.
    pub search_path: OsString,
    /// All other environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// The store address of the guest.
    pub address: String,
    /// The log file for its output.
    pub log: PathBuf,
    /// How long its programs may be silent.
    pub time_limits: TimeLimits,
}

/// Why a build has no bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something could not be reached; a retry may succeed.
    Temporary(Report),
    /// The recipe's or this host's fault: a retry would fail again.
    Permanent(Report),
}

/// How long a step may be silent.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// How long a `nix` may print nothing. It prints each path that is copied, so this is the time for one path, also
    /// when the guest downloads it. Beyond that it continues only while the guest builds, without a limit: compilers
    /// may be silent for hours.
    pub silence: Duration,
    /// How long a transfer of the result may stall.
    pub stall: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        TimeLimits { silence: Duration::from_secs(15 * 60), stall: Duration::from_secs(5 * 60) }
    }
}
