//! The services of a guest to which a client can connect.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;

/// The guest's service for a connection: the last part of `GET /v1/machines/{name}/connect/{service}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// sshd.
    Ssh,
    /// The running nix-daemon, as a trusted user.
    Nix,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 2] = [Service::Ssh, Service::Nix];

    /// Its name in API paths, events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Ssh => "ssh",
            Service::Nix => "nix",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Service {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Service::ALL
            .into_iter()
            .find(|service| service.as_str() == name)
            .ok_or_else(|| format!("a guest has no service {name:?}"))
    }
}
