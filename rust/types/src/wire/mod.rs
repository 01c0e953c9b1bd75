//! The data of the API, shared by server and client. Field names are camelCase; times are milliseconds.
//!
//! These types are the contract with clients. The parts of the daemon have their own types, which may change freely,
//! and convert at the edge.

mod boots;
mod capabilities;
mod events;
mod generations;
mod library;
mod requests;
mod settings;
mod status;
mod store;

pub use boots::{BootList, BootOutcome, BootRecord};
pub use capabilities::{BackendView, FeatureView};
pub use events::{Connection, Connections, Event, What};
pub use generations::{GenerationList, GenerationStatus, GenerationsStatus, Prospect, RollbackRequest, Verdict};
pub use library::{
    Addresses, CreateRequest, DiskSpace, Exposed, ExtraDisk, GuestOs, Hardware, ListRequest, MachineList, NameRequest,
    Role, RunRequest, SetRequest, SharedDirectory, Stopped, Vm,
};
pub use requests::{DestroyRequest, Done, StartRequest, StopRequest, Trimmed};
pub use settings::{ConfigView, SettingView};
pub use status::{BootTimeline, DaemonStatus, MachineStatus, State, TimelinePhase};
pub use store::{RefusedPath, StoreSharing, StoreStatus};

/// The token of the `Upgrade` header that turns an API connection into a byte stream to the guest.
pub const UPGRADE: &str = "darwin-vz-stream";

/// The API's socket in the state directory.
pub const SOCKET_NAME: &str = "api.sock";
