//! What a backend boots: plain data, already checked, every path absolute.

use dvn_types::{Arch, MacAddress, MachineName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    /// Let the guest run virtual machines.
    pub nested: bool,
    /// Of its network interface. Two guests on one host must differ.
    pub mac: MacAddress,
    /// A directory of this boot alone, made empty: sockets and whatever else the backend needs.
    pub runtime_dir: PathBuf,
    /// Where the guest's serial console is written.
    pub console_log: PathBuf,
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
impl MachineSpec {
    /// One that no test minds, with nothing to boot.
    pub fn sample() -> MachineSpec {
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
