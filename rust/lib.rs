//! darwin-vz-nix: a Linux builder for Nix that starts when a build needs it and stops when idle.
//!
//! Start at `docs/ARCHITECTURE.md`. The rules that hold everywhere:
//!
//! * `supervisor::machine` decides the whole lifecycle and does no I/O; `supervisor::actor` alone boots and kills guests.
//! * Whoever talks to a guest holds a [`supervisor::Lease`].
//! * No library module reads the environment, `$HOME` or the command line; `cli` passes everything in.
//! * `cfg(target_os)` stands only in `hypervisor` (which backends exist) and `activation`; `unsafe` only in
//!   `activation`, `cli::inheritance`, `hypervisor::qemu::shield` and `hypervisor::vz::bridge`.

pub mod activation;
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod error;
pub mod front_door;
pub mod generations;
pub mod guest;
pub mod hypervisor;
pub mod lobby;
pub mod log_file;
pub mod machine_dir;
pub mod regular_file;
pub mod search_path;
pub mod spec;
pub mod ssh;
pub mod store;
pub mod supervisor;
