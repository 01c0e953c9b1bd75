//! The SSH listener: a loopback port to which every user of this computer can connect.

mod dialogue;
mod door;
#[cfg(test)]
mod listener_tests;
mod turns;
#[cfg(test)]
mod unauthenticated;

pub use door::{Target, serve_ssh};
