//! This computer, as the program uses it: the state directory and other files, logs, sockets, descriptors and signals.
//!
//! The rule that holds here: nothing knows of guests that run or of the API's routes. `unsafe` stands only in `activation` and
//! `descriptors`.

pub mod activation;
pub mod api_token;
mod blocking;
pub mod descriptors;
pub mod files;
pub mod lobby;
pub mod log_file;
pub mod machine_dir;
pub mod naming;
pub mod regular_file;
pub mod search_path;
pub mod signals;
pub mod tail;
pub mod trust;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub mod wrong_files;

pub use blocking::blocking;
