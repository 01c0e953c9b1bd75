//! The specification of a machine that a backend boots: plain data, already checked, all paths absolute.

use crate::disks::{Attached, CacheDisk, SystemDisk};
use dvn_types::{Arch, MacAddress, MachineName};
use std::path::PathBuf;

/// A directory of the host, shared over VirtioFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The tag under which the guest mounts it.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest cannot write it.
    pub read_only: bool,
}

/// A network interface, on a separate network behind the host's address (NAT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Unique among the guests of a host.
    pub mac: MacAddress,
}

/// A TCP port of the host's loopback address that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// On the host.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

/// A screen with keyboard and tablet. The guest may choose another size later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// How a guest boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel is booted directly: guests of bundles.
    Linux {
        /// An arm64 `Image`, or an x86 ELF `vmlinux` or `bzImage`.
        kernel: PathBuf,
        /// Initial RAM disk, with the boot payload appended.
        initrd: PathBuf,
        /// Kernel command line without the console, which the backend appends.
        cmdline: String,
        /// The disk that the guest's agent may format. It comes after all others in the guest's order.
        cache: Option<CacheDisk>,
    },
    /// UEFI firmware, which looks for a boot loader on the disks.
    Efi {
        /// The machine's EFI variable store, with its boot entries. The backend creates the file if it is missing.
        variables: PathBuf,
    },
}

/// The devices of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// In the guest's order.
    pub disks: Vec<SystemDisk>,
    /// Network interfaces.
    pub nics: Vec<Nic>,
    /// Ports that lead to the guest by its first network interface.
    pub forwards: Vec<Forward>,
    /// VirtioFS shares.
    pub shares: Vec<Share>,
    /// A screen, or none.
    pub display: Option<Screen>,
    /// A vsock device, for connections between host and guest.
    pub vsock: bool,
    /// Offer Rosetta to the guest.
    pub rosetta: bool,
    /// Let the guest run virtual machines.
    pub nested: bool,
}

/// Everything a backend needs to boot one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// The machine's name.
    pub name: MachineName,
    /// The guest's architecture.
    pub arch: Arch,
    /// Virtual processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// How it boots.
    pub boot: Boot,
    /// Its devices.
    pub devices: Devices,
    /// A directory for this boot only, initially empty, for the backend's sockets and other files.
    pub runtime_dir: PathBuf,
    /// The log file of the guest's serial console.
    pub console_log: PathBuf,
}

impl MachineSpec {
    /// The disks in the guest's order, the builder's data disk last. Backends read disks through this method only.
    pub fn disks(&self) -> impl Iterator<Item = Attached<'_>> {
        let cache = match &self.boot {
            Boot::Linux { cache, .. } => cache.as_ref(),
            Boot::Efi { .. } => None,
        };
        self.devices.disks.iter().map(Attached::from).chain(cache.map(Attached::from))
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
impl MachineSpec {
    /// A minimal valid spec for tests, with nothing to boot.
    pub fn sample() -> MachineSpec {
        MachineSpec {
            name: "builder".parse().unwrap(),
            arch: Arch::X86_64,
            cores: 1,
            memory: 1 << 30,
            boot: Boot::Linux { kernel: "/k".into(), initrd: "/i".into(), cmdline: String::new(), cache: None },
            devices: Devices {
                nics: vec![Nic { mac: "02:00:00:00:00:01".parse().unwrap() }],
                vsock: true,
                ..Devices::default()
            },
            runtime_dir: "/r".into(),
            console_log: "/c".into(),
        }
    }
}
