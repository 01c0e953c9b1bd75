//! The seam between this program and whatever runs the guest: eight verbs and a value of capabilities.
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
pub use capabilities::{Capabilities, Feature, Limits};
pub use seam::{Exit, Guest, GuestListener, GuestStream, Hypervisor, Stream};
pub use strangers::Strangers;
