//! Where the guest's programs are.

/// `PATH` for commands and for the agent itself, which its init system may start without one.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";
