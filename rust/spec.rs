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

/// The address of a guest's network interface: random, unicast and locally administered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A new one.
    pub fn random() -> MacAddress {
        let mut bytes: [u8; 6] = rand::random();
        bytes[0] = bytes[0] & 0xfc | 0x02;
        MacAddress(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for MacAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
            // Every guest of ours has a locally administered unicast address.
            Some(bytes) if bytes[0] & 0x03 == 0x02 => Ok(MacAddress(bytes)),
            _ => Err(format!("{text:?} is no address for a guest's network interface")),
        }
    }
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
    /// Let the guest run virtual machines.
    pub nested: bool,
    /// Of its network interface. Two guests on one host must differ.
    pub mac: MacAddress,
    /// A directory of this boot alone, made empty: sockets and whatever else the backend needs.
    pub runtime_dir: PathBuf,
    /// Where the guest's serial console is written.
    pub console_log: PathBuf,
}

#[cfg(test)]
impl MachineSpec {
    /// One that no test minds, with nothing to boot.
    pub(crate) fn sample() -> MachineSpec {
        MachineSpec {
            name: "builder".parse().unwrap(),
            arch: Arch::X86_64,
            cores: 1,
            memory: 1 << 30,
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: String::new(),
            disks: vec![],
            shares: vec![],
            rosetta: false,
            nested: false,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            runtime_dir: "/r".into(),
            console_log: "/c".into(),
        }
    }
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

    #[test]
    fn a_mac_address_is_random_local_and_survives_being_written() {
        let (one, two) = (MacAddress::random(), MacAddress::random());
        assert_ne!(one, two);
        for mac in [one, two] {
            assert_eq!(mac.0[0] & 0x03, 0x02, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "03:00:00:00:00:00", "00:1b:00:00:00:00"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
