//! The composition root: machines, doors, API and signals, put together for as long as the daemon runs.
//!
//! ```text
//!  daemon ─▶ state directory + lock ─▶ Machines: keys, hypervisor, supervisor, SSH port of each ─▶ API ─▶ signal ─▶ guests off ─▶ end
//! ```

mod budget;
mod connection;
mod daemon;
mod events;
mod machine;
mod machines;
mod metrics;
#[cfg(test)]
mod metrics_tests;
mod options;
mod reservation;
mod service;
#[cfg(feature = "specimen")]
pub mod specimen;
mod ssh_listener;
mod state_dir_watch;
pub mod views;
mod vms;
#[cfg(test)]
mod wrong_files_tests;

pub use daemon::Daemon;
pub use options::RunOptions;
