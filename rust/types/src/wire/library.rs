//! The machines of the library, and what a client asks of them.

use super::status::State;
use crate::{Arch, MachineName};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Answer of `GET /v1/machines`: the builders and all machines of the library, in the order of their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineList {
    /// The machines.
    pub machines: Vec<Vm>,
}

/// Query of `GET /v1/machines`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListRequest {
    /// Also measure the blocks of each disk, which takes up to some milliseconds for each machine.
    pub space: bool,
}

/// Who decides what a machine is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The configuration: it builds for Nix. `set`, `rename` and `delete` refuse it.
    Builder,
    /// Its own `config.json`, which the library changes.
    Library,
}

/// Which system a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestOs {
    /// macOS.
    Darwin,
    /// Linux.
    Linux,
}

/// A machine of the library, or a builder as one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Its name.
    pub name: MachineName,
    /// Who decides what it is made of.
    pub role: Role,
    /// Its state.
    #[serde(flatten)]
    pub state: State,
    /// What a boot waits for, and which machines have it; absent where none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What it is made of; absent where its files cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// The blocks of its disk on the host; absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<DiskSpace>,
}

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    /// The guest's system.
    pub os: GuestOs,
    /// The guest's architecture.
    pub arch: Arch,
    /// Virtual processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Size of the disk in bytes, as the guest sees it.
    pub disk_size: u64,
    /// How the disk's file is laid out: `raw`, `asif`.
    pub disk_format: String,
    /// The display's size: `1024x768`, with `px` or `pt` if it has a unit. Absent without a display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// MAC address of the first network interface; absent for a builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// The image from which the machine is being installed. It is attached until the guest has powered itself off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// When it was made, Unix time in milliseconds; absent for a builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix_ms: Option<u64>,
    /// When it was last started, Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// The directory with its files; absent for a builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// The blocks of a disk on the host, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpace {
    /// Those that no other file has: what deleting the machine frees.
    pub own: u64,
    /// Those that it shares with clones.
    pub shared: u64,
}

/// Body of `POST /v1/machines`: a new machine for Linux, with an empty disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRequest {
    /// Its name.
    pub name: MachineName,
    /// Size of its disk in bytes, a multiple of 512. Default: 50 GB.
    #[serde(default)]
    pub disk_size: Option<u64>,
    /// An image with an installer, by its absolute path on the host. It is attached until the guest has powered itself off.
    #[serde(default)]
    pub medium: Option<String>,
    /// The guest's architecture. Default: the medium's, or the host's.
    #[serde(default)]
    pub arch: Option<Arch>,
    /// Virtual processors. Default: 4, or as many as the host has.
    #[serde(default)]
    pub cores: Option<u32>,
    /// Memory in bytes. Default: 4 GiB.
    #[serde(default)]
    pub memory: Option<u64>,
}

/// Body of `POST /v1/machines/{name}/clone` and `POST /v1/machines/{name}/rename`: the other name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameRequest {
    /// The name of the clone, or the new name.
    pub name: MachineName,
}

/// Body of `PATCH /v1/machines/{name}`: what is changed. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SetRequest {
    /// Virtual processors.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Size of the disk in bytes. It can only grow.
    pub disk_size: Option<u64>,
    /// The display's size: `1920x1080`, with `px` or `pt` if it has a unit.
    pub display: Option<String>,
    /// Whether the guest's resolution follows the size of a window.
    pub display_refit: Option<bool>,
    /// Give it a new random MAC address.
    pub random_mac: bool,
}

/// What a machine of the library has for one boot, beside its own hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RunRequest {
    /// Without a screen, keyboard and pointer.
    pub no_graphics: bool,
    /// More disks.
    pub disks: Vec<ExtraDisk>,
    /// Directories of the host.
    pub shares: Vec<SharedDirectory>,
    /// Ports of the host's loopback address that lead to ports of the guest.
    pub expose: Vec<Exposed>,
}

/// An image on the host, as a further disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraDisk {
    /// Its absolute path.
    pub path: String,
    /// The guest cannot write it.
    #[serde(default)]
    pub read_only: bool,
}

/// A directory of the host that the guest mounts by VirtioFS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedDirectory {
    /// The tag under which the guest mounts it.
    pub tag: String,
    /// Its absolute path.
    pub path: String,
    /// The guest cannot write it.
    #[serde(default)]
    pub read_only: bool,
}

/// A TCP port of the host's loopback address that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exposed {
    /// On the host.
    #[schema(minimum = 1)]
    pub host: u16,
    /// In the guest.
    #[schema(minimum = 1)]
    pub guest: u16,
}

/// Answer of `GET /v1/machines/{name}/addresses`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    /// The guest's addresses, those of IPv4 first. Never empty.
    pub addresses: Vec<String>,
    /// Where they were found: `agent`.
    pub source: String,
}

/// Answer of `POST /v1/machines/{name}/stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stopped {
    /// How the guest ended: `powered-off` by itself, `killed`, or `crashed: why`. Absent where none ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// A saved state was deleted: the machine was suspended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
}
