//! The guest's network: for fetching what builds need, never for the host to reach the guest, so nobody waits for it.

pub mod client;
pub mod dhcp;
pub mod link;
