//! The guest's network, for the downloads of builds. The host never reaches the guest through it, so the boot does not
//! wait for it.

pub mod client;
pub mod dhcp;
pub mod link;
