//! The seam between this program and whatever runs the guest: eight verbs that every guest has, three that some have, and a value of
//! capabilities that says which.
//!
//! Backends differ in their [`Capabilities`], never in an `if backend == …` elsewhere.

mod admission;
pub mod advice;
pub mod agent;
mod backends;
mod capabilities;
pub mod console;
pub mod disks;
#[cfg(target_os = "linux")]
pub mod qemu;
mod saved;
mod seam;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
#[cfg(any(test, feature = "testing"))]
pub mod sim_agent;
pub mod spec;
mod strangers;
#[cfg(vz)]
pub mod vz;

pub use admission::Wish;
pub use agent::GuestAgent;
pub use backends::{BACKENDS, Backend, for_this_host};
pub use capabilities::{Capabilities, Feature, Limits, Part};
pub use seam::{Display, Exit, Guest, GuestListener, GuestStream, Hypervisor, Stream};
pub use strangers::Strangers;
