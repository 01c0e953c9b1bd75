//! What a backend boots: plain data, already checked, every path absolute.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// A machine's name: the directory of its state, its path in the API and its ssh alias. 1 to 32 of `a-z 0-9 -`, first a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> String {
        name.0
    }
}

impl TryFrom<String> for MachineName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        let fits = (1..=32).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(MachineName(s))
        } else {
            Err(format!("{s:?} is no machine name: take 1 to 32 of a-z, 0-9 and '-', the first a letter"))
        }
    }
}

impl FromStr for MachineName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        MachineName::try_from(s.to_owned())
    }
}

/// A guest's processor architecture, spelled as Nix does in `aarch64-linux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// As in a Nix system name, before the dash.
    pub fn as_str(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// The architecture of the computer this program was built for, where guests of it exist.
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

/// A disk image as the guest sees it. The guest finds disks by their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// A raw image.
    pub path: PathBuf,
    /// The guest cannot write it, and several guests may share it.
    pub read_only: bool,
}

/// A directory of the host, offered over VirtioFS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The tag under which the guest mounts it.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest cannot write it.
    pub read_only: bool,
}

/// Everything a backend needs to boot one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Whose guest it is.
    pub name: MachineName,
    /// The guest's architecture.
    pub arch: Arch,
    /// Virtual processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel: an arm64 `Image`, or an x86 ELF `vmlinux` or `bzImage`.
    pub kernel: PathBuf,
    /// Initial RAM disk, the boot payload already appended.
    pub initrd: PathBuf,
    /// Kernel command line, without the console, which is the backend's to name.
    pub cmdline: String,
    /// In the guest's order.
    pub disks: Vec<Disk>,
    /// VirtioFS shares.
    pub shares: Vec<Share>,
    /// Offer Rosetta to the guest.
    pub rosetta: bool,
    /// A directory of this boot alone, made empty: sockets and whatever else the backend needs.
    pub runtime_dir: PathBuf,
    /// Where the guest's serial console is written.
    pub console_log: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_path_component() {
        for bad in ["", "-x", "Builder", "a/b", "..", "a b", "ä", "1a", &"a".repeat(33)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
        }
        for good in ["builder", "b", "ci-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
    }
}
