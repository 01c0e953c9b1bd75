//! Access to this computer: the state directory and other files, logs, sockets, descriptors and signals.
//!
//! Rule: no code here knows about running guests or the API's routes. `unsafe` is only in `activation` and
//! `descriptors`.

pub mod activation;
pub mod api_token;
mod blocking;
pub mod connection_slots;
pub mod descriptors;
pub mod files;
pub mod log_file;
pub mod machine_dir;
pub mod naming;
pub mod quoting;
pub mod regular_file;
pub mod search_path;
pub mod signals;
pub mod tail;
pub mod trust;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub mod wrong_files;

pub use blocking::blocking;
