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
mod command;
mod events;
mod halt;
mod handle;
#[cfg(any(test, feature = "testing"))]
mod in_memory;
mod job;
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
mod provider;
mod reports;
mod snapshot;
mod spawn;
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

pub use command::Lease;
pub use handle::{Gate, Handle};
#[cfg(any(test, feature = "testing"))]
pub use in_memory::InMemory;
pub use machine::Policy;
pub use provider::{Became, GuestProvider, Ready};
pub use snapshot::{Phase, Snapshot};
pub use spawn::spawn;
pub use state::LOOK_AGAIN;
pub use tally::Tally;
