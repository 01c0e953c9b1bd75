//! Owns a machine's one guest: `machine` decides, `actor` acts, all other code holds a [`Handle`] and [`Lease`]s.
//!
//! ```text
//!  front door, API ── Handle ── commands ──▶ actor ── events ──▶ machine::step ── effects ──▶ actor ── jobs ──▶ hypervisor,
//!        ▲               ▲                     ▲ │                                                      │       preparation
//!        └──── Lease ────┴────── Snapshot ─────┼─┘                                                      │
//!                       (watch channel)        └───────────────────── news ─────────────────────────────┘
//! ```
//!
//! Invariant: no other code boots, stops or kills a guest, and the actor itself never waits for one.

mod actor;
mod boot;
mod command;
mod counters;
mod events;
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
mod pause_jobs;
mod pausing;
#[cfg(test)]
mod properties;
mod provider;
mod reports;
mod snapshot;
mod spawn;
mod state;
#[cfg(test)]
mod virtual_pause;
#[cfg(test)]
mod virtual_stop;
#[cfg(test)]
mod virtual_time;
#[cfg(test)]
mod virtual_trouble;

pub use command::Lease;
pub use counters::Counters;
pub use handle::{Gate, Handle};
#[cfg(any(test, feature = "testing"))]
pub use in_memory::InMemory;
pub use machine::Policy;
pub use provider::{BootEvent, GuestProvider, Ready};
pub use snapshot::{Phase, Snapshot};
pub use spawn::{spawn, spawn_gated};
pub use state::LOOK_AGAIN;
