//! A connection of a guest.

use dvn_hypervisor::GuestStream;
use tokio::io::BufStream;

/// A guest's connection, buffered.
pub type Guest = BufStream<GuestStream>;
