//! The SSH listener: a loopback port to which every user of this computer can connect.

#[cfg(test)]
mod crowd;
mod dialogue;
mod door;
#[cfg(test)]
mod strangers;
mod turns;

pub use door::{Behind, serve_ssh};
