//! Owns a machine's one guest: `machine` decides, `actor` acts, everybody else holds a [`Handle`] and [`Lease`]s.
//!
//! ```text
//!  front door, API ── Handle ── commands ──▶ actor ── events ──▶ machine::step ── effects ──▶ actor ── jobs ──▶ hypervisor,
//!        ▲               ▲                     ▲ │                                                      │       preparation
//!        └──── Lease ────┴────── Snapshot ─────┼─┘                                                      │
//!                       (watch channel)        └───────────────────── news ─────────────────────────────┘
//! ```
//!
//! The rule that holds here: nobody else boots, stops or kills a guest, and the actor itself never waits for one.

mod actor;
mod boot;
mod events;
mod halt;
mod handle;
#[cfg(test)]
mod in_memory;
mod machine;
#[cfg(test)]
mod model_check;
#[cfg(test)]
mod model_faults;
#[cfg(test)]
mod model_world;
mod pausing;
#[cfg(test)]
mod properties;
mod reports;
mod snapshot;
mod state;
mod tally;
#[cfg(test)]
mod virtual_pause;
#[cfg(test)]
mod virtual_stop;
#[cfg(test)]
mod virtual_time;
#[cfg(test)]
mod virtual_trouble;

pub use handle::{Became, Handle, Lease, Preparation, Ready, spawn};
#[cfg(test)]
pub(crate) use in_memory::InMemory;
pub use machine::Policy;
pub use snapshot::{Phase, Snapshot};
pub use state::LOOK_AGAIN;
pub use tally::Tally;

use crate::config::MachineSettings;
use std::time::Duration;

impl From<&MachineSettings> for Policy {
    /// The configured times, and a back-off from 5 seconds to 5 minutes, from the second failure in a row on.
    fn from(settings: &MachineSettings) -> Self {
        Policy {
            idle: settings.idle_timeout,
            grace: settings.stop_grace,
            boot_timeout: settings.boot_timeout,
            backoff: Duration::from_secs(5),
            backoff_max: Duration::from_secs(300),
        }
    }
}
