//! Types used by every part of the program: errors, the names of machines and services, and the API's data.
//!
//! The rule: plain data. Nothing here opens a file, a socket or a thread.

mod arch;
mod mac_address;
mod machine_name;
mod model;
mod report;
mod service;
mod time;
pub mod wire;

pub use arch::Arch;
pub use mac_address::MacAddress;
pub use machine_name::MachineName;
pub use model::{BootTimeline, GuestKind, Keep, Sizes, TimelinePhase};
pub use report::{Kind, Report};
pub use service::Service;
pub use time::{ms, unix_ms};
