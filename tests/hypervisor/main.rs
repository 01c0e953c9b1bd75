//! Real machines that boot by EFI, through each backend that is built in: what no guest of a bundle shows. `make test` sets up what
//! this needs.

// Its medium and QEMU are those of Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod efi;
mod installer;
mod machine;
