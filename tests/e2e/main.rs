//! Real VMs: the program as users run it, with QEMU, sshd and Nix on both sides. `make test` provides the environment.
//!
//! Each test has its own state directory, port and Nix store, so that they run side by side and in any order.

// Its tools, QEMU's helpers and the test's Nix, are for Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod activation;
#[allow(dead_code, reason = "benchmarks use the rest")]
mod bare;
mod clients;
mod demand;
mod doctor;
mod doors;
mod events;
mod evidence;
mod faults;
mod foreign;
mod generations;
mod guides;
mod idle;
mod inputs;
mod lab;
mod limits;
mod pause;
mod refusals;
mod signals;
mod ssh_config;
mod state;
mod store;
mod systemd;
mod unauthenticated;
mod vms;
mod vsock;
