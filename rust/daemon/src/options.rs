//! What the daemon gets besides its settings.

use dvn_config::HostFacts;
use dvn_types::wire::ConfigView;
use std::{ffi::OsString, path::PathBuf};

/// Facts about the daemon's process and its host.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where helper programs are looked for, in the format of `PATH`.
    pub search_path: OsString,
    /// This program, and the flags with which another process of it finds this daemon. For the direct door.
    pub program: PathBuf,
    /// See `program`.
    pub flags: Vec<OsString>,
    /// Environment variables for the host's `nix`, besides `PATH`.
    pub nix_environment: Vec<(OsString, OsString)>,
    /// This computer.
    pub host: HostFacts,
    /// The settings, as the API shows them.
    pub shown: ConfigView,
    /// Whether SIGHUP, at the end of the terminal's session, ends the daemon.
    pub hangs_up: bool,
    /// It was started in the background and is queried over the API. So it keeps running even if no machine works.
    pub detached: bool,
}
