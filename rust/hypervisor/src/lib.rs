//! The seam between this program and the virtual machine monitor: eight operations that every guest supports, three
//! that some support, and [`Capabilities`] that say which.
//!
//! Code outside of this crate distinguishes backends by their [`Capabilities`], never by `if backend == …`.

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
mod unauthenticated;
#[cfg(vz)]
pub mod vz;

pub use admission::Requirements;
pub use agent::GuestAgent;
pub use backends::{BACKENDS, Backend, for_this_host};
pub use capabilities::{Capabilities, Feature, Limits, Part};
pub use seam::{Display, Exit, Guest, GuestListener, GuestStream, Hold, Hypervisor, Stream};
pub use unauthenticated::Unauthenticated;
