//! What the daemon is given beside its settings.

use dvn_config::HostFacts;
use dvn_types::wire::ConfigView;
use std::{ffi::OsString, path::PathBuf};

/// What the daemon knows of its own process.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where helper programs are looked for, written as `PATH` is.
    pub search_path: OsString,
    /// This program, and the flags with which another process of it finds this daemon: for the direct door.
    pub program: PathBuf,
    /// See `program`.
    pub flags: Vec<OsString>,
    /// Variables for the host's `nix`, beside `PATH`.
    pub nix_environment: Vec<(OsString, OsString)>,
    /// This computer.
    pub host: HostFacts,
    /// The settings, for whoever asks what they are.
    pub shown: ConfigView,
    /// The end of the terminal's session is its end, too.
    pub hangs_up: bool,
    /// It was started in the background, and is asked over the API: it goes on though no machine works.
    pub detached: bool,
}
