//! Real VMs: the program as users run it, with QEMU, sshd and Nix on both sides. `make test` sets up what this needs.
//!
//! Each test has its own state directory, port and Nix store, so that they run side by side and in any order.

// Its tools, QEMU's helpers and the test's Nix, are made for Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod activation;
mod clients;
mod demand;
mod doctor;
mod doors;
mod events;
mod faults;
mod foreign;
mod generations;
mod idle;
mod inputs;
mod lab;
mod pause;
mod refusals;
mod state;
mod store;
