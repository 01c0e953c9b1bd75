//! The processor architecture of a guest.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// A guest's processor architecture, spelled as in Nix's `aarch64-linux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// ARM, 64 bit.
    #[serde(rename = "aarch64")]
    Aarch64,
    /// x86, 64 bit.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Arch {
    /// Its name in a Nix system, before the dash.
    pub fn as_str(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// The architecture of this build of the program, if guests of it exist.
    pub fn host() -> Option<Arch> {
        match std::env::consts::ARCH {
            "aarch64" => Some(Arch::Aarch64),
            "x86_64" => Some(Arch::X86_64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
